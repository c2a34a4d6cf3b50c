"""What each row about whole deployments must hold: rules, reserved ports, shapes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from .schema import Condition, Severity, Sourced, Strict, When

__all__ = ["TOPOLOGY_TABLES"]

Subject = Literal[
    "topology", "node", "member", "group", "flag", "variable", "overlap",
    "layout", "pair", "replica", "port", "asked-port", "memory", "pool", "router", "path",
]  # fmt: skip


class DeploymentRule(Sourced):
    """A constraint on a deployment as a whole: one subject at a time, by its facts.

    ``subject`` says over what the code walks and so which facts there are
    (``ascend_v4.topology.subjects``); ``at`` is the key of the subject whose line is shown.
    ``stops`` marks what makes planning meaningless; ``together`` makes one finding of
    every subject that breaks the rule, with ``{count}`` and ``{names}``; ``covers`` names
    rules of single processes that would say the same again.
    """

    id: str
    subject: Subject
    severity: Severity
    applies: When = When()
    condition: Condition
    at: str = ""
    stops: bool = False
    together: bool = False
    covers: list[str] = Field(default_factory=list)
    message: str
    fix: str
    note: str | None = None


class Connector(Sourced):
    """A KV connector that one engine has, from release ``since`` to ``until``; ``id`` names it."""

    id: str
    engine: Literal["vllm-ascend", "vllm"]
    since: str | None = None
    until: str | None = None


class ReservedPorts(Sourced):
    """TCP ports of a node that something else takes: ``first`` and as many as follow from it.

    ``count`` ports and ``per_device`` for each logical device of the node.
    """

    id: str
    profile: list[str]
    first: int
    count: int = 0
    per_device: int = 0
    says: str


class ShapeGroup(Strict):
    """A group of a shape; ``nodes`` counts machines, 0 stands for all that are given.

    ``shares`` names a group whose nodes it is on; ``data_parallel_per_node`` follows the nodes
    where they may vary, and 0 there the devices.
    """

    name: str
    role: Literal["mixed", "prefill", "decode"] = "mixed"
    nodes: int = 1
    shares: str | None = None
    replicas: int = 1
    data_parallel_size: int | None = None
    data_parallel_per_node: int | None = None
    tensor_parallel_size: int | None = None
    load_balancing: Literal["internal", "hybrid", "external"] | None = None
    devices: int | None = None
    first_device: int = 0
    extra: list[str] = Field(default_factory=list)
    reason: str


class ShapeVariable(Strict):
    """A variable that the servers of a shape need; ``reason`` is the comment above it."""

    name: str
    value: str
    reason: str


class Shape(Sourced):
    """A published deployment that ``topology init`` starts a file from."""

    id: str
    aliases: list[str] = Field(default_factory=list)
    title: str
    chip: str
    chips: list[str] = Field(default_factory=list)
    model: str
    engine_version: str | None = None
    connector: str | None = None
    connectors: list[str] = Field(default_factory=list)
    nodes: list[int]
    options: dict[str, Any] = Field(default_factory=dict)
    kv_pool: dict[str, str] | None = None
    env: list[ShapeVariable] = Field(default_factory=list)
    groups: list[ShapeGroup]


TOPOLOGY_TABLES: dict[str, type[BaseModel]] = {
    "deployment_rules": DeploymentRule,
    "connectors": Connector,
    "reserved_ports": ReservedPorts,
    "shapes": Shape,
}
