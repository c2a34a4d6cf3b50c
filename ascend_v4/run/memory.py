"""Whether the devices gave their memory back before the next start.

vLLM's own shutdown tests ask for less than 2 GiB left
(https://github.com/vllm-project/vllm/tree/main/tests/v1/shutdown).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ascend_v4.host.system import Host

from .devices import Device

__all__ = ["DeviceUse", "MemoryReader", "not_returned", "reader_for", "wait_returned"]

SLACK_BYTES = 2 * 1024**3
WAIT_S = 120.0
POLL_S = 2.0


@dataclass(frozen=True)
class DeviceUse:
    """Memory in use on a device, in bytes, and who holds it (``name (pid n)``)."""

    used: int
    holders: tuple[str, ...] = ()


MemoryReader = Callable[[], Mapping[int, DeviceUse]]


def npu_use(host: Host) -> dict[int, DeviceUse]:
    """Return the use of each NPU by its number on the host; {} when npu-smi can't tell."""
    from ascend_v4.host.npu import detect_npus

    found = detect_npus(host)
    use = {}
    for place, device in enumerate(found.devices if found else ()):
        if device.hbm_used_mb is None:
            continue
        mine = (
            [p for p in found.processes if p.card == device.card and p.chip in (None, device.chip)]
            if found
            else []
        )
        number = device.logic_id if device.logic_id is not None else place
        holders = tuple(f"{p.name or 'unnamed'} (pid {p.pid})" for p in mine)
        use[number] = DeviceUse(device.hbm_used_mb * 1024**2, holders)
    return use


def gpu_use(host: Host) -> dict[int, DeviceUse]:
    """Return the use of each GPU by its index; {} when NVML can't tell."""
    from ascend_v4.host.nvml import detect_gpus

    found = detect_gpus(host)
    use = {}
    for gpu in found.gpus if found else ():
        if gpu.memory_used_bytes is not None:
            holders = tuple(f"{p.name or 'unnamed'} (pid {p.pid})" for p in gpu.processes)
            use[gpu.index] = DeviceUse(gpu.memory_used_bytes, holders)
    return use


def reader_for(profile: str, host: Host, devices: tuple[Device, ...]) -> MemoryReader | None:
    """Return what reads the use of the host's ``devices``, None for the CPU profile."""
    ask = {"ascend": npu_use, "cuda": gpu_use}.get(profile)
    if ask is None or not devices:
        return None
    return lambda: {number: use for number, use in ask(host).items() if number in devices}


def not_returned(baseline: Mapping[int, DeviceUse], now: Mapping[int, DeviceUse]) -> list[str]:
    """Return a sentence for each device that is more than 2 GiB above its baseline."""
    wrong = []
    for number, before in baseline.items():
        use = now.get(number)
        if use is None or use.used - before.used <= SLACK_BYTES:
            continue
        holders = ", ".join(use.holders) or "nobody that can be seen"
        extra = (use.used - before.used) / 1024**3
        wrong.append(f"device {number} holds {extra:.1f} GiB more than before; held by {holders}")
    return wrong


def wait_returned(
    reader: MemoryReader | None,
    baseline: Mapping[int, DeviceUse],
    *,
    timeout_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> list[str]:
    """Wait until the memory is back; return what is still missing after ``timeout_s`` (120 s).

    A ``sleep`` that returns something true ends the wait.
    """
    if reader is None or not baseline:
        return []
    deadline = clock() + (WAIT_S if timeout_s is None else timeout_s)
    while wrong := not_returned(baseline, reader()):
        if clock() >= deadline or sleep(POLL_S):
            return wrong
    return []
