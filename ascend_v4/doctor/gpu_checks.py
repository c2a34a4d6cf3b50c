"""Checks of NVIDIA GPUs, all through NVML."""

from __future__ import annotations

from collections.abc import Iterator

from ascend_v4.errors import ExitCode
from ascend_v4.host.nvml import GpuHost
from ascend_v4.host.nvml_links import gpu_links

from .check import Outcome
from .holders import Holder, holder_of
from .look import Look
from .npu_checks import held, utilization

__all__ = ["gpu_checks"]

MIB = 1 << 20
#: Attention back-ends for DeepSeek-V4 exist for these compute capabilities, by their major part.
CAPABLE = (9, 10, 12)
#: vLLM from 0.20 on is built with CUDA 12.9 or newer; 12.8 drivers still serve it by minor
#: version compatibility, older majors do not.
CUDA_WANTED = (12, 8)


def gpu_checks(look: Look) -> Iterator[Outcome]:
    """Yield what NVML says about the GPUs."""
    gpus = look.gpus
    if gpus is None:
        values = {"fix": "start the container with --gpus all, or check the driver: nvidia-smi"}
        yield Outcome("gpu-devices", "fail", "this host has no NVIDIA GPU (NVML)", (), values)
        return
    yield devices(gpus)
    if not gpus.gpus:
        return
    yield chip(gpus)
    yield memory(gpus, look)
    yield processes(gpus, look)
    yield count(gpus, look)
    yield driver(gpus)
    yield links(gpus, look)


def devices(gpus: GpuHost) -> Outcome:
    """Return the GPUs found and the first thing detection found wrong."""
    if gpus.problems:
        first = gpus.problems[0]
        seen = tuple(problem.message for problem in gpus.problems)
        return Outcome("gpu-devices", "fail", first.message, seen, {"fix": first.fix})
    names = ", ".join(sorted({str(gpu.name) for gpu in gpus.gpus}))
    return Outcome("gpu-devices", "ok", f"{len(gpus.gpus)} GPUs: {names}", gpus.evidence[:3])


def chip(gpus: GpuHost) -> Outcome:
    """Return whether DeepSeek-V4's attention has kernels for these GPUs."""
    odd = [g for g in gpus.visible_gpus if g.capability and g.capability[0] not in CAPABLE]
    if odd:
        major, minor = odd[0].capability or (0, 0)
        message = (
            f"GPU {odd[0].index} ({odd[0].name}) has compute capability {major}.{minor}; "
            "vLLM's attention for DeepSeek-V4 has kernels for 9.0, 10.x and 12.0 only"
        )
        return Outcome("gpu-chip", "fail", message, code=ExitCode.REFUSED)
    kinds = {gpu.chip for gpu in gpus.visible_gpus}
    if len(kinds) > 1:
        shown = ", ".join(sorted(str(kind) for kind in kinds))
        return Outcome("gpu-chip", "fail", f"GPUs of different kinds: {shown}")
    if any(gpu.capability is None for gpu in gpus.visible_gpus):
        return Outcome("gpu-chip", "unknown", "NVML does not tell the compute capability")
    return Outcome("gpu-chip", "ok", f"{gpus.chip}")


def memory(gpus: GpuHost, look: Look) -> Outcome:
    """Return whether each GPU has the memory free that the plan will take."""
    sized = [
        (g, g.memory_total_bytes, g.memory_used_bytes)
        for g in gpus.visible_gpus
        if g.memory_total_bytes and g.memory_used_bytes is not None
    ]
    if not sized:
        return Outcome("gpu-memory", "unknown", "NVML gave no memory sizes")
    share = utilization(look)
    seen = tuple(f"GPU {g.index}: {used // MIB} of {total // MIB} MiB" for g, total, used in sized)
    short = [g for g, total, used in sized if total * (1 - share) < used]
    if short:
        message = f"GPU {short[0].index} has less free than the {share:.0%} that the plan takes"
        return Outcome("gpu-memory", "fail", message, seen, code=ExitCode.BUSY)
    return Outcome("gpu-memory", "ok", seen[0], seen)


def processes(gpus: GpuHost, look: Look) -> Outcome:
    """Return who holds GPU memory."""
    holders: dict[int, Holder] = {}
    for gpu in gpus.gpus:
        for process in gpu.processes:
            size = None if process.memory_bytes is None else process.memory_bytes // MIB
            holders[process.pid] = holder_of(look.host, process.pid, process.name or "", size)
    if not holders:
        return Outcome("gpu-processes", "ok", "no process holds a GPU")
    return held("gpu-processes", list(holders.values()))


def count(gpus: GpuHost, look: Look) -> Outcome:
    """Return whether there are as many GPUs as one node of the plan wants."""
    if look.compiled is None:
        return Outcome("gpu-count", "unknown", "there is no plan to count for")
    wanted = int(look.compiled.facts["ranks"] or look.compiled.facts["devices"]) // look.nodes
    there = len(gpus.visible_gpus)
    if there >= wanted:
        return Outcome("gpu-count", "ok", f"{there} GPUs, the plan wants {wanted}")
    fix = {"fix": f"unset CUDA_VISIBLE_DEVICES, or ask for --devices {there}"}
    return Outcome("gpu-count", "fail", f"{there} GPUs, but the plan wants {wanted}", (), fix)


def driver(gpus: GpuHost) -> Outcome:
    """Return whether the driver serves the CUDA that current engines are built with."""
    if not gpus.cuda_version:
        return Outcome("gpu-driver", "unknown", "NVML does not tell the CUDA version")
    major, minor = (int(part) for part in gpus.cuda_version.split(".")[:2])
    said = f"driver {gpus.driver_version}, CUDA {gpus.cuda_version}"
    if (major, minor) < CUDA_WANTED:
        wanted = ".".join(map(str, CUDA_WANTED))
        return Outcome("gpu-driver", "fail", f"{said}: engines want {wanted} or newer")
    return Outcome("gpu-driver", "ok", said)


def links(gpus: GpuHost, look: Look) -> Outcome:
    """Return whether the GPUs reach each other directly."""
    if len(gpus.gpus) < 2:
        return Outcome("gpu-links", "ok", "one GPU needs no links")
    found = gpu_links(look.host, len(gpus.gpus))
    if found is None:
        return Outcome("gpu-links", "unknown", "NVML does not tell it")
    seen = tuple(f"GPU {index}: {number} NVLinks" for index, number in found.nvlinks.items())
    if found.no_peer:
        first, second = found.no_peer[0]
        message = f"GPU {first} and GPU {second} can't read each other's memory (P2P)"
        return Outcome("gpu-links", "warn", message, seen)
    return Outcome("gpu-links", "ok", "every pair reads each other's memory", seen)
