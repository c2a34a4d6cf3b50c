"""What each catalog row must hold. Imported only by the build and the tests."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from ascend_v4.core.conditions import OPERATORS

__all__ = ["TABLES", "Condition", "When"]

Severity = Literal["error", "silent", "risk", "warn", "info"]
Confidence = Literal["stated", "measured", "inferred"]


def check_condition(value: list[Any]) -> list[Any]:
    """Return a condition that is well formed; raises ValueError naming the part that isn't."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"not a condition: {value!r}")
    if value[0] in ("all", "any", "not"):
        if value[0] == "not" and len(value) != 2:
            raise ValueError(f"not takes one condition: {value!r}")
        for part in value[1:]:
            check_condition(part)
    elif len(value) != 3 or value[1] not in OPERATORS:
        raise ValueError(f"not [path, operator, value]: {value!r}")
    return value


#: Nested lists: ["all", c, …], ["any", c, …], ["not", c] or [path, operator, value].
Condition = Annotated[list[Any], AfterValidator(check_condition)]
ENGINES = ("vllm-ascend", "vllm")


class Strict(BaseModel):
    """A row that refuses keys the schema doesn't name."""

    model_config = ConfigDict(extra="forbid")


class Sourced(Strict):
    """A row that says where its fact was read."""

    source: Annotated[str, Field(min_length=8)]
    confidence: Confidence = "stated"

    @field_validator("source")
    @classmethod
    def _public(cls, value: str) -> str:
        """A source is a URL, a public package with file and line, or ``observed <date>``."""
        readable = ("https://", "vllm-ascend ", "vllm ", "modelscope", "observed ", "torch")
        if not value.startswith(readable):
            raise ValueError(f"not a source that a reader can open: {value}")
        return value


class When(Strict):
    """Which launches a row applies to; every key given must hold."""

    engine: Literal["vllm-ascend", "vllm"] | None = None
    since: str | None = None
    until: str | None = None
    versions: list[str] | None = None
    profile: list[str] | None = None
    chip: list[str] | None = None
    checkpoint: list[str] | None = None
    family: list[str] | None = None
    workload: list[str] | None = None
    spec: list[str] | None = None
    role: list[str] | None = None
    topology: list[str] | None = None
    where: Condition | None = None


class Release(Sourced):
    """One published release of an engine, in order of publication."""

    engine: Literal["vllm-ascend", "vllm"]
    version: str
    aliases: list[str] = []
    default: bool = False
    published: str | None = None
    vllm: str
    python: str | None = None
    torch: str | None = None
    torch_npu: str | None = None
    cann: str | None = None
    triton_ascend: str | None = None
    transformers: str | None = None
    hdk: str | None = None
    pip: str | None = None
    images: dict[str, str] = {}
    images_confidence: str | None = None
    chips: dict[str, str] = {}
    checkpoints: dict[str, str] = {}
    capabilities: list[str] = []
    profiles: bool = True
    engine_verified: str | None = None
    notes: list[str] = []
    known_bad: list[dict[str, str]] = []


class Chip(Sourced):
    """A device family, or a GPU type."""

    id: str
    profile: Literal["ascend", "cuda", "cpu"]
    title: str
    aliases: list[str] = []
    variants: list[str] = []
    memory_gib: float | None = None
    devices_per_node: int
    devices_per_card: int = 1
    soc: str | None = None
    capability: str | None = None
    names: list[str] = []
    unsupported: str | None = None
    default_devices: int | None = None
    image_suffix: str | None = None


class Hub(Strict):
    """Where a checkpoint is published."""

    hub: Literal["modelscope", "huggingface"]
    repo: str
    revision: str | None = None


class Checkpoint(Sourced):
    """A published set of weights, or the rehearsal."""

    id: str
    title: str
    family: Literal["flash", "pro", "rehearsal"]
    kind: str
    aliases: dict[str, str] = {}
    hubs: list[Hub] = []
    bytes: int | None = None
    shards: int | None = None
    quantization: str | None = None
    spec: list[str]
    chips: list[str]
    nodes: dict[str, int] = {}
    served_as: str
    since: dict[str, str] = {}
    o_groups: int | None = None
    layers: int | None = None
    experts: int | None = None
    notes: list[str] = []


class Effect(Strict):
    """What a variable does over a range of releases."""

    since: str | None = None
    until: str | None = None
    chips: list[str] | None = None
    effect: Literal["read", "inert", "deprecated", "refused", "ignored"]
    default: Any = None
    values: list[Any] | None = None
    says: str


class Variable(Sourced):
    """An environment variable, a flag or a key of a JSON-valued flag.

    ``on_host``: it names a file of the user's, which a container must be given.
    """

    name: str
    kind: Literal["env", "flag", "additional_config", "json"]
    engine: Literal["vllm-ascend", "vllm", "any"]
    type: str
    meaning: str
    owned: bool = False
    on_host: bool = False
    moved_to: str | None = None
    effects: list[Effect]


class Setting(Sourced):
    """One value that compile states: an option's default, a variable, a flag or a JSON key."""

    id: str
    set: str
    value: Any
    when: When = When()
    reason: str


class Recipe(Sourced):
    """A published launch: a tutorial's command or a CI configuration of a release."""

    id: str
    kind: Literal["recipe", "ci"]
    engine: Literal["vllm-ascend", "vllm"]
    versions: list[str]
    chip: list[str]
    checkpoint: list[str]
    topology: str = "single-node"
    nodes: int = 1
    tp: list[int] | None = None
    dp: list[int] | None = None
    spec: list[str] | None = None
    role: Literal["mixed", "prefill", "decode"] = "mixed"
    launch: dict[str, Any] | None = None


class RouterList(Strict):
    """How a router is told its servers: ``flag`` with one value for each server of a side.

    ``values`` are filled with a server's placement; ``together`` writes the flag once with
    every value behind it, otherwise the flag is repeated for each server.
    """

    flag: str
    side: Literal["prefill", "decode", "mixed"]
    values: list[str]
    together: bool = False


class RouterMetrics(Strict):
    """A router's Prometheus exporter: its usual TCP port, and the arguments that place it."""

    port: int
    argv: list[str]


class Router(Sourced):
    """A program that clients talk to before several servers, and how it is started.

    ``key_variable`` is the variable whose value it sends to the servers as their API key.
    """

    id: str
    kind: Literal["vllm-router", "proxy"]
    when: When = When()
    connectors: list[str]
    argv: list[str]
    key_variable: str | None = None
    metrics: RouterMetrics | None = None
    lists: list[RouterList]
    reason: str


class Grant(Sourced):
    """A capability or limit that a container needs beside its devices, and why."""

    kind: Literal["capability", "ulimit"]
    value: str
    reason: str


class Fabric(Sourced):
    """What a container needs for RDMA to other nodes beside what it needs on its own.

    ``resource`` is an example of what Kubernetes calls an RDMA device, ``risk`` what comes
    of a pod without one.
    """

    device_files: list[str]
    grants: list[Grant]
    reason: str
    risk: str
    resource: str


class Container(Sourced):
    """What a container needs of its host; ``chips`` holds chip ids or a profile's name.

    ``{device}`` is a logical device's id. ``entry`` is a shell text that prepares the
    image's environment and then runs its arguments.
    """

    id: str
    chips: list[str]
    device_files: list[str] = []
    manager_files: list[str] = []
    mounts: list[str] = []
    gpus: bool = False
    shm_gib: int
    entry: str | None = None
    entry_reason: str | None = None
    grants: list[Grant] = []
    fabric: Fabric | None = None
    unprivileged_risk: str | None = None
    privileged_source: str | None = None


class DevicePlugin(Sourced):
    """What Kubernetes calls the devices; ``label_values`` is by chip."""

    id: str
    chips: list[str]
    resource: str
    unit: str
    label: str | None = None
    label_values: dict[str, list[str]] = {}


class Rule(Sourced):
    """A constraint: what it asks, how bad breaking it is, and what to do instead.

    ``covers`` names what would only say the same of a group of a deployment again.
    """

    id: str
    severity: Severity
    applies: When = When()
    condition: Condition
    message: str
    fix: str = ""
    covers: list[str] = []
    engine_checks: Literal["startup", "worker", "runtime", "never"] = "never"
    engine_message: str | None = None
    broken: dict[str, Any] | None = None
    note: str | None = None


class Phase(Sourced):
    """What a line of an engine's log means: a phase begins, a cause, an echo of another's error."""

    id: str
    kind: Literal["phase", "cause", "echo", "lost"]
    pattern: str
    says: str
    order: int = 0
    code: int = 9


TABLES: dict[str, type[BaseModel]] = {
    "releases": Release,
    "chips": Chip,
    "checkpoints": Checkpoint,
    "variables": Variable,
    "choices": Setting,
    "settings": Setting,
    "recipes": Recipe,
    "routers": Router,
    "containers": Container,
    "device_plugins": DevicePlugin,
    "rules": Rule,
    "phases": Phase,
}
