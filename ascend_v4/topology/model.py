"""The topology file, schema 1: nodes, groups of replicas, a router, one model.

Imported only by commands that read a topology: pydantic takes its time.
``docs/topology.schema.json`` is made from these classes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Group", "Node", "Router", "Topology"]

#: Names become file, container, unit and Kubernetes names, so they follow RFC 1123.
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$")]
PortNumber = Annotated[int, Field(ge=1, le=65535)]
Positive = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """Refuses keys that the schema doesn't have; immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Node(Strict):
    """One machine. ``devices`` counts logical devices (dies on A3), all of them by default."""

    name: Name
    address: Annotated[str, Field(min_length=1, description="IP address on the data network")]
    chip: str | None = Field(
        default=None, description="chip of this node, the topology's by default"
    )
    devices: Positive | None = None
    interface: str = Field(default="", description="interface of the address, such as enp67s0")
    connect: str | None = Field(
        default=None,
        description="how `cluster` reaches the node: an ssh destination (user@host), `local`, or"
        " a command to prefix (`exec: …`); the address over ssh by default",
    )


class Group(Strict):
    """Replicas of one role. ``nodes`` are dealt out to the replicas in order, evenly."""

    name: Name
    role: Literal["mixed", "prefill", "decode"] = "mixed"
    nodes: Annotated[list[Name], Field(min_length=1)]
    replicas: Positive = 1
    data_parallel_size: Positive | None = None
    tensor_parallel_size: Positive | None = None
    load_balancing: Literal["internal", "hybrid", "external"] | None = None
    devices: Positive | None = Field(
        default=None, description="logical devices of each node for this group, all by default"
    )
    first_device: Annotated[int, Field(ge=0)] = 0
    port: PortNumber | None = None
    options: dict[str, Any] = Field(
        default_factory=dict, description="launch options of this group: max_num_seqs, context, …"
    )
    extra: list[str] = Field(default_factory=list, description="arguments after --, as on serve")


class Router(Strict):
    """What clients talk to: vllm-router, the proxy of the engine's image, or nothing."""

    kind: Literal["auto", "vllm-router", "proxy", "none"] = "auto"
    node: Name | None = Field(default=None, description="the first node by default")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: PortNumber = 8000
    extra: list[str] = Field(default_factory=list, description="arguments added to the router's")


class Topology(Strict):
    """One deployment. ``options`` are the shared launch options, by snake-case name."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: Name
    profile: Literal["ascend", "cuda", "cpu"] | None = None
    chip: str | None = None
    engine_version: str | None = None
    image: str | None = None
    runtime: Literal["native", "docker", "auto"] = "native"
    model: str = "flash"
    model_dir: str | None = Field(
        default=None, description="directory of the weights on every node"
    )
    connector: str | None = Field(default=None, description="KV connector of prefill and decode")
    options: dict[str, Any] = Field(default_factory=dict)
    allow_unvalidated: bool = False
    nodes: Annotated[list[Node], Field(min_length=1)]
    groups: Annotated[list[Group], Field(min_length=1)]
    router: Router = Field(default_factory=lambda: Router())

    def node(self, name: str) -> Node:
        """Return a node by name; raises KeyError."""
        return self._by_name()[name]

    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @property
    def disaggregated(self) -> bool:
        """Whether prefill and decode run apart."""
        return any(group.role != "mixed" for group in self.groups)
