"""``ascend-v4 cluster``: a deployment over several nodes, started and stopped as one."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option
from .output import never_wait, print_findings, print_json, print_result, print_table, status
from .planning import host_of
from .types import Amount

if TYPE_CHECKING:
    from ascend_v4.cluster.coordinator import Coordinated, Up
    from ascend_v4.cluster.deployment import Planned
    from ascend_v4.cluster.ways import Way
    from ascend_v4.host.system import Host
    from ascend_v4.run.state import RunDir

__all__ = ["command"]

Command = TypeVar("Command", bound=Callable[..., Any])
#: Options of ``serve`` that every node gets as they are given here.
PASSED: list[tuple[str, dict[str, Any]]] = [
    ("--runtime", {"type": click.Choice(["native", "docker", "auto"])}),
    ("--ready-check", {"type": click.Choice(["none", "generate", "gate"])}),
    ("--probe-interval", {"type": Amount(min=0), "metavar": "SECONDS"}),
    ("--probe-timeout", {"type": Amount(min=0.1), "metavar": "SECONDS"}),
]


@click.group("cluster")
def command() -> None:
    """Run a deployment over several nodes from here, over ssh or a command of yours."""


def topology_option(function: Command) -> Command:
    """Add ``--file`` and ``--program`` to a command."""
    function = click.option(
        "--program",
        default="ascend-v4",
        show_default=True,
        envvar="ASCEND_V4_PROGRAM",
        metavar="PATH",
        help="Where ascend-v4 is on the nodes.",
    )(function)
    return click.option(
        "-f", "--file", required=True, metavar="FILE", help="The topology; - for stdin."
    )(function)


def passed_options(function: Command) -> Command:
    """Add the options that are handed on to every node's ``serve``."""
    for name, settings in reversed(PASSED):
        function = click.option(name, help="As for serve, on every node.", **settings)(function)
    return function


@command.command("up")
@topology_option
@click.option("--dry-run", is_flag=True, help="Print each node's commands, start nothing.")
@click.option("--detach", is_flag=True, help="Start in the background and print the run id.")
@click.option("--skip-preflight", is_flag=True, help="Don't ask the nodes about themselves first.")
@click.option(
    "--lease",
    type=Amount(min=3),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a node lives on without a word from here.",
)
@click.option(
    "--deadline",
    type=Amount(min=1),
    metavar="SECONDS",
    help="Longest start of a node (30 min, Pro 60 min).",
)
@click.option(
    "--drain-timeout",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="How long running requests may finish (60).",
)
@click.option("--check-engine/--no-check-engine", default=True, help="As for serve, on every node.")
@click.option("--ready-fd", type=int, metavar="FD", help="Write one line there when ready.")
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A file that exists while it serves.",
)
@passed_options
@json_option
@click.pass_context
def up(ctx: click.Context, /, file: str, dry_run: bool, as_json: bool, **options: Any) -> int:
    """Start every node's part and stay until the deployment ends or a signal comes.

    Prints the endpoint once every node is ready and a token came through it. TERM or
    Ctrl-C drains on all nodes, a second one stops now; the first failure stops all.
    """
    from ascend_v4.cluster.deployment import refuse_all

    host = host_of(ctx)
    whole = read(file, host)
    wanted = how(options)
    refuse_all(whole.deployment)
    print_findings(note for note in whole.deployment.findings if note.severity != "info")
    if dry_run:
        print_commands(whole, host, wanted, as_json)
        return 0
    prepare = partial(prepared, whole, host, wanted, options)
    return launch(prepare, as_json, options["detach"])


def prepared(whole: Planned, host: Host, wanted: Up, options: dict[str, Any]) -> Coordinated:
    """Return the deployment's run with all its nodes asked about themselves."""
    from ascend_v4.cluster.coordinator import coordinate
    from ascend_v4.cluster.preflight import preflight

    def ask() -> None:
        count = len(whole.deployment.nodes)
        status(f"asking {count} {'node' if count == 1 else 'nodes'} about themselves")
        print_findings(preflight(whole, host, wanted.program, options["runtime"]))

    if options["skip_preflight"]:
        return coordinate(whole, host, wanted)
    return coordinate(whole, host, wanted, ask)


def read(file: str, host: Host) -> Planned:
    """Return the deployment in a file, or on stdin for ``-``."""
    import sys

    from ascend_v4.cluster.deployment import planned
    from ascend_v4.files import read_user_text

    if file == "-":
        return planned(sys.stdin.read(), "<stdin>", host)
    return planned(read_user_text(file, "--file"), file, host)


def how(options: dict[str, Any]) -> Up:
    """Return how to run the deployment, from the options of the command."""
    from ascend_v4.cluster.coordinator import Up

    passed: list[str] = []
    for name, _ in PASSED:
        value = options[name.lstrip("-").replace("-", "_")]
        if value is not None:
            passed += [name, f"{value:g}" if isinstance(value, float) else str(value)]
    passed += [] if options["check_engine"] else ["--no-check-engine"]
    return Up(
        options["lease"],
        options["deadline"],
        options["drain_timeout"],
        tuple(passed),
        options["program"],
        options["ready_fd"],
        options["ready_file"],
    )


def print_commands(whole: Planned, host: Host, wanted: Up, as_json: bool) -> None:
    """Print how each node is reached, and what it then runs, ready to paste there."""
    from ascend_v4.cluster.coordinator import node_command
    from ascend_v4.cluster.deployment import timed
    from ascend_v4.cluster.ways import way_of

    from .serve import command_line

    asked = whole.deployment.topology.runtime
    runtime = "docker" if "docker" in (*wanted.passed, asked) else "native"
    rows: list[dict[str, Any]] = []
    for planned in whole.deployment.nodes:
        way = way_of(planned.node, host, wanted.program)
        runs = {
            process.name: command_line(planned.plan, process, host, runtime).rstrip()
            for process in timed(planned.plan, wanted.drain_s, wanted.deadline_s).processes
        }
        argv = way.argv(*node_command(wanted, planned.node.name))
        rows.append({"node": planned.node.name, "argv": argv, "processes": runs})
    if as_json:
        print_json({"endpoint": f"{whole.deployment.endpoint}/v1", "nodes": rows})
        return
    for row in rows:
        print_result(f"## {row['node']}: the topology and heartbeats go to the stdin of")
        print_result(shlex.join(row["argv"]))
        for name, line in row["processes"].items():
            print_result(f"# which there runs {name}:\n{line}")


def launch(prepare: Callable[[], Coordinated], as_json: bool, detach: bool) -> int:
    """Run the deployment to its end, or start it and leave; return the exit status."""
    from ascend_v4.run.detach import detached

    from .serve import concluded

    if detach:
        facts = detached(prepare)
        print_json(facts) if as_json else print_result(facts["run_id"])
        status(f"started; ascend-v4 wait {facts['run_id']} --for ready")
        return 0
    made = prepare()

    def told(seconds: float) -> None:
        if as_json:
            print_json({**made.facts(), "ready_s": round(seconds, 3)})
        else:
            print_result(made.endpoint)
        where = f"{len(made.specs)} nodes at {made.endpoint}"
        status(f"ready after {seconds:.1f} s: {where}; Ctrl-C stops all [{made.run.run_id}]")

    never_wait()
    return concluded(made.supervise(told), alone=len(made.specs) == 1)


def ways(whole: Planned, host: Host, program: str) -> list[Way]:
    """Return the way to every node of the deployment."""
    from ascend_v4.cluster.ways import way_of

    return [way_of(planned.node, host, program) for planned in whole.deployment.nodes]


def coordinator(whole: Planned, host: Host) -> RunDir | None:
    """Return the run of this user that coordinates the deployment, or did so last."""
    from ascend_v4.cluster.direct import coordinator_of
    from ascend_v4.run.state import all_runs

    return coordinator_of(all_runs(host.env), whole.deployment.topology.name)


@command.command("down")
@topology_option
@click.option("--now", is_flag=True, help="Without a drain.")
@click.option("--timeout", type=Amount(min=0), default=3600.0, metavar="SECONDS")
@json_option
@click.pass_context
def down(
    ctx: click.Context, file: str, program: str, now: bool, timeout: float, as_json: bool
) -> None:
    """Drain and stop the deployment on every node; twice is as good as once.

    Where its coordinator is gone, or could not hear a node's end, the nodes are asked.
    """
    from ascend_v4.cluster.direct import refuse_another, stop_on_nodes, way_out
    from ascend_v4.run.control import stop
    from ascend_v4.run.state import all_runs

    host = host_of(ctx)
    runs = all_runs(host.env)
    try:
        whole = read(file, host)
    except AscendV4Error as error:
        error.next = way_out(runs) or error.next
        raise
    name = whole.deployment.topology.name
    run = coordinator(whole, host)
    left, asked = [], ways(whole, host, program)
    if run is not None and run.alive():
        left = stop(run, now=now, timeout_s=timeout, say=status)
        asked = [] if left else unheard(run, asked)
    else:
        refuse_another(name, runs, host)
    if asked:
        stop_on_nodes(asked, name, host, now=now)
    if left:
        late = run is not None and run.alive()
        raise AscendV4Error(
            ExitCode.NOT_READY_IN_TIME if late else ExitCode.NOT_CLEANED_UP,
            "timeout" if late else "not-stopped",
            f"{name} still runs: {', '.join(proc['title'] for proc in left)}",
            f"ascend-v4 cluster down -f {file} --now",
        )
    status(f"{name} is stopped")
    if as_json:
        print_json({"deployment": name, "stopped": True})


def unheard(run: RunDir, asked: list[Way]) -> list[Way]:
    """Return the ways to the nodes whose end a coordinator that is over did not hear."""
    end = run.read("exit")
    if not end:
        # One that was still asking the nodes about themselves is gone without a trace.
        return asked if run.path.exists() else []
    names = {one["node"] for one in end.get("unconfirmed", [])}
    found = [way for way in asked if way.node in names]
    for way in found:
        status(f"node {way.node} did not tell its end; asking it")
    return found


@command.command("status")
@topology_option
@json_option
@click.pass_context
def status_command(ctx: click.Context, file: str, program: str, as_json: bool) -> None:
    """Show the deployment's state and each node's."""
    from ascend_v4.cluster.direct import seen_on_nodes, state_of
    from ascend_v4.run.control import look

    host = host_of(ctx)
    whole = read(file, host)
    name = whole.deployment.topology.name
    run = coordinator(whole, host)
    seen: dict[str, Any] = {"deployment": name, "state": "down", "run_id": "", "endpoint": ""}
    if run is not None:
        looked = look(run)
        seen |= {key: looked[key] for key in ("state", "run_id", "endpoint", "exit")}
    alive = run is not None and run.alive()
    if alive and run is not None:
        seen["nodes"] = run.read("state").get("nodes", [])
    else:
        seen["nodes"] = seen_on_nodes(ways(whole, host, program), name, host)
        if any(node["state"] not in ("down", "unreachable") for node in seen["nodes"]):
            # What runs there is not what an earlier coordinator had.
            seen |= {"state": "", "run_id": "", "endpoint": "", "exit": None}
        seen["state"] = state_of(seen["nodes"], seen["state"])
        if seen["state"] == "ready":
            seen["endpoint"] = f"{whole.deployment.endpoint}/v1"
    if as_json:
        print_json(seen)
        return
    print_result(f"{name}  {seen['state']}  {seen['endpoint']}  {seen['run_id']}".rstrip())
    failure = (seen.get("exit") or {}).get("failure")
    if failure:
        print_result(f"  {failure['message']} (exit code {seen['exit']['code']})")
    rows = [(n["name"], n["state"], n["run_id"], n.get("why", "")) for n in seen["nodes"]]
    print_table(("NODE", "STATE", "RUN THERE", ""), rows)


@command.command("logs")
@topology_option
@click.option("--node", help="Only this node.")
@click.option("--follow", is_flag=True, help="Go on until the deployment ends.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True)
@json_option
@click.pass_context
def logs(ctx: click.Context, /, file: str, as_json: bool, **options: Any) -> None:
    """Print the end of every node's log, as the coordinator keeps them."""
    from .logs import command as logs_command

    host = host_of(ctx)
    whole = read(file, host)
    run = coordinator(whole, host)
    if run is None:
        raise AscendV4Error(
            ExitCode.USAGE,
            "no-run",
            f"this user has no run of {whole.deployment.topology.name}",
            f"ascend-v4 cluster up -f {file}",
        )
    ctx.invoke(
        logs_command,
        run_id=run.run_id,
        follow=options["follow"],
        member=options["node"],
        lines=options["lines"],
        as_json=as_json,
    )


@command.command("facts", hidden=True)
@topology_option
@click.option("--node", required=True)
@click.option("--runtime")
@click.pass_context
def facts(ctx: click.Context, file: str, program: str, node: str, runtime: str | None) -> None:
    """Print what this node tells about itself before a start, as one JSON line."""
    import json

    from ascend_v4.cluster.deployment import node_plan
    from ascend_v4.cluster.preflight import node_facts

    from .serve import runtime_of

    host = host_of(ctx)
    deployment = read(file, host).deployment
    plan = node_plan(deployment, node)
    chosen = runtime_of(runtime or deployment.topology.runtime, plan, host, dry_run=False)
    print_result(json.dumps(node_facts(plan, host, chosen)))
