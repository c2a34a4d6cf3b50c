"""``ascend-v4 topology``: start, check and show the description of a deployment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option, launch_options, request_of
from .output import print_json, print_result, print_table, status
from .planning import host_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ascend_v4.core.finding import Finding
    from ascend_v4.core.plan import Port
    from ascend_v4.topology.check import Checked
    from ascend_v4.topology.deployment import Deployment
    from ascend_v4.topology.init import Start

__all__ = ["command"]

#: How many nodes the table of `check` shows; `show` shows all.
SHOWN = 24


class Subcommands(click.Group):
    """A group whose error for an unknown word names the subcommands."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the subcommand, or say which there are."""
        if args and args[0] not in self.commands:
            from ascend_v4.catalog.load import nearest

            names = list(self.commands)
            hint = nearest(args[0], names) or f"there are {', '.join(names)}"
            raise click.UsageError(f"No such subcommand '{args[0]}'; {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group("topology", cls=Subcommands)
def command() -> None:
    """Describe a deployment over several nodes in one file."""


@command.command("shapes")
@json_option
def shapes(as_json: bool) -> None:
    """List the published deployments that init starts from."""
    from ascend_v4.catalog.load import catalog

    rows = catalog().table("shapes")
    if as_json:
        print_json(rows)
        return
    cells = [
        (row["id"], row["chip"], "/".join(map(str, row["nodes"])), row["title"]) for row in rows
    ]
    print_table(("SHAPE", "CHIP", "NODES", "WHAT"), cells)


@command.command("init")
@launch_options
@click.option("--shape", default="", help="Published deployment to start from: topology shapes.")
@click.option("--node", "named", multiple=True, metavar="NAME=ADDRESS", help="A node; repeat it.")
@click.option("--interface", default="", help="Network interface of the nodes, as enp67s0.")
@click.option("--connector", default="", help="KV connector, where the shape leaves a choice.")
@click.option("--name", default="", help="Name of the deployment; the shape's by default.")
@click.option("-o", "--output", metavar="FILE", help="Write there instead of to stdout.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@json_option
@click.pass_context
def init(
    ctx: click.Context,
    /,
    shape: str,
    named: tuple[str, ...],
    interface: str,
    connector: str,
    name: str,
    output: str | None,
    force: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Write a commented topology file of a published shape.

    Without --node it has --nodes nodes whose addresses are yours to fill in.
    """
    from dataclasses import replace

    from ascend_v4.topology.init import Start

    request = request_of(ctx)
    start = Start(
        shape,
        replace(request, nodes=None),
        name,
        tuple(pair_of(word) for word in named),
        request.nodes or 0,
        interface,
        connector,
    )
    text = validated_text(start, output or "<stdout>")
    if output is None:
        print_json({"topology": text}) if as_json else print_result(text)
        return
    write_new(output, text, force)
    if as_json:
        print_json({"file": output})
    else:
        status(f"{output} written; next: ascend-v4 topology check {output}")


def pair_of(word: str) -> tuple[str, str]:
    """Return a node's name and address; raises UsageError for a word that isn't both."""
    name, equals, address = word.partition("=")
    if not (name and equals and address):
        raise click.UsageError(f"--node takes NAME=ADDRESS, not '{word}'")
    return name, address


def validated_text(start: Start, name: str) -> str:
    """Return the text of a start, with the word for unpublished layouts where it needs it."""
    from dataclasses import replace

    from ascend_v4.catalog.load import catalog
    from ascend_v4.topology.check import check_topology
    from ascend_v4.topology.init import start_text
    from ascend_v4.topology.read import parse_topology

    text = start_text(start, catalog())
    checked = check_topology(parse_topology(text, name), catalog())
    if any(note.id == "unvalidated" and note.severity == "error" for note in checked.findings):
        return start_text(replace(start, allow_unvalidated=True), catalog())
    return text


def write_new(path: str, text: str, force: bool) -> None:
    """Write a file that isn't there; raises AscendV4Error (usage) where it is or can't be."""
    try:
        with Path(path).open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise AscendV4Error(
            ExitCode.USAGE, "file-exists", f"{path} is there already", "--force overwrites it"
        ) from error
    except OSError as error:
        raise AscendV4Error(
            ExitCode.USAGE,
            "unwritable-file",
            f"{path} can't be written: {error.strerror}",
            f"ls -ld {Path(path).parent}",
        ) from error


@command.command("check")
@click.argument("file", metavar="FILE|-")
@json_option
@click.pass_context
def check(ctx: click.Context, file: str, as_json: bool) -> int:
    """Judge a deployment as a whole, before a byte of weights is loaded.

    Exits 2 for a file that is no topology, 3 where a rule refuses it, 5 where it cannot fit.
    """
    checked = checked_file(ctx, file, as_json)
    if as_json:
        print_json(checked_json(checked))
    else:
        if checked.deployment is not None:
            print_nodes(checked.deployment, SHOWN)
            print_result(f"endpoint: {checked.deployment.endpoint}")
        print_result("\n".join(told(checked.findings)) or "no findings")
    return verdict(checked)


@command.command("show")
@click.argument("file", metavar="FILE|-")
@json_option
@click.pass_context
def show(ctx: click.Context, file: str, as_json: bool) -> int:
    """Show every process with its node, ranks, devices and ports."""
    checked = checked_file(ctx, file, as_json)
    if as_json:
        print_json(checked_json(checked))
    elif checked.deployment is not None:
        print_processes(checked.deployment)
    else:
        print_result("\n".join(told(checked.findings)))
    return verdict(checked)


def checked_file(ctx: click.Context, file: str, as_json: bool) -> Checked:
    """Return a checked file; with ``--json`` the findings of a bad one go to stdout too."""
    from ascend_v4.catalog.load import catalog
    from ascend_v4.paths import models_dir
    from ascend_v4.topology.check import check_topology
    from ascend_v4.topology.read import TopologyError, read_topology

    try:
        models = str(models_dir(host_of(ctx).env))
        return check_topology(read_topology(file), catalog(), models)
    except TopologyError as error:
        if as_json:
            print_json({"schema": 1, "findings": [found.to_json() for found in error.findings]})
        raise


def checked_json(checked: Checked) -> dict[str, Any]:
    """Return a checked topology as JSON: the deployment, or its findings alone."""
    if checked.deployment is not None:
        return checked.deployment.to_json()
    return {"schema": 1, "findings": [found.to_json() for found in checked.findings]}


def verdict(checked: Checked) -> int:
    """Return the exit status: 3 where a rule refuses the deployment, 5 where memory does."""
    from ascend_v4.topology.check import verdict

    return int(verdict(checked.findings))


def told(findings: Sequence[Finding]) -> list[str]:
    """Return the lines of findings, as `lint` prints them."""
    from .lint import finding_lines

    return [line for found in findings for line in finding_lines(found)]


def print_nodes(deployment: Deployment, shown: int) -> None:
    """Print a line for each node: its processes, devices and ports."""
    rows = []
    for planned in deployment.nodes[:shown]:
        processes = planned.plan.processes
        devices = sorted({device for process in processes for device in process.devices})
        ports = [port for process in processes for port in process.ports]
        roles = [process.role for process in processes]
        counted = [f"{roles.count(role)} {role}" for role in dict.fromkeys(roles)]
        rows.append(
            (
                planned.node.name,
                planned.node.address,
                ", ".join(counted),
                ranges(devices),
                said(ports),
            )
        )
    print_table(("NODE", "ADDRESS", "PROCESSES", "DEVICES", "PORTS"), rows)
    more = len(deployment.nodes) - len(rows)
    if more > 0:
        print_result(f"… and {more} more nodes; ascend-v4 topology show lists every process")


def print_processes(deployment: Deployment) -> None:
    """Print a line for each process."""
    rows = [
        (
            process.name,
            node.name,
            process.role,
            ranges(sorted(process.devices)),
            said(process.ports),
        )
        for node, process in deployment.processes()
    ]
    print_table(("PROCESS", "NODE", "ROLE", "DEVICES", "PORTS"), rows)


def said(ports: Sequence[Port]) -> str:
    """Return ports as text: ranges with both ends, neighbours joined."""
    numbers = {
        number
        for port in ports
        for first, last in [port.reserved_range or (port.port, port.port)]
        for number in range(first, last + 1)
    }
    return ranges(sorted(numbers))


def ranges(numbers: Sequence[int]) -> str:
    """Return sorted numbers as ``0-3,8``; ``-`` for none."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in parts) or "-"
