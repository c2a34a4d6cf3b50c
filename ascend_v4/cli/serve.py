"""``ascend-v4 serve``: compile, check, clean the environment, launch, wait, tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option, launch_options, request_of
from .output import never_wait, print_findings, print_json, print_result, status
from .planning import compiled_or_refused, host_of
from .run_options import run_options
from .types import Amount

if TYPE_CHECKING:
    from ascend_v4.core.compiler import Compiled
    from ascend_v4.core.plan import LaunchPlan, Process
    from ascend_v4.core.request import LaunchRequest
    from ascend_v4.engine.precheck import Ask
    from ascend_v4.host.system import Host
    from ascend_v4.run.launch import Launch
    from ascend_v4.run.outcome import Outcome
    from ascend_v4.run.spec import Spec

__all__ = ["command"]

#: Such a node has no API: the head's server takes its requests.
HEADLESS = "its engine has loaded, the head node serves"


@click.command("serve")
@click.option("--dry-run", is_flag=True, help="Print the command (or, with --json, the plan) only.")
@click.option("--show-origin", is_flag=True, help="Say where each value came from.")
@click.option("--topology", metavar="FILE", help="Run one node of a deployment; - for stdin.")
@click.option("--node", metavar="NAME", help="Which node of the topology this is.")
@click.option(
    "--lease",
    type=Amount(min=1),
    metavar="SECONDS",
    help="End without a line on stdin for so long; see docs/cluster.md.",
)
@run_options
@json_option
@launch_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    dry_run: bool,
    show_origin: bool,
    ready_check: str,
    as_json: bool,
    **options: Any,
) -> int:
    """Launch `vllm serve` and wait until it has really generated a token.

    Prints the endpoint on stdout once it serves; the server's log goes to stderr.
    TERM or Ctrl-C drains and stops, a second one stops now; nothing is left behind.
    Arguments after -- go to vllm serve: JSON is merged, other flags replace ours.
    """
    from ascend_v4.host.facts import fill_from_host

    if options["topology"]:
        from .serve_node import serve_node

        return serve_node(ctx, dry_run, as_json, {**options, "ready_check": ready_check})
    refuse_without_topology(options)
    host = host_of(ctx)
    asked = replace(request_of(ctx), ready_check=ready_check, drain_s=options["drain_timeout"])
    request = fill_from_host(asked, host, dry_run=dry_run)
    request = absolute(recognise(request, host), options["runtime"], dry_run=dry_run)
    compiled = compiled_or_refused(request, host)
    tell_fit(compiled, refuse=not (dry_run or request.allow_unvalidated))
    if show_origin:
        tell_origins(compiled, dry_run=dry_run and not as_json)
    runtime = runtime_of(options["runtime"], compiled.plan, host, dry_run=dry_run)
    if dry_run:
        print_plan(compiled.plan, host, as_json, runtime)
        return 0
    wanted = how(compiled.plan, ready_check, runtime, options)
    if options["check_engine"] and runtime == "native":
        wanted = replace(wanted, before=(engine_asked(host),))
    return launch(compiled.plan, host, wanted, as_json, options["detach"])


def refuse_without_topology(options: dict[str, Any]) -> None:
    """Raise AscendV4Error (usage) for what means something only beside --topology."""
    for name in ("node", "lease"):
        if options[name] is not None:
            raise AscendV4Error(
                ExitCode.USAGE,
                "no-topology",
                f"--{name} needs --topology FILE",
                "ascend-v4 serve --topology FILE --node NAME",
            )


def tell_fit(compiled: Compiled, *, refuse: bool) -> None:
    """Say what sizing has to say about the launch.

    Raises AscendV4Error (does not fit) where it can't fit even at the kindest estimate,
    unless ``refuse`` is off.
    """
    from ascend_v4.sizing import fit_check

    found = fit_check(compiled)
    cannot = next((finding for finding in found if finding.severity == "error"), None)
    if cannot and refuse:
        raise AscendV4Error(ExitCode.DOES_NOT_FIT, cannot.id, cannot.message, cannot.fix)
    print_findings(finding for finding in found if finding.severity != "info")


def engine_asked(host: Host) -> Callable[[Spec, Ask], None]:
    """Return a hook that asks the installed engine about a launch before it loads anything."""

    def ask_engine(spec: Spec, ask: Ask) -> None:
        from ascend_v4.engine.precheck import check_engine

        status(check_engine(host, Path(spec.argv[0]), spec.argv[1:], spec.env, ask))

    return ask_engine


def print_plan(plan: LaunchPlan, host: Host, as_json: bool, runtime: str) -> None:
    """Print the plan as JSON, or as the one shell line that runs it."""
    if as_json:
        print_json(plan.to_json())
        return
    print_result(command_line(plan, plan.processes[0], host, runtime))


def command_line(plan: LaunchPlan, process: Process, host: Host, runtime: str) -> str:
    """Return the shell line that runs a process.

    The CPU engine lives in an environment of its own, so its line names the full path.
    """
    from ascend_v4.paths import engine_dir
    from ascend_v4.render.shell import paste

    if runtime == "docker" and process.argv[0] != "vllm-router":
        from ascend_v4.render.docker import docker_line

        return docker_line(plan, process)
    if plan.profile == "cpu" and process.argv[0] == "vllm":
        program = str(engine_dir(host.env, "cpu") / "bin" / "vllm")
        process = replace(process, argv=(program, *process.argv[1:]))
    return paste(process)


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


def absolute(request: LaunchRequest, runtime: str, *, dry_run: bool) -> LaunchRequest:
    """Return the request with a whole path to the weights, where docker may have to mount it."""
    if not request.model_dir or runtime == "native" or (dry_run and runtime != "docker"):
        return request
    return replace(request, model_dir=str(Path(request.model_dir).absolute()))


def fits(chips: list[str], request: LaunchRequest) -> bool:
    """Whether a checkpoint is for the chip or profile of the request."""
    from ascend_v4.catalog.load import catalog

    if request.chip:
        row = catalog().chip(request.chip)
        return row["id"] in chips or row["profile"] in chips
    return request.profile in chips


def runtime_of(asked: str, plan: LaunchPlan, host: Host, *, dry_run: bool) -> str:
    """Return ``native`` or ``docker``.

    ``auto`` is native where the engine is installed or docker is not; docker runs the
    official image where only docker is there. A dry run is about no machine: native.
    Raises AscendV4Error (refused) for a plan that no container can run.
    """
    from ascend_v4.render.docker import refuse_docker

    wanted = asked == "docker" or (asked == "auto" and not dry_run and only_docker(plan, host))
    if wanted and any(process.argv[0] != "vllm-router" for process in plan.processes):
        refuse_docker(plan)
    return "docker" if wanted else "native"


def only_docker(plan: LaunchPlan, host: Host) -> bool:
    """Whether the host has docker and not the engine, and the plan an image."""
    from ascend_v4.engine.locate import find_engine
    from ascend_v4.paths import engine_dir

    if plan.profile == "cpu" or not plan.image or host.which("docker") is None:
        return False
    return find_engine(host, plan.profile, engine_dir(host.env, plan.profile)) is None


def how(plan: LaunchPlan, ready_check: str, runtime: str, options: dict[str, Any]) -> Launch:
    """Return how to run the plan, from the options of the command.

    Raises AscendV4Error (refused) for the answer gate, which this version has not.
    """
    from ascend_v4.run.launch import Launch
    from ascend_v4.run.ready import GATES
    from ascend_v4.run.spec import Options

    if ready_check == "gate" and not GATES:
        raise AscendV4Error(
            ExitCode.REFUSED,
            "no-gate",
            "--ready-check gate: this installation has no answer gate",
            "use --ready-check generate",
        )
    watched = Options(
        deadline_s=options["deadline"] or max(p.deadline_s for p in plan.processes),
        drain_s=max(p.drain_s for p in plan.processes),
        ready_check=ready_check,
        gate=next(iter(GATES.values()), None),
        probe_interval_s=options["probe_interval"],
        probe_timeout_s=options["probe_timeout"],
    )
    return Launch(
        watched,
        options["restart"] == "on-failure",
        options["ready_fd"],
        options["ready_file"],
        runtime,
        say=status,
        tell=print_findings,
    )


def launch(plan: LaunchPlan, host: Host, wanted: Launch, as_json: bool, detach: bool) -> int:
    """Run a plan's server to its end, or start it and leave; return the exit status."""
    from ascend_v4.run.detach import detached
    from ascend_v4.run.launch import prepare

    if detach:
        facts = detached(lambda: prepare(plan, host, wanted))
        if as_json:
            print_json(facts)
        else:
            print_result(facts["run_id"])
            status(f"started; ascend-v4 wait {facts['run_id']} --for ready")
        return 0
    prepared = prepare(plan, host, wanted)

    lease = wanted.options.lease
    if lease is not None:
        lease.tell("started", run_id=prepared.run.run_id)

    def told(seconds: float) -> None:
        facts = {**prepared.facts(), "ready_s": round(seconds, 3)}
        if lease is not None:
            lease.tell("ready", **facts)
        elif as_json:
            print_json(facts)
        else:
            print_result(prepared.endpoint or prepared.run.run_id)
        where = f"{prepared.model} at {prepared.endpoint}" if prepared.endpoint else HEADLESS
        status(f"ready after {seconds:.1f} s: {where}; Ctrl-C stops it [{prepared.run.run_id}]")

    never_wait()
    outcome = prepared.supervise(told)
    if lease is not None:
        lease.close()
    return concluded(outcome, alone=len(plan.processes) == 1)


def concluded(outcome: Outcome, *, alone: bool) -> int:
    """Return a run's exit status; raises the AscendV4Error that it ended with.

    Unless it is ``alone``, the last lines of the member that failed are shown: several
    logs were mixed.
    """
    forget_broken_streams()
    error = outcome.error()
    if error is None:
        return outcome.code
    failure = outcome.failure
    if failure is not None and not (outcome.left or alone):
        status(f"last lines of {failure.member}:")
        for line in failure.tail:
            status(f"  {line}")
    if failure is not None and outcome.unconfirmed:
        status(outcome.unsure().message)
    raise error


def forget_broken_streams() -> None:
    """Point a closed stdout or stderr at nothing, or Python would exit with 120 at the end."""
    import os
    import sys

    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)
