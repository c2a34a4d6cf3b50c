"""What ``plan`` does besides: compare releases, compare models, scale, read a startup log."""

from __future__ import annotations

import datetime
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option, launch_options, request_of
from .output import print_json, print_result, print_table, status
from .plan_hardware import MEMORY, count_and_chip, described
from .planning import host_of

if TYPE_CHECKING:
    from ascend_v4.core.request import LaunchRequest

__all__ = ["MORE", "calibrate"]

HARDWARE = click.option("--hardware", metavar="NxCHIP|host", help="2xa3 (nodes), 4xh200 (devices).")


@click.command("compare-releases")
@click.argument("first")
@click.argument("second")
@HARDWARE
@MEMORY
@json_option
@launch_options
@click.pass_context
def compare_releases(
    ctx: click.Context,
    /,
    first: str,
    second: str,
    hardware: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Say what changing from release FIRST to SECOND does to the same launch."""
    from ascend_v4.sizing.compare import compare_releases as compare

    from .plan import sized_launch

    request = described(ctx, replace(request_of(ctx), engine_version=first), hardware)
    _compiled, sized = sized_launch(ctx, request, options)
    # The profile's own choice depends on the release; what was asked stays as asked.
    said = compare(sized.input, first, second)
    if as_json:
        print_json(said)
        return 0
    print_result(said["says"])
    rows = [
        (
            row["version"],
            row["verdict"],
            f"{row['in_flight_tokens']:,}",
            f"{row['bytes_per_block']:,}",
            f"{row['blocks_per_request']:,}",
            f"{row['gib_per_request']:.2f}",
            " to ".join(f"{value:.2f}" for value in row["max_concurrency"] or ()),
        )
        for row in said["releases"]
    ]
    header = ("release", "verdict", "in flight", "B/block", "blocks", "GiB/request", "at once")
    print_table(header, rows)
    return 0


@click.command("compare-models")
@HARDWARE
@MEMORY
@json_option
@launch_options
@click.pass_context
def compare_models(
    ctx: click.Context, /, hardware: str | None, as_json: bool, **options: Any
) -> int:
    """Put the models that people weigh side by side on the same hardware."""
    from ascend_v4.sizing.compare import compare_models as compare

    from .plan import sized_launch

    request = described(ctx, request_of(ctx), hardware)
    _compiled, sized = sized_launch(ctx, request, options)
    rows = compare(sized.input)
    if as_json:
        print_json({"models": rows})
        return 0
    cells = [model_cells(row) for row in rows]
    print_table(
        ("model", "verdict", "layout", "context", "at once", "active/total", "licence"), cells
    )
    status("models other than DeepSeek-V4: general formulas, bf16 weights split over all devices")
    return 0


def model_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a model's line as cells."""
    known = "tensor_parallel_size" in row
    active = f"{row['active_billion']:g}" if row.get("active_billion") else "?"
    total = f"{row['total_billion']:g}B" if row.get("total_billion") else "?"
    layout = f"TP{row['tensor_parallel_size']} x DP{row['data_parallel_size']}" if known else "-"
    held = " to ".join(f"{value:.1f}" for value in row["concurrency"]) if known else "-"
    context = f"{row['context']:,}" if known else "-"
    return (
        row["title"],
        row["verdict"],
        layout,
        context,
        held,
        f"{active}/{total}",
        row["licence"],
    )


@click.command("scale")
@click.option("--hardware", required=True, metavar="NxCHIP", help="The chip to scale on, as 1xa3.")
@click.option("--model", default="flash", show_default=True, help="flash or pro.")
@click.option("--rps", type=click.FloatRange(min=0, min_open=True), required=True)
@click.option("--input", "tokens_in", type=click.IntRange(min=1), required=True)
@click.option("--output", "tokens_out", type=click.IntRange(min=1), required=True)
@click.option(
    "--tpot-ms", type=click.FloatRange(min=0, min_open=True), help="Time per token to keep."
)
@click.option("--prefix-percent", type=click.IntRange(0, 100), default=0, show_default=True)
@json_option
def scale(
    hardware: str,
    model: str,
    rps: float,
    tokens_in: int,
    tokens_out: int,
    tpot_ms: float | None,
    prefix_percent: int,
    as_json: bool,
) -> int:
    """Say how many nodes a load needs and in which prefill to decode ratio.

    Only from published measurements near the asked lengths; exits 16 without one.
    """
    from ascend_v4.catalog.load import catalog
    from ascend_v4.sizing.throughput import scale as sized

    name = count_and_chip(hardware)[1] if hardware[:1].isdigit() else hardware
    chip = str(catalog().chip(name)["id"])
    if not math.isfinite(rps):
        raise click.BadParameter(f"{rps} is no rate", param_hint="--rps")
    row = catalog().checkpoint(model)
    family = str(row["family"]) if row else model
    if family not in ("flash", "pro"):
        raise AscendV4Error(
            ExitCode.USAGE,
            "unknown-model",
            f"'{model}' is not flash, pro or an id of them",
            "ascend-v4 profiles --models",
        )
    said = sized(family, chip, rps, (tokens_in, tokens_out), tpot_ms, prefix_percent)
    if as_json:
        print_json(said)
    elif said["status"] == "no anchor":
        print_result(f"no anchor: nothing published for {family} on {chip} near these lengths")
        for known in said["known"]:
            print_result(
                f"  published: {known.get('input_tokens')} in, {known.get('output_tokens')} out, "
                f"{known['devices']} devices ({known['id']})"
            )
    else:
        print_scale(said["options"])
    return 0 if said["status"] == "anchor" else int(ExitCode.UNSURE)


def print_scale(options: list[dict[str, Any]]) -> None:
    """Print the ways to serve a load, fewest nodes first."""
    for option in options:
        low, high = option["nodes"]
        nodes = f"{low}" if low == high else f"{low} to {high}"
        ratio = option["prefill_to_decode"]
        split = f", prefill to decode {ratio} in each {option['unit_nodes']} nodes" if ratio else ""
        target = option["tpot_target_ms"]
        slo = f", TPOT target {target} ms" if target else ""
        print_result(
            f"{nodes} nodes{split}: each unit measured {option['measured_requests_s']:g} "
            f"requests/s at {option['concurrency']} at once{slo} "
            f"({option['anchor']}, {option['source']})"
        )


def calibrate(
    ctx: click.Context, request: LaunchRequest, path: str, options: dict[str, Any], as_json: bool
) -> int:
    """Compare a startup log with the plan of the same launch and save what it teaches."""
    from ascend_v4.files import read_user_text
    from ascend_v4.sizing.calibration import save_calibration
    from ascend_v4.sizing.fromlog import calibration_row, comparison, options_of, read_startup

    from .plan import sized_launch

    startup = read_startup(read_user_text(path, "--from-log"))
    stated = {k: v for k, v in options_of(startup).items() if getattr(request, k) is None}
    version = startup.plugin if startup.plugin else startup.version
    if request.engine_version is None and version:
        stated["engine_version"] = version
    _compiled, sized = sized_launch(ctx, replace(request, **stated), options)
    rows = comparison(startup, sized)
    today = datetime.date.today().isoformat()
    row = calibration_row(startup, sized, path, today)
    saved = str(save_calibration(host_of(ctx).env, dict(row))) if row else None
    if as_json:
        print_json({"lines": rows, "calibration": row, "saved": saved, "read": startup.figures})
        return 0
    print_table(("what", "predicted", "log", "error"), [compared(line) for line in rows])
    if saved:
        print_result(f"saved: other memory {row['other_gib'] if row else 0:.2f} GiB in {saved}")
    else:
        status("nothing saved: a calibration needs the chip, the weights and the available KV")
    return 0


def compared(line: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return a compared line as cells."""
    low, high = line["predicted"]
    said = f"{low:,g}" if low == high else f"{low:,g} to {high:,g}"
    log = "not in the log" if line["log"] is None else f"{line['log']:,g}"
    if line["error"] is not None:
        return line["what"], said, log, f"{line['error']:+.2%}"
    verdict = {None: "-", True: "inside", False: "outside"}[line["inside"]]
    return line["what"], said, log, verdict


MORE: dict[str, click.Command] = {
    "compare-releases": compare_releases,
    "compare-models": compare_models,
    "scale": scale,
}
