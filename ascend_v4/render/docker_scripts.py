"""A topology as one script of ``docker run`` for each node.

The servers of a node share one container, as in the published launches: the driver
numbers a container's devices anew, and ranks in separate containers may not reach each
other's memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from ascend_v4.core.finding import Finding
from ascend_v4.core.plan import LaunchPlan, Process
from ascend_v4.topology.deployment import Deployment, NodePlan

from .bash import entry_of, grace_of, secret_parts
from .common import ROUTER_PACKAGE, argv_lines, flag_reason, header, quote, quoted, reason
from .docker import (
    container_env,
    container_of,
    counted,
    device_options,
    fabric_reason,
    merged_needs,
    needs_of,
    refuse_docker,
    unprivileged,
)
from .fabric import needs_fabric
from .script import Entry, Part, script
from .targets import RenderOptions

__all__ = ["notes", "render"]

#: Where the script of a node with several servers is mounted.
INNER = "/run/ascend-v4.sh"


def notes(deployment: Deployment, options: RenderOptions) -> list[Finding]:
    """Return what to say about containers that are not privileged."""
    return [] if options.privileged else unprivileged(deployment)


def on_host(process: Process) -> bool:
    """Whether a process runs beside docker: vllm-router is a package, not an image."""
    return process.argv[0] == "vllm-router"


@dataclass(frozen=True)
class Asked:
    """What is the same for every node, found once."""

    privileged: bool
    fabric: bool
    notes: tuple[str, ...]


def docker_options(
    deployment: Deployment, plan: LaunchPlan, inside: list[Process], asked: Asked
) -> list[Part]:
    """Return docker's own options for a node's container, without image and environment."""
    needs = merged_needs(
        [needs_of(plan, p, privileged=asked.privileged, fabric=asked.fabric) for p in inside]
    )
    words = ["--rm", "--init", "--network host"]
    parts = [Part((word,)) for word in words]
    parts.append(Part(("--name", quote(container_name(deployment, inside)))))
    flags = device_options(needs, None)
    why = dict.fromkeys(needs.fabric, fabric_reason(plan))
    pairs = [flags[n : n + 2] for n in range(0, len(flags), 2)]
    parts += [Part(quoted(pair), why.get(pair[1], "")) for pair in pairs]
    if asked.privileged:
        parts.append(Part(("--privileged",), "asked for with --privileged"))
    return [*parts, Part(("--volume", quote(f"{plan.model_path}:{plan.model_path}:ro")))]


def container_name(deployment: Deployment, inside: list[Process]) -> str:
    """Return the name of a node's container."""
    return container_of(deployment.topology.name, inside[0].node)


def removal(deployment: Deployment, inside: list[Process]) -> tuple[str, ...]:
    """Return the command that takes a node's container away, whatever state it is in."""
    name = quote(container_name(deployment, inside))
    return ("timeout", "30", "docker", "rm", "--force", name)


def one_server(deployment: Deployment, plan: LaunchPlan, process: Process, asked: Asked) -> Entry:
    """Return the ``docker run`` of a node's only server, its whole command in sight."""
    before = docker_options(deployment, plan, [process], asked)
    before += [
        Part(("--env", quote(f"{name}={value}")), reason(deployment, process, f"env.{name}"))
        for name, value in container_env(process, process.devices).items()
    ]
    before += [Part(("--env", name), "its value is docker's own") for name in process.secret_env]
    program, *flags = argv_lines(process)
    after = [Part((plan.image,)), *inner_start(plan, process), Part(quoted(program))]
    after += [Part(quoted(words), flag_reason(deployment, process, words)) for words in flags]
    entry = needs_of(plan, process).entry
    shell = "/bin/bash" if entry else "env" if process.unset else program[0]
    if shell == program[0]:
        after[1:2] = [Part(quoted(program[1:]))] if program[1:] else []
    return Entry(
        name=process.name,
        group=deployment.group_of(process),
        program=("docker", "run"),
        secrets=secret_parts(process),
        sections=((*before, Part(("--entrypoint", shell))), tuple(after)),
        note=f"{process.name}: {process.role}",
        removal=removal(deployment, [process]),
    )


def inner_start(plan: LaunchPlan, process: Process) -> list[Part]:
    """Return what prepares the environment inside the container, before the program."""
    entry = needs_of(plan, process).entry
    parts = [Part(("-c", quote(entry), "ascend-v4"), "CANN's paths")] if entry else []
    rows = [process.unset[n : n + 3] for n in range(0, len(process.unset), 3)]
    if not rows:
        return parts
    if entry:
        parts.append(Part(("env",), "set by nothing in this plan; the image's would spoil it"))
    return [*parts, *(Part(tuple(f"-u {name}" for name in row)) for row in rows)]


def several_servers(
    deployment: Deployment, plan: LaunchPlan, inside: list[Process], asked: Asked
) -> Entry:
    """Return the ``docker run`` of a node whose servers share a container."""
    node = inside[0].node
    before = docker_options(deployment, plan, inside, asked)
    before.append(Part((f'--volume "$here/{node}.inner.sh:{INNER}:ro"',)))
    files = sorted({path for process in inside for path in process.secret_env.values()})
    before += [
        Part(("--volume", quote(f"{path}:{path}:ro")), "the secret stays a file") for path in files
    ]
    entry = needs_of(plan, inside[0]).entry
    after = [Part((plan.image,))]
    if entry:
        after.append(Part(("-c", quote(entry), "ascend-v4", "/bin/bash"), "CANN's paths"))
    return Entry(
        name=node,
        group=node,
        program=("docker", "run"),
        sections=((*before, Part(("--entrypoint", "/bin/bash"))), (*after, Part((INNER,)))),
        note=f"{len(inside)} processes: {', '.join(process.name for process in inside)}",
        removal=removal(deployment, inside),
    )


def node_files(deployment: Deployment, planned: NodePlan, asked: Asked) -> dict[str, str]:
    """Return the scripts of one node."""
    plan, name = planned.plan, planned.node.name
    inside = [process for process in plan.processes if not on_host(process)]
    outside = [process for process in plan.processes if on_host(process)]
    if inside:
        refuse_docker(plan)
    top = [
        f"Run on node {name} ({planned.node.address}), every node's script at once: bash {name}.sh",
        *asked.notes,
    ]
    if outside:
        top.append(f"The router runs beside docker: pip install {ROUTER_PACKAGE}")
    entries, files = [entry_of(deployment, process) for process in outside], {}
    if len(inside) == 1:
        entries = [one_server(deployment, plan, inside[0], asked), *entries]
    elif inside:
        entries = [several_servers(deployment, plan, inside, asked), *entries]
        inner = header(deployment, "docker", f"Runs inside the container that {name}.sh starts.")
        inner_entries = [entry_of(deployment, process) for process in counted(inside)]
        files[f"{name}.inner.sh"] = script(inner, inner_entries, grace_of(inside))
    # The text of -c expands inside the container, not here.
    prepare = ["# shellcheck disable=SC2016", 'here=$(cd "$(dirname "$0")" && pwd)']
    outer_grace = grace_of(plan.processes) + (5 if files else 0)
    text = script(
        header(deployment, "docker", *top),
        entries,
        outer_grace,
        prepare=prepare[: 2 if files else 1],
    )
    return {f"{name}.sh": text, **files}


def render(deployment: Deployment, options: RenderOptions) -> dict[str, str]:
    """Return ``<node>.sh`` for each node, ``<node>.inner.sh`` where it has several servers."""
    said = (f"{n.severity}: {n.message} ({n.source})" for n in notes(deployment, options))
    asked = Asked(options.privileged, needs_fabric(deployment), tuple(said))
    files: dict[str, str] = {}
    for planned in deployment.nodes:
        files |= node_files(deployment, planned, asked)
    return files
