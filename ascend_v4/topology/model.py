"""The topology file, schema 1: nodes, groups of replicas, a router, one model.

Imported only by commands that read a topology: pydantic takes its time.
``docs/topology.schema.json`` is made from these classes.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from typing_extensions import TypedDict

__all__ = [
    "INTERFACE",
    "LINE",
    "NAME",
    "Group",
    "Node",
    "Options",
    "Router",
    "Topology",
    "json_schema",
]

#: Ranks, replicas and devices beyond any cluster: a slip of the keyboard, not a plan to make.
MOST = 65536
#: One line of text: a line break would begin another line of a unit, a script or an env file.
LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
#: What Linux calls network interfaces, and no shell or env file reads otherwise.
INTERFACE = r"^[A-Za-z0-9_.-]{0,15}$"
#: Names become file, container, unit and Kubernetes names, so they follow RFC 1123.
NAME = r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$"
Name = Annotated[str, Field(pattern=NAME)]
Line = Annotated[str, Field(pattern=LINE)]
Count = Annotated[int, Field(ge=1, le=MOST, strict=True)]
PortNumber = Annotated[int, Field(ge=1, le=65535, strict=True)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]


class LaunchOptions(TypedDict, total=False):
    """Launch options of a group, by snake-case name; dashes are taken too.

    What the topology itself decides (addresses, ports, devices, release, model) has its
    own keys.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    workload: Literal["latency", "throughput", "long-context"]
    context: Positive
    concurrency: Positive
    spec: Literal["none", "mtp", "dspark"]
    prefix_caching: Annotated[bool, Field(strict=True)]
    fused_mc2: Annotated[bool, Field(strict=True)]
    tensor_parallel_size: Count
    data_parallel_size: Count
    max_num_seqs: Positive
    max_num_batched_tokens: Positive
    block_size: Positive
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)]
    served_model_name: Line
    api_key_file: Line


def with_underscores(options: Any) -> Any:
    """Return options with the dashes of their names as underscores."""
    if not isinstance(options, dict):
        return options
    return {str(name).replace("-", "_"): value for name, value in options.items()}


Options = Annotated[LaunchOptions, BeforeValidator(with_underscores)]


def number_as_text(value: Any) -> Any:
    """Return a number as the text that an environment holds; anything else as it is."""
    return str(value) if type(value) in (int, float) else value


#: Variables of the environment.
Env = dict[
    Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")],
    Annotated[
        str,
        BeforeValidator(number_as_text),
        Field(pattern=LINE),
        WithJsonSchema({"type": ["string", "number"], "pattern": LINE}),
    ],
]


class Strict(BaseModel):
    """Refuses keys that the schema doesn't have; immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Node(Strict):
    """One machine. ``devices`` counts logical devices (dies on A3), all of them by default."""

    name: Name
    address: Annotated[Line, Field(min_length=1, description="IP address on the data network")]
    chip: Line | None = Field(
        default=None, description="chip of this node, the topology's by default"
    )
    devices: Count | None = None
    interface: Annotated[str, Field(pattern=INTERFACE)] = Field(
        default="", description="interface of the address, such as enp67s0"
    )
    connect: Line | None = Field(
        default=None,
        description="how `cluster` reaches the node: an ssh destination (user@host), `local`, or"
        " a command to prefix (`exec: …`); the address over ssh by default",
    )


class Group(Strict):
    """Replicas of one role. ``nodes`` are dealt out to the replicas in order, evenly."""

    name: Name
    role: Literal["mixed", "prefill", "decode"] = "mixed"
    nodes: Annotated[list[Name], Field(min_length=1)]
    replicas: Count = 1
    data_parallel_size: Count | None = None
    tensor_parallel_size: Count | None = None
    load_balancing: Literal["internal", "hybrid", "external"] | None = None
    devices: Count | None = Field(
        default=None, description="logical devices of each node for this group, all by default"
    )
    first_device: Annotated[int, Field(ge=0, le=MOST, strict=True)] = 0
    port: PortNumber | None = None
    options: Options = Field(
        default_factory=lambda: LaunchOptions(),
        description="launch options of this group: max_num_seqs, context, …",
    )
    extra: list[Line] = Field(default_factory=list, description="arguments after --, as on serve")
    env: Env = Field(
        default_factory=dict,
        description="variables of this group's servers, over those of all",
    )


class KvPool(Strict):
    """Where the replicas keep KV that all of them may read, beside what moves to decode."""

    backend: Literal["mooncake", "memcache"] = "mooncake"


class Router(Strict):
    """What clients talk to: vllm-router, the proxy of the engine's image, or nothing."""

    kind: Literal["auto", "vllm-router", "proxy", "none"] = "auto"
    node: Name | None = Field(default=None, description="the first node by default")
    host: Line = Field(default="127.0.0.1", description="address to listen on")
    port: PortNumber = 8000
    metrics_port: PortNumber | None = Field(
        default=None, description="Prometheus port of vllm-router; 29000 by default"
    )
    extra: list[Line] = Field(default_factory=list, description="arguments added to the router's")


class Topology(Strict):
    """One deployment. ``options`` are the launch options that all groups share."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: Name
    profile: Literal["ascend", "cuda", "cpu"] | None = None
    chip: Line | None = None
    engine_version: Line | None = None
    image: Line | None = Field(
        default=None, description="ubuntu or openeuler: the official one; or NAME:TAG of another"
    )
    runtime: Literal["native", "docker", "auto"] = "native"
    model: Line = "flash"
    model_dir: Line | None = Field(
        default=None, description="directory of the weights on every node"
    )
    connector: Line | None = Field(default=None, description="KV connector of prefill and decode")
    kv_pool: KvPool | None = Field(default=None, description="KV that all replicas share")
    options: Options = Field(default_factory=lambda: LaunchOptions())
    env: Env = Field(default_factory=dict, description="variables of every server: NAME: value")
    allow_unvalidated: Annotated[bool, Field(strict=True)] = False
    nodes: Annotated[list[Node], Field(min_length=1)]
    groups: Annotated[list[Group], Field(min_length=1)]
    router: Router = Field(default_factory=lambda: Router())

    def node(self, name: str) -> Node:
        """Return a node by name; raises KeyError."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def env_of(self, group: Group) -> dict[str, str]:
        """Return the variables that the file states for a group's servers."""
        return {**self.env, **group.env}

    @property
    def disaggregated(self) -> bool:
        """Whether prefill and decode run apart."""
        return any(group.role != "mixed" for group in self.groups)


def json_schema() -> str:
    """Return the JSON Schema of a topology file as text."""
    return json.dumps(Topology.model_json_schema(by_alias=True), indent=2) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
