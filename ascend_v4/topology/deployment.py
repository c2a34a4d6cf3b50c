"""A planned deployment: one launch plan for each node, and what was found wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ascend_v4.core.finding import Finding
from ascend_v4.core.plan import LaunchPlan, Process

if TYPE_CHECKING:
    from ascend_v4.catalog.load import Row

    from .model import Node, Topology

__all__ = ["Deployment", "NodePlan"]


@dataclass(frozen=True)
class NodePlan:
    """What runs on one node; ``plan.processes`` are this node's only, the router included."""

    node: Node
    plan: LaunchPlan


@dataclass(frozen=True)
class Deployment:
    """Every node's plan. ``endpoint`` is the base URL clients use, without ``/v1``.

    ``rows`` says which catalog row stated each value, by group and path (``env.NAME``,
    ``flag.name``): what renderers quote as reasons. ``findings`` are those of the whole;
    each plan's own notes stay with the plan. ``open_router`` tells that the router answers
    clients that send no key.
    """

    topology: Topology
    nodes: tuple[NodePlan, ...]
    endpoint: str
    findings: tuple[Finding, ...] = ()
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)
    open_router: bool = False

    def node_plan(self, name: str) -> NodePlan:
        """Return the plan of a node; raises KeyError for a node that runs nothing."""
        for planned in self.nodes:
            if planned.node.name == name:
                return planned
        raise KeyError(name)

    def processes(self) -> list[tuple[Node, Process]]:
        """Return every process with its node, in the order of the file, router last."""
        return list(self._processes)

    @cached_property
    def _processes(self) -> list[tuple[Node, Process]]:
        pairs = [
            (planned.node, process) for planned in self.nodes for process in planned.plan.processes
        ]
        return sorted(pairs, key=lambda pair: pair[1].role == "router")

    def router(self) -> tuple[Node, Process] | None:
        """Return the router with its node, if there is one."""
        last = self._processes[-1:]
        return next((pair for pair in last if pair[1].role == "router"), None)

    def group_of(self, process: Process) -> str:
        """Return the name of the group that a server process belongs to."""
        return next((name for name in self._groups if process.name.startswith(f"{name}-")), "")

    @cached_property
    def _groups(self) -> list[str]:
        return sorted((g.name for g in self.topology.groups), key=len, reverse=True)

    @cached_property
    def flag_rows(self) -> dict[tuple[str, str], list[tuple[str, Row]]]:
        """Return the rows behind each flag by group and flag, each with its key.

        The key is that inside a JSON-valued flag, ``""`` for the flag itself.
        """
        found: dict[tuple[str, str], list[tuple[str, Row]]] = {}
        for group, rows in self.rows.items():
            for path, row in rows.items():
                kind, _, rest = path.partition(".")
                name, _, key = rest.partition(".")
                if kind == "flag":
                    found.setdefault((group, name), []).append((key, row))
        return found

    def notes(self) -> list[Finding]:
        """Return the whole's findings and every plan's notes, each once.

        A finding of the whole that took over a plan's note with its lines stands for it.
        """
        return list(self._notes)

    @cached_property
    def _notes(self) -> list[Finding]:
        every = [*self.findings, *(note for planned in self.nodes for note in planned.plan.notes)]
        once: dict[tuple[str, str], Finding] = {}
        for note in every:
            once.setdefault((note.id, note.message), note)
        return list(once.values())

    def to_json(self) -> dict[str, Any]:
        """Return the deployment as JSON: a LaunchPlan, schema 1, for each node."""
        return {
            "schema": 1,
            "name": self.topology.name,
            "endpoint": self.endpoint,
            "nodes": [
                {
                    "name": planned.node.name,
                    "address": planned.node.address,
                    "plan": planned.plan.to_json(),
                }
                for planned in self.nodes
            ],
            "findings": [finding.to_json() for finding in self.findings],
        }
