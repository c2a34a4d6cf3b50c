"""The launch plan: what will run, with which environment and arguments, and why.

Schema 1 of the shared interfaces. Plain dataclasses, so that planning stays quick;
``docs/launch-plan.schema.json`` describes the JSON form and the tests hold it to that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from .finding import Finding

__all__ = ["LaunchPlan", "Port", "Process", "Ready", "Validated"]

SCHEMA = 1
Role = Literal["mixed", "prefill", "decode", "router", "headless"]
ReadyCheck = Literal["none", "generate", "gate"]


@dataclass(frozen=True)
class Port:
    """A TCP port that a process will use; ``reserved_range`` is inclusive, if there is one."""

    port: int
    use: str
    reserved_range: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the port as the shared JSON object."""
        reserved = list(self.reserved_range) if self.reserved_range else None
        return {"port": self.port, "use": self.use, "reserved_range": reserved}


@dataclass(frozen=True)
class Ready:
    """How to know that a process serves: the base URL and what to check there."""

    url: str
    check: ReadyCheck = "generate"


DP_SIZE = "--data-parallel-size"
#: Flags of a server whose rank is alone behind its API.
OWN_RANK = ("--data-parallel-external-lb", "--data-parallel-rank", "--headless")


@dataclass(frozen=True)
class Process:
    """One process of a plan. ``argv[0]`` is the program; secrets are files, never values."""

    name: str
    role: Role
    argv: tuple[str, ...]
    env: dict[str, str]
    unset: tuple[str, ...] = ()
    secret_env: dict[str, str] = field(default_factory=dict)
    node: str = "localhost"
    devices: tuple[int, ...] = ()
    ports: tuple[Port, ...] = ()
    ready: Ready | None = None
    starts_after: tuple[str, ...] = ()
    deadline_s: int = 1800
    drain_s: int = 60

    @property
    def cuts_requests(self) -> bool:
        """Whether a server cuts what runs in it on TERM: its API is before several ranks.

        vLLM has an API server for each replica then, none of which owns the engines, and
        they close their connections at once (``run_multi_api_server`` in
        vllm 0.32.0, vllm/entrypoints/cli/serve.py; observed 2026-11-29).
        """
        if self.ready is None or set(OWN_RANK) & set(self.argv):
            return False
        before = "", *self.argv
        sizes = [word for flag, word in zip(before, self.argv, strict=False) if flag == DP_SIZE]
        return bool(sizes) and sizes[-1].isdigit() and int(sizes[-1]) > 1

    def to_json(self) -> dict[str, Any]:
        """Return the process as the shared JSON object."""
        return {
            "name": self.name,
            "role": self.role,
            "node": self.node,
            "env": dict(self.env),
            "unset": list(self.unset),
            "secret_env": {name: {"file": path} for name, path in self.secret_env.items()},
            "argv": list(self.argv),
            "devices": list(self.devices),
            "ports": [port.to_json() for port in self.ports],
            "ready": {"url": self.ready.url, "check": self.ready.check} if self.ready else None,
            "starts_after": list(self.starts_after),
            "deadline_s": self.deadline_s,
            "drain_s": self.drain_s,
        }


@dataclass(frozen=True)
class Validated:
    """Whether somebody published this launch for this release: a recipe, a CI run or nobody."""

    status: Literal["recipe", "ci", "unvalidated"]
    source: str


@dataclass(frozen=True)
class LaunchPlan:
    """Everything needed to print, check, run or render one launch."""

    profile: str
    engine: str
    engine_version: str
    image: str
    chip: str
    model_id: str
    model_path: str
    checkpoint: str
    validated: Validated
    processes: tuple[Process, ...]
    notes: tuple[Finding, ...] = ()
    origins: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a plan that can't be run; raises ValueError naming what is wrong."""
        names = {process.name for process in self.processes}
        if not names or len(names) != len(self.processes):
            listed = [process.name for process in self.processes]
            raise ValueError(f"process names must be unique and at least one: {listed}")
        for process in self.processes:
            if not process.argv or "\0" in "".join(process.argv):
                raise ValueError(f"{process.name}: argv must name a program and hold no NUL")
            if set(process.env) & {*process.unset, *process.secret_env}:
                raise ValueError(f"{process.name}: a variable is both set and unset or secret")
            if not set(process.starts_after) <= names:
                raise ValueError(f"{process.name}: starts after a process that isn't there")
        taken = [(p.node, port.port) for p in self.processes for port in p.ports]
        if len(set(taken)) != len(taken):
            raise ValueError(f"two processes of one node want one port: {sorted(taken)}")

    def to_json(self) -> dict[str, Any]:
        """Return the plan as the shared JSON object, schema 1."""
        return {
            "schema": SCHEMA,
            "profile": self.profile,
            "engine": {
                "name": self.engine,
                "version": self.engine_version,
                "image": self.image,
            },
            "chip": self.chip,
            "model": {
                "id": self.model_id,
                "path": self.model_path,
                "checkpoint": self.checkpoint,
            },
            "validated": {"status": self.validated.status, "source": self.validated.source},
            "processes": [process.to_json() for process in self.processes],
            "notes": [note.to_json() for note in self.notes],
            "origins": dict(self.origins),
        }
