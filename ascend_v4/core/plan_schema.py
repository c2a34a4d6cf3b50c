"""The launch plan's JSON form as pydantic models: the edge where plans are read back.

The hot path writes plans with plain dataclasses; whoever reads one (a test, a saved
run, another program) validates it here. ``python -m ascend_v4.core.plan_schema`` prints
the JSON Schema that ``docs/launch-plan.schema.json`` holds.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["PlanModel", "json_schema"]

TcpPort = Annotated[int, Field(ge=1, le=65535)]


class Strict(BaseModel):
    """An object that refuses keys it doesn't name."""

    model_config = ConfigDict(extra="forbid")


class EvidenceModel(Strict):
    """Where a finding was seen."""

    file: str
    line: int
    text: str


class FindingModel(Strict):
    """One thing worth saying about a plan."""

    id: str
    severity: Literal["error", "silent", "risk", "warn", "info"]
    message: str
    evidence: list[EvidenceModel]
    fix: str
    source: str
    confidence: Literal["stated", "measured", "inferred"]
    since: str | None
    until: str | None


class EngineModel(Strict):
    """The engine, its release and its official image (empty where there is none)."""

    name: Literal["vllm-ascend", "vllm"]
    version: str
    image: str


class ModelModel(Strict):
    """The model: what was asked for, where it lies, which checkpoint it is."""

    id: str
    path: str
    checkpoint: str


class ValidatedModel(Strict):
    """Whether the launch was published, and where; for ``unvalidated`` why not."""

    status: Literal["recipe", "ci", "unvalidated"]
    source: str


class SecretModel(Strict):
    """The file that a secret is read from at launch."""

    file: str


class PortModel(Strict):
    """A TCP port that a process uses; the reserved range is inclusive."""

    port: TcpPort
    use: str
    reserved_range: tuple[int, int] | None


class ReadyModel(Strict):
    """How to know that a process serves."""

    url: str
    check: Literal["none", "generate", "gate"]


class ProcessModel(Strict):
    """One process; argv[0] is the program, times are seconds."""

    name: str
    role: Literal["mixed", "prefill", "decode", "router", "headless"]
    node: str
    env: dict[str, str]
    unset: list[str]
    secret_env: dict[str, SecretModel]
    argv: Annotated[list[str], Field(min_length=1)]
    devices: list[int]
    ports: list[PortModel]
    ready: ReadyModel | None
    starts_after: list[str]
    deadline_s: int
    drain_s: int


class PlanModel(Strict):
    """A launch plan, schema 1."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    profile: Literal["ascend", "cuda", "cpu"]
    engine: EngineModel
    chip: str
    model: ModelModel
    validated: ValidatedModel
    processes: Annotated[list[ProcessModel], Field(min_length=1)]
    notes: list[FindingModel]
    origins: dict[str, str]


def json_schema() -> str:
    """Return the JSON Schema of a launch plan as text."""
    return json.dumps(PlanModel.model_json_schema(by_alias=True), indent=2) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
