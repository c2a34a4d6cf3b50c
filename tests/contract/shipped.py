"""Every plan that is shipped as validated, and every rule's broken example, as engine jobs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.finding import Finding
from ascend_v4.core.launch import to_argv
from ascend_v4.core.request import LaunchRequest
from tests.catalog.broken import broken_facts, broken_ids
from tests.contract.client import Job
from tests.contract.overlays import ASCEND_RELEASES

__all__ = ["Broken", "Shipped", "broken", "shipped"]

WORKLOADS = ("latency", "throughput", "long-context")
#: (chip, checkpoint, more options) of the plans tried for each release.
KINDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("a2", "flash-w8a8-mtp", {}),
    ("a2", "flash-w8a8-mtp", {"prefix_caching": True}),
    ("a3", "flash-w8a8-mtp", {}),
    ("a3", "flash-w8a8-mtp", {"fused_mc2": True}),
    ("a3", "flash-w8a8-mtp", {"prefix_caching": False}),
    ("a3", "flash-0731-w8a8", {}),
    ("a5", "flash-fp4", {}),
    ("a5", "flash-0731-fp4", {}),
)


@dataclass(frozen=True)
class Shipped:
    """A validated plan: what to ask the engine about it, and what it says itself."""

    name: str
    job: Job
    notes: tuple[Finding, ...]


def shipped() -> list[Shipped]:
    """Return every validated single-node Ascend plan of the releases that can be loaded."""
    found = []
    for version in ASCEND_RELEASES:
        for chip, checkpoint, more in KINDS:
            # A workload changes numbers only, so variants are asked about once.
            for workload in ("throughput",) if more else WORKLOADS:
                request = LaunchRequest(
                    chip=chip, engine_version=version, model=checkpoint, workload=workload, **more
                )
                made = compile_plan(request, catalog())
                if made.plan.validated.status == "unvalidated" or any(
                    note.severity == "error" for note in made.plan.notes
                ):
                    continue
                name = "-".join([version, chip, checkpoint, workload, *more])
                process = made.plan.processes[0]
                job = Job(version, chip, process.env, process.argv, checkpoint)
                found.append(Shipped(name, job, made.plan.notes))
    return found


@dataclass(frozen=True)
class Broken:
    """A rule's broken example: what our lint says, and what to ask the engine."""

    rule: dict[str, Any]
    ours: bool
    job: Job


def broken() -> Iterator[Broken]:
    """Yield the examples of the error rules that start-up or worker checks cover."""
    for rule in catalog().table("rules"):
        if rule["severity"] != "error" or rule.get("engine_checks") not in ("startup", "worker"):
            continue
        facts = broken_facts(rule["broken"])
        if facts["engine"] != "vllm-ascend" or facts["version"] not in ASCEND_RELEASES:
            continue
        argv = ["vllm", "serve", str(facts["model_path"]), *to_argv(facts["flag"])]
        env = {name: str(value) for name, value in facts["env"].items()}
        checkpoint = str(facts["checkpoint"])
        job = Job(str(facts["version"]), str(facts["chip"]), env, argv, checkpoint)
        yield Broken(rule, rule["id"] in broken_ids(facts), job)
