"""Rows that only ``doctor`` and ``diagnose`` read; compiled apart from the launch catalog."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from .schema import Sourced

__all__ = ["DIAGNOSIS_TABLES"]

Literals = Annotated[list[str], Field(min_length=1)]


class Signature(Sourced):
    """Log lines that tell a cause.

    ``match``: any entry; an entry that is a list must stand on one line. ``near``: each
    must stand within 80 lines of it. ``explains`` names rows that are consequences of this
    one. ``specificity`` weak: never a cause by itself. ``exit`` is the shared exit code of
    the class. ``example`` triggers the row, ``near_miss`` must not.
    """

    id: str
    title: str
    role: Literal["cause", "secondary", "warning", "benign", "ended"] = "cause"
    phase: str
    exit: int
    specificity: Literal["strong", "weak"] = "strong"
    match: Annotated[list[str | Literals], Field(min_length=1)]
    near: list[str] = Field(default_factory=list)
    explains: list[str] = Field(default_factory=list)
    cause: str
    fix: str
    links: list[str] = Field(default_factory=list)
    engine: Literal["vllm-ascend", "vllm"] | None = None
    since: str | None = None
    until: str | None = None
    versions: list[str] = Field(default_factory=list)
    example: Literals
    near_miss: Literals

    @model_validator(mode="after")
    def _long_enough(self) -> Signature:
        """Refuse literals that would be found by chance."""
        for entry in self.match:
            words = [entry] if isinstance(entry, str) else entry
            if max(len(word) for word in words) < 6 or "\n" in "".join(words):
                raise ValueError(f"{self.id}: {entry!r} is too short or spans lines")
        return self


class ErrorCode(Sourced):
    """A code that CANN, HCCL or the driver prints."""

    code: str
    name: str
    family: Literal["hccl", "acl", "aclnn", "runtime", "dcmi", "mooncake"]
    meaning: str
    do: str
    secondary: bool = False


class HostCheck(Sourced):
    """What a check of the host is about, and what to type when it fails.

    ``fix`` may hold ``{values}`` of the finding; ``root`` says that it needs root on the
    bare host, ``runs`` that it is a command a script may run.
    """

    id: str
    group: Literal["npu", "container", "versions", "system", "network", "ports", "gpu", "engine"]
    title: str
    fix: str = ""
    runs: bool = False
    root: bool = False


class Advice(Sourced):
    """A known trouble without a log line of its own: told by what the operator sees."""

    id: str
    title: str
    sees: str
    cause: str
    fix: str
    links: list[str] = Field(default_factory=list)
    versions: list[str] = Field(default_factory=list)


DIAGNOSIS_TABLES: dict[str, type[BaseModel]] = {
    "signatures": Signature,
    "error_codes": ErrorCode,
    "host_checks": HostCheck,
    "advice": Advice,
}
