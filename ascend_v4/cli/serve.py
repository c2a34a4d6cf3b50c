"""``ascend-v4 serve``: compile, check, clean the environment, launch, wait, tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option, launch_options, request_of
from .output import print_findings, print_json, print_result, status
from .planning import compiled_or_refused, host_of

if TYPE_CHECKING:
    from ascend_v4.core.compiler import Compiled
    from ascend_v4.core.plan import LaunchPlan, Process
    from ascend_v4.core.request import LaunchRequest
    from ascend_v4.host.system import Host

__all__ = ["command"]


@click.command("serve")
@click.option("--dry-run", is_flag=True, help="Print the command (or, with --json, the plan) only.")
@click.option("--show-origin", is_flag=True, help="Say where each value came from.")
@click.option(
    "--deadline",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="Longest start (30 min, Pro 60 min).",
)
@click.option(
    "--ready-check",
    type=click.Choice(["none", "generate"]),
    default="generate",
    show_default=True,
    help="Ready when it listens, or when it has generated a token.",
)
@json_option
@launch_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    dry_run: bool,
    show_origin: bool,
    deadline: float | None,
    ready_check: str,
    as_json: bool,
    **_options: Any,
) -> int:
    """Launch `vllm serve` and wait until it has really generated a token.

    Prints the endpoint on stdout once it serves; the server's log goes to stderr.
    Arguments after -- go to vllm serve: JSON is merged, other flags replace ours.
    """
    from ascend_v4.host.facts import fill_from_host

    host = host_of(ctx)
    asked = replace(request_of(ctx), ready_check=ready_check)
    request = fill_from_host(asked, host, dry_run=dry_run)
    request = recognise(request, host)
    compiled = compiled_or_refused(request, host)
    if show_origin:
        tell_origins(compiled, dry_run=dry_run and not as_json)
    if dry_run:
        print_plan(compiled.plan, host, as_json)
        return 0
    return launch(compiled.plan, host, deadline, as_json)


def print_plan(plan: LaunchPlan, host: Host, as_json: bool) -> None:
    """Print the plan as JSON, or as the one shell line that runs it.

    The CPU engine lives in an environment of its own, so its line names the full path.
    """
    from ascend_v4.paths import engine_dir
    from ascend_v4.render.shell import paste

    if as_json:
        print_json(plan.to_json())
        return
    process = plan.processes[0]
    if plan.profile == "cpu":
        program = str(engine_dir(host.env, "cpu") / "bin" / "vllm")
        process = replace(process, argv=(program, *process.argv[1:]))
    print_result(paste(process))


def tell_origins(compiled: Compiled, *, dry_run: bool) -> None:
    """Say where each option came from: comments above a dry run's command, else on stderr."""
    from ascend_v4.core.request import OPTION_NAMES

    for name in OPTION_NAMES:
        value = compiled.facts.get(name)
        if value is not None:
            line = f"# {name} = {value} ({compiled.plan.origins.get(name, 'profile')})"
            print_result(line) if dry_run else status(line)


def recognise(request: LaunchRequest, host: Host) -> LaunchRequest:
    """Return the request with the model that ``--model-dir`` holds, where none was named."""
    if request.model or not request.model_dir or not Path(request.model_dir).is_dir():
        return request
    from ascend_v4.catalog.load import catalog
    from ascend_v4.weights.kind import checkpoint_of

    found = checkpoint_of(request.model_dir)
    row = catalog().checkpoint(found) if found else None
    if row is None or not fits(row["chips"], request):
        return request
    return replace(request, model=found, origins={**request.origins, "model": "directory"})


def fits(chips: list[str], request: LaunchRequest) -> bool:
    """Whether a checkpoint is for the chip or profile of the request."""
    from ascend_v4.catalog.load import catalog

    if request.chip:
        row = catalog().chip(request.chip)
        return row["id"] in chips or row["profile"] in chips
    return request.profile in chips


def launch(plan: LaunchPlan, host: Host, deadline: float | None, as_json: bool) -> int:
    """Run a plan's server to its end; return the exit status."""
    from ascend_v4.run.inherit import clean_environment, jemalloc
    from ascend_v4.run.ready import ReadyProbe
    from ascend_v4.run.server import Server, supervise

    process = plan.processes[0]
    program = find_program(plan, host)
    check_weights(plan)
    check_port(process, host)
    env, dropped = clean_environment(host.env, process)
    print_findings(dropped)
    if plan.profile == "ascend" and (preloaded := jemalloc(host, env)):
        status(f"preloading {preloaded}")
    assert process.ready is not None
    served = process.argv[process.argv.index("--served-model-name") + 1]
    probe = ReadyProbe(process.ready.url, served, env.get("VLLM_API_KEY", ""))
    status(f"starting {plan.engine} {plan.engine_version}: {program} serve {plan.model_path}")
    server = Server([program, *process.argv[1:]], env)

    def told(seconds: float) -> None:
        endpoint = f"{probe.url}/v1"
        if as_json:
            print_json({"endpoint": endpoint, "model": served, "ready_s": round(seconds, 3)})
        else:
            print_result(endpoint)
        status(f"ready after {seconds:.1f} s: {served} at {endpoint}; Ctrl-C stops it")

    return supervise(
        server,
        probe if process.ready.check == "generate" else None,
        deadline or process.deadline_s,
        process.drain_s,
        told,
    )


def check_weights(plan: LaunchPlan) -> None:
    """Raise AscendV4Error unless the directory holds the checkpoint of the plan.

    The rehearsal checkpoint is built here when it is missing.
    """
    from ascend_v4.weights.kind import checkpoint_of, require_directory

    if plan.checkpoint == "rehearsal" and not Path(plan.model_path).exists():
        from ascend_v4.rehearsal.build import build_rehearsal

        status(f"building the rehearsal checkpoint in {plan.model_path}")
        build_rehearsal(Path(plan.model_path))
    require_directory(plan.model_path, download_command(plan))
    found = checkpoint_of(plan.model_path)
    if found not in (None, plan.checkpoint):
        raise AscendV4Error(
            ExitCode.WEIGHTS_WRONG_KIND,
            "wrong-weights",
            f"{plan.model_path} holds {found}, and this launch is for {plan.checkpoint}"
            + why_wrong(str(found), plan),
            download_command(plan),
        )


def why_wrong(found: str, plan: LaunchPlan) -> str:
    """Return why the weights found can't be served on the chip, where that is known."""
    if plan.profile == "ascend" and plan.chip[:2] in ("a2", "a3") and found.endswith("fp4"):
        return f"; {plan.chip.upper()} can't serve the FP8/FP4 original (vllm-ascend issue 12675)"
    return ""


def download_command(plan: LaunchPlan) -> str:
    """Return the command that fetches a plan's weights to where it looks for them."""
    model = plan.model_id
    return f"ascend-v4 download --profile {plan.profile} --model {model} --dir {plan.model_path}"


def find_program(plan: LaunchPlan, host: Host) -> str:
    """Return the full path of the engine; raises AscendV4Error (host not ready) without one."""
    from ascend_v4.engine.locate import find_engine
    from ascend_v4.paths import engine_dir

    program = find_engine(host, plan.profile, engine_dir(host.env, plan.profile))
    if program is None:
        where = (
            "ascend-v4 engine install --profile cpu"
            if plan.profile == "cpu"
            else f"run inside the image {plan.image}, or pip install 'ascend-v4[{plan.profile}]'"
        )
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "no-engine",
            f"the engine {plan.engine} is not installed: no `vllm` on PATH and none of ours",
            where,
        )
    return str(program)


def check_port(process: Process, host: Host) -> None:
    """Raise AscendV4Error (busy), naming the holder, if a port of the process is taken."""
    from ascend_v4.host.ports import holder_of_port, port_free

    address = process.argv[process.argv.index("--host") + 1]
    for wanted in process.ports:
        if port_free(address, wanted.port):
            continue
        holder = holder_of_port(host, wanted.port)
        who = f"{holder.name} (pid {holder.pid})" if holder and holder.pid else "another process"
        raise AscendV4Error(
            ExitCode.BUSY,
            "port-in-use",
            f"port {wanted.port} ({wanted.use}) is held by {who}",
            f"stop it, or choose another: --port {wanted.port + 1}",
        )
