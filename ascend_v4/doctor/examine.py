"""All checks of a host, run at once and joined with their rows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ascend_v4.catalog.diagnosis import diagnosis_catalog
from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import ExitCode
from ascend_v4.host.system import Host

from .check import Check, Outcome, exit_of
from .claim_checks import claim_checks
from .engine_checks import cpu_checks, engine_checks, fit_outcome, plan_check
from .gpu_checks import gpu_checks
from .host_checks import container_checks, system_checks, weights_check
from .look import Look, look_at
from .network_checks import HCCN, network_checks, peer_checks
from .npu_checks import npu_boards, npu_checks, npu_mapping
from .port_checks import port_checks
from .run_checks import Task, run_all
from .version_checks import version_checks

__all__ = ["Report", "examine"]

SYSTEM = ("ulimits", "host-memory", "container-shm", "swappiness", "numa-balancing", "governor")
NPU = ("npu-devices", "npu-chip", "npu-visible", "npu-health", "npu-memory", "npu-processes")
GPU = ("gpu-devices", "gpu-chip", "gpu-memory", "gpu-processes", "gpu-count")
ENGINE = ("engine-present", "engine-versions", "engine-soc")


@dataclass(frozen=True)
class Report:
    """The checks of a host in the order of their table; ``seconds`` is what they took."""

    look: Look
    checks: tuple[Check, ...]
    seconds: float

    @property
    def exit_code(self) -> ExitCode:
        """0, 3 unsupported, 6 not ready, 7 busy."""
        return exit_of([check.outcome for check in self.checks])

    def to_json(self) -> dict[str, Any]:
        """Return the report as one JSON object, schema 1."""
        plan = self.look.compiled.plan if self.look.compiled else None
        return {
            "schema": 1,
            "profile": self.look.profile,
            "chip": plan.chip if plan else (self.look.npus.chip if self.look.npus else None),
            "engine": {"name": plan.engine, "version": plan.engine_version} if plan else None,
            "ready": self.exit_code == ExitCode.DONE,
            "exit_code": int(self.exit_code),
            "seconds": round(self.seconds, 3),
            "checks": [check.to_json() for check in self.checks],
        }


def examine(
    host: Host,
    request: LaunchRequest,
    *,
    peers: tuple[str, ...] = (),
    npu_peers: tuple[str, ...] = (),
    tool_s: float = 5.0,
) -> Report:
    """Return every check that concerns the profile; only options can make it raise.

    ``tool_s`` is what one call of npu-smi or hccn_tool may take, seconds of wall time.
    Raises AscendV4Error (usage) for options that can't be understood.
    """
    begun = time.monotonic()
    look = look_at(host, request, peers, npu_peers, tool_s)
    outcomes = run_all(tasks_for(look)) if look.profile else [nothing_here()]
    rows = {row["id"]: row for row in diagnosis_catalog().table("host_checks")}
    order = list(rows)
    checks = [Check(outcome, rows[outcome.id]) for outcome in outcomes]
    checks.sort(key=lambda check: order.index(check.id))
    return Report(look, tuple(checks), time.monotonic() - begun)


def nothing_here() -> Outcome:
    """Return the outcome for a host that no profile fits."""
    return Outcome(
        "npu-devices",
        "fail",
        "this host has no Ascend NPU (/dev/davinci*, npu-smi) and no NVIDIA GPU (NVML)",
        values={"fix": "rehearse here: ascend-v4 doctor --profile cpu"},
    )


def tasks_for(look: Look) -> list[Task]:
    """Return the checks that concern a profile, each with its limit."""
    tasks = [
        Task(("plan",), lambda: plan_check(look)),
        Task(("plan-fits",), lambda: fit_outcome(look)),
        Task(("ports", "port-ranges"), lambda: port_checks(look)),
        Task(("claims",), lambda: claim_checks(look)),
        Task(SYSTEM, lambda: system_checks(look)),
        Task(("weights",), lambda: weights_check(look)),
    ]
    if look.profile == "cpu":
        return [*tasks, Task(("engine-imports", "cpu-cores"), lambda: cpu_checks(look))]
    tasks.append(Task(ENGINE, lambda: engine_checks(look)))
    if look.profile == "ascend":
        tasks += ascend_tasks(look)
    else:
        tasks.append(Task(GPU, lambda: gpu_checks(look)))
    if look.nodes > 1:
        tasks.append(Task(("peer",), lambda: peer_checks(look), 2 * look.tool_s + 4))
    return tasks


def ascend_tasks(look: Look) -> list[Task]:
    """Return the checks of an NPU host."""
    limit = 2 * look.tool_s + 2
    tasks = [
        Task(NPU, lambda: npu_checks(look)),
        Task(("container-nodes", "container-files"), lambda: container_checks(look)),
        Task(("driver-version", "cann-version"), lambda: version_checks(look)),
    ]
    if look.npus is not None:
        tasks.append(Task(("npu-mapping",), lambda: npu_mapping(look), limit))
        tasks.append(Task(("npu-compatibility",), lambda: npu_boards(look), limit))
        if look.nodes > 1:
            tasks.append(Task(HCCN, lambda: network_checks(look), 6 * look.tool_s + 2))
    return tasks
