"""``ascend-v4 serve --topology``: one node's part of a deployment."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import LAUNCH_OPTIONS
from .output import print_findings, print_json, print_result
from .planning import host_of

if TYPE_CHECKING:
    from ascend_v4.cluster.deployment import Planned
    from ascend_v4.core.plan import LaunchPlan
    from ascend_v4.host.system import Host
    from ascend_v4.run.launch import Launch
    from ascend_v4.run.lease import Lease

__all__ = ["serve_node"]


def serve_node(ctx: click.Context, dry_run: bool, as_json: bool, options: dict[str, Any]) -> int:
    """Run what a topology puts on one node; return the exit status.

    Raises AscendV4Error for a topology or a combination of options that can't be.
    """
    refuse_launch_options(ctx)
    refuse_beside_lease(options)
    if options["lease"] is None or dry_run:
        return run_node(ctx, dry_run, as_json, options)
    from ascend_v4.run.attend import attended, put_event

    attended()
    try:
        return run_node(ctx, dry_run, as_json, options)
    except AscendV4Error as error:
        put_event("error", **error.to_json())
        raise


def run_node(ctx: click.Context, dry_run: bool, as_json: bool, options: dict[str, Any]) -> int:
    """Run the node's part, or print it; return the exit status."""
    from .serve import launch

    lease = leased(options)
    host = host_of(ctx)
    whole = read(options["topology"], lease, host)
    if lease is not None:
        lease.start()
    plan = chosen(whole, options)
    runtime = runtime_of(ctx, whole, plan, host, dry_run=dry_run)
    from ascend_v4.cluster.deployment import refuse_all

    refuse_all(whole.deployment)
    print_findings(note for note in whole.deployment.findings if note.severity != "info")
    if runtime == "docker":
        from ascend_v4.render.docker import separate_containers

        print_findings(separate_containers(plan))
    if dry_run:
        print_node(plan, host, as_json, runtime)
        return 0
    wanted = wanted_launch(whole, plan, host, runtime, options, lease)
    return launch(plan, host, wanted, as_json, options["detach"])


def refuse_launch_options(ctx: click.Context) -> None:
    """Raise AscendV4Error (usage) for a launch option beside a topology, which holds them all."""
    given = [
        LAUNCH_OPTIONS[name][0].split("/")[0].split()[0]
        for name in LAUNCH_OPTIONS
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE
    ]
    files = any(ctx.get_parameter_source(n) == ParameterSource.DEFAULT_MAP for n in LAUNCH_OPTIONS)
    given += ["--config"] if files else []
    for name in ("allow_unvalidated", "show_origin"):
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            given.append(f"--{name.replace('_', '-')}")
    given += ["-- EXTRA"] if ctx.params["extra"] else []
    if given:
        raise AscendV4Error(
            ExitCode.USAGE,
            "topology-and-options",
            f"a topology says what is launched, so {', '.join(given)} can't stand beside it",
            "put it into the topology: options, or a group's options and extra",
        )


def refuse_beside_lease(options: dict[str, Any]) -> None:
    """Raise AscendV4Error (usage) for what spoils a lease."""
    if options["lease"] is None:
        return
    if options["detach"] or options["restart"] == "on-failure":
        other = "--detach" if options["detach"] else "--restart on-failure"
        raise AscendV4Error(
            ExitCode.USAGE,
            "lease",
            f"--lease and {other} exclude each other: who holds the lease decides",
            "leave one of them out",
        )


def leased(options: dict[str, Any]) -> Lease | None:
    """Return the lease that is asked for."""
    from ascend_v4.run.lease import Lease

    return None if options["lease"] is None else Lease(options["lease"])


def read(path: str, lease: Lease | None, host: Host) -> Planned:
    """Return the deployment in a file, or on stdin for ``-``."""
    from ascend_v4.cluster.deployment import planned
    from ascend_v4.files import read_user_text

    if path != "-":
        return planned(read_user_text(path, "--topology"), path, host)
    text = lease.document() if lease else sys.stdin.read()
    return planned(text, "<stdin>", host)


def chosen(whole: Planned, options: dict[str, Any]) -> LaunchPlan:
    """Return the plan of the node that is meant: the one named, or the only one there is."""
    from ascend_v4.cluster.deployment import node_plan, timed

    nodes = whole.deployment.nodes
    if options["node"] is None and len(nodes) > 1:
        names = ", ".join(planned.node.name for planned in nodes[:10])
        raise AscendV4Error(
            ExitCode.USAGE,
            "which-node",
            f"the topology has {len(nodes)} nodes and none was named: {names}",
            "add --node NAME, or start all: ascend-v4 cluster up -f TOPOLOGY",
        )
    name = options["node"] or nodes[0].node.name
    plan = node_plan(whole.deployment, name)
    return timed(plan, options["drain_timeout"], options["deadline"])


def runtime_of(
    ctx: click.Context, whole: Planned, plan: LaunchPlan, host: Host, *, dry_run: bool
) -> str:
    """Return ``native`` or ``docker``: the option's word, else the topology's."""
    from . import serve

    given = ctx.get_parameter_source("runtime") != ParameterSource.DEFAULT
    asked = ctx.params["runtime"] if given else whole.deployment.topology.runtime
    return serve.runtime_of(asked, plan, host, dry_run=dry_run)


def print_node(plan: LaunchPlan, host: Host, as_json: bool, runtime: str) -> None:
    """Print a node's plan as JSON, or every command of it, ready to paste."""
    from .serve import command_line

    if as_json:
        print_json(plan.to_json())
        return
    for process in plan.processes:
        print_result(f"# {process.name} on {process.node}")
        print_result(command_line(plan, process, host, runtime).rstrip())


def wanted_launch(
    whole: Planned,
    plan: LaunchPlan,
    host: Host,
    runtime: str,
    options: dict[str, Any],
    lease: Lease | None,
) -> Launch:
    """Return how to run the node's processes."""
    from ascend_v4.cluster.deployment import decoders_of, key_file, peers_of, served_model
    from ascend_v4.run.inherit import read_secret

    from .serve import engine_asked, how

    wanted = how(plan, options["ready_check"], runtime, options)
    if options["check_engine"] and runtime == "native":
        wanted = replace(wanted, before=(engine_asked(host),))
    secret = key_file(whole.deployment)
    node = plan.processes[0].node
    return replace(
        wanted,
        options=replace(wanted.options, lease=lease),
        node=node,
        served_model=served_model(whole.deployment),
        key=read_secret(secret) if secret and Path(secret).is_file() else "",
        peers=peers_of(whole.deployment, node),
        decoders=decoders_of(whole.deployment),
        labels={"deployment": whole.deployment.topology.name, "node": node},
    )
