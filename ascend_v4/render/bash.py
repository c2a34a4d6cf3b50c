"""A topology as one bash script for each node, to run where the engine is installed."""

from __future__ import annotations

from ascend_v4.core.plan import Process
from ascend_v4.topology.deployment import Deployment, NodePlan

from .common import argv_lines, flag_reason, group_label, header, quote, quoted, reason
from .script import Entry, Part, script
from .targets import RenderOptions

__all__ = ["entry_of", "grace_of", "render", "secret_parts"]

#: Seconds between the end of draining and the end of everything.
MARGIN_S = 15


def grace_of(processes: tuple[Process, ...] | list[Process]) -> int:
    """Return how many seconds a node's processes get to end, above the longest drain."""
    return max(process.drain_s for process in processes) + MARGIN_S


def secret_parts(process: Process) -> tuple[Part, ...]:
    """Return each secret as a variable that is read from its file when the script runs."""
    return tuple(
        Part((f'"$(cat {quote(path)})"',), name=name) for name, path in process.secret_env.items()
    )


def entry_of(deployment: Deployment, process: Process) -> Entry:
    """Return a process for the script, every word quoted."""
    program, *flags = argv_lines(process)
    where = f" on devices {', '.join(map(str, process.devices))}" if process.devices else ""
    return Entry(
        name=process.name,
        group=group_label(deployment, process),
        program=quoted(program),
        env=tuple(
            Part((quote(value),), reason(deployment, process, f"env.{name}"), name)
            for name, value in process.env.items()
        ),
        unset=process.unset,
        secrets=secret_parts(process),
        sections=(
            tuple(Part(quoted(words), flag_reason(deployment, process, words)) for words in flags),
        ),
        note=f"{process.name}: {process.role}{where}",
    )


def node_text(deployment: Deployment, planned: NodePlan) -> str:
    """Return the script of one node."""
    processes = planned.plan.processes
    top = header(
        deployment,
        "bash",
        f"Run on node {planned.node.name} ({planned.node.address}), every node's script at once:"
        f" bash {planned.node.name}.sh",
        "LOG_DIR=/var/log/ascend-v4 gives each process a log file of its own there.",
    )
    entries = [entry_of(deployment, process) for process in processes]
    return script(top, entries, grace_of(processes))


def render(deployment: Deployment, options: RenderOptions) -> dict[str, str]:
    """Return ``<node>.sh`` for each node."""
    return {
        f"{planned.node.name}.sh": node_text(deployment, planned) for planned in deployment.nodes
    }
