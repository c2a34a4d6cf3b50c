"""``ascend-v4 doctor``: whether this host can serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import json_option, launch_options, request_of
from .output import print_json, print_result, status
from .planning import host_of

__all__ = ["command"]


@click.command("doctor")
@click.option("--fix-script", is_flag=True, help="Print the fixes as a shell script.")
@click.option(
    "--bundle",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT.TGZ",
    help="Collect what support needs, secrets masked.",
)
@click.option("--peer", "peers", multiple=True, metavar="ADDRESS", help="Another node, by address.")
@click.option(
    "--npu-peer", "npu_peers", multiple=True, metavar="ADDRESS", help="An NPU of another node."
)
@click.option(
    "--tool-timeout",
    type=click.FloatRange(0.1, 60),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest call of npu-smi or hccn_tool.",
)
@click.option("--verbose", "-v", is_flag=True, help="Show all evidence.")
@json_option
@launch_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    fix_script: bool,
    bundle: Path | None,
    peers: tuple[str, ...],
    npu_peers: tuple[str, ...],
    tool_timeout: float,
    verbose: bool,
    as_json: bool,
    **_options: Any,
) -> int:
    """Check whether this host can serve, before anything is loaded.

    Looks at devices, driver, container, network, ports and the engine's versions; starts
    and changes nothing. Exits 0 when ready, 6 not ready, 7 busy, 3 unsupported.
    """
    from ascend_v4.doctor.examine import examine
    from ascend_v4.doctor.report import fix_script as script
    from ascend_v4.doctor.report import text_report

    report = examine(
        host_of(ctx), request_of(ctx), peers=peers, npu_peers=npu_peers, tool_s=tool_timeout
    )
    if bundle is not None:
        from ascend_v4.doctor.bundle import write_bundle

        write_bundle(report, bundle, status)
    if as_json:
        print_json(report.to_json())
    elif fix_script:
        print_result(script(report))
    else:
        print_result(text_report(report, verbose))
    return int(report.exit_code)
