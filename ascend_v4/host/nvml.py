"""Which NVIDIA GPUs this host has, asked from the driver through NVML.

The binding is nvidia-ml-py (module ``pynvml``), imported only when asked; no text of
``nvidia-smi`` is parsed. Every NVML error becomes evidence or a problem.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ascend_v4.host.evidence import Problem
from ascend_v4.host.system import Host

__all__ = ["DEFAULT_RULES", "Gpu", "GpuHost", "GpuProcess", "GpuRule", "chip_id", "detect_gpus"]

_VISIBLE = "CUDA_VISIBLE_DEVICES"


class GpuRule(NamedTuple):
    """``words``, found side by side as whole words in a GPU's name, mean ``chip``."""

    words: str
    chip: str


# Names as NVML gives them, less the maker: "NVIDIA H100 80GB HBM3", "NVIDIA GH200 480GB"
# (no H200: whole words keep it out), "NVIDIA RTX PRO 6000 Blackwell Server Edition".
DEFAULT_RULES = (
    GpuRule("GB300", "gb300"),
    GpuRule("GB200", "gb200"),
    GpuRule("B300", "b300"),
    GpuRule("B200", "b200"),
    GpuRule("H200", "h200"),
    GpuRule("H100", "h100"),
    GpuRule("RTX PRO 6000", "rtx-pro-6000"),
    GpuRule("A100", "a100"),
)


@dataclass(frozen=True)
class GpuProcess:
    """A process with a context on a GPU; memory in bytes, None where not told."""

    pid: int
    name: str | None
    memory_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML knows it, with ``index`` in NVML's (PCI bus) order.

    Memory is in bytes. ``capability`` is the compute capability (major, minor),
    ``chip`` our id for it: ``h200``, or ``sm89`` for a GPU the table does not name.
    ``mig`` tells whether MIG mode is on. What NVML would not tell is None.
    """

    index: int
    name: str | None
    uuid: str | None
    bus_id: str | None
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    capability: tuple[int, int] | None
    mig: bool | None
    chip: str | None
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True)
class GpuHost:
    """The GPUs of one host: all of them, and those CUDA_VISIBLE_DEVICES leaves.

    ``visible`` holds indexes into ``gpus`` by their ``index``, None if the variable is
    unset or names MIG instances. ``cuda_version`` is the newest CUDA that the driver
    serves (``13.0``). ``gpus`` is empty where the driver is there but would not answer.
    """

    gpus: tuple[Gpu, ...]
    visible: tuple[int, ...] | None
    driver_version: str | None
    cuda_version: str | None
    evidence: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def visible_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that a program started here would see, in the order it sees them."""
        if self.visible is None:
            return self.gpus
        by_index = {gpu.index: gpu for gpu in self.gpus}
        return tuple(by_index[index] for index in self.visible)

    @property
    def chip(self) -> str | None:
        """The one chip id of all visible GPUs, None if there is none or several."""
        chips = {gpu.chip for gpu in self.visible_gpus}
        return chips.pop() if len(chips) == 1 else None


@dataclass
class _Asker:
    """Asks NVML one thing at a time and keeps what it refused."""

    nvml: ModuleType
    evidence: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def ask(self, function: str, *arguments: object) -> Any:
        """Return the answer, or None with the refusal kept as evidence."""
        try:
            call: Callable[..., Any] = getattr(self.nvml, function)
            answer = call(*arguments)
        except self.nvml.NVMLError as error:
            if error.value != self.nvml.NVML_ERROR_NOT_SUPPORTED:
                self.evidence.append(f"{function}: {error}")
            return None
        except (AttributeError, OSError, UnicodeError, ValueError) as error:
            self.evidence.append(f"{function}: {type(error).__name__}: {error}")
            return None
        return answer.decode(errors="replace") if isinstance(answer, bytes) else answer


def detect_gpus(host: Host, rules: Iterable[GpuRule] = DEFAULT_RULES) -> GpuHost | None:
    """Ask NVML for the GPUs of this machine; None if it has no NVIDIA driver or GPU.

    ``rules`` turn names into chip ids, the first match wins. NVML always speaks for the
    real machine, so below another ``host.root`` it is asked only if that tree
    has ``/dev/nvidiactl``. Never raises for anything NVML does.
    """
    nodes = host.exists("/dev/nvidiactl") or bool(host.glob("/dev", "nvidia[0-9]*"))
    if host.root != Path("/") and not nodes:
        return None
    try:
        import pynvml
    except ImportError as error:
        fix = "pip install 'nvidia-ml-py>=12.560'"
        return _silent(nodes, Problem("nvml-binding-missing", f"import pynvml: {error}", fix))
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return _silent(nodes, Problem("nvml-unavailable", f"nvmlInit: {error}", _init_fix(error)))
    asker = _Asker(pynvml)
    try:
        return _describe(host, asker, tuple(rules), nodes)
    finally:
        asker.ask("nvmlShutdown")


def _silent(nodes: bool, problem: Problem) -> GpuHost | None:
    """NVML does not answer: a problem where the driver's nodes are, else no GPU host."""
    if not nodes:
        return None
    evidence = ("/dev/nvidia* exists", problem.message)
    return GpuHost((), None, None, None, evidence, (problem,))


def _init_fix(error: Exception) -> str:
    said = str(error)
    if "mismatch" in said:
        return "reboot: the loaded kernel module and the driver's library differ in version"
    if "Not Found" in said:
        return (
            "start the container with the NVIDIA runtime and "
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        )
    return "check the driver with nvidia-smi"


def _describe(host: Host, asker: _Asker, rules: tuple[GpuRule, ...], nodes: bool) -> GpuHost | None:
    count = asker.ask("nvmlDeviceGetCount")
    if not count and not nodes and not asker.evidence:
        return None
    gpus = [gpu for i in range(count or 0) if (gpu := _gpu(asker, i, rules)) is not None]
    if not gpus:
        fix = "give the container its GPUs (docker run --gpus all), then check with nvidia-smi"
        asker.problems.append(Problem("no-gpu", "the NVIDIA driver shows no usable GPU", fix))
    driver, cuda = asker.ask("nvmlSystemGetDriverVersion"), _cuda_version(asker)
    value = host.env.get(_VISIBLE)
    visible = None if value is None else _visible(asker, value, gpus)
    asker.evidence.insert(0, f"NVML: {len(gpus)} GPUs, driver {driver}, CUDA {cuda}")
    if value is not None:
        shown = "unknown" if visible is None else f"{len(visible)} of {len(gpus)}"
        asker.evidence.append(f"{_VISIBLE}={value}: {shown} GPUs visible")
    return GpuHost(
        gpus=tuple(gpus),
        visible=visible,
        driver_version=driver,
        cuda_version=cuda,
        evidence=tuple(asker.evidence),
        problems=tuple(asker.problems),
    )


def _gpu(asker: _Asker, index: int, rules: tuple[GpuRule, ...]) -> Gpu | None:
    handle = asker.ask("nvmlDeviceGetHandleByIndex", index)
    if handle is None:
        said = asker.evidence[-1] if asker.evidence else "not supported"
        fix = "look for Xid errors (dmesg | grep -i xid), then reset the GPU or reboot"
        asker.problems.append(Problem("gpu-lost", f"GPU {index} does not answer: {said}", fix))
        return None
    name = asker.ask("nvmlDeviceGetName", handle)
    memory = asker.ask("nvmlDeviceGetMemoryInfo", handle)
    capability = asker.ask("nvmlDeviceGetCudaComputeCapability", handle)
    pair = (int(capability[0]), int(capability[1])) if capability else None
    mig = asker.ask("nvmlDeviceGetMigMode", handle)
    if mig and mig[0]:
        message = f"MIG mode is on for GPU {index}: its memory is cut into instances"
        fix = f"nvidia-smi -i {index} -mig 0 (as root, with the GPU idle)"
        asker.problems.append(Problem("mig-on", message, fix))
    pci = asker.ask("nvmlDeviceGetPciInfo", handle)
    return Gpu(
        index=index,
        name=name,
        uuid=asker.ask("nvmlDeviceGetUUID", handle),
        bus_id=_text(pci.busId) if pci else None,
        memory_total_bytes=int(memory.total) if memory else None,
        memory_used_bytes=int(memory.used) if memory else None,
        capability=pair,
        mig=bool(mig[0]) if mig else None,
        chip=chip_id(name, pair, rules),
        processes=_processes(asker, handle),
    )


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _processes(asker: _Asker, handle: object) -> tuple[GpuProcess, ...]:
    found = []
    for process in asker.ask("nvmlDeviceGetComputeRunningProcesses", handle) or ():
        memory = process.usedGpuMemory
        name = asker.ask("nvmlSystemGetProcessName", process.pid)
        found.append(GpuProcess(process.pid, name, None if memory is None else int(memory)))
    return tuple(found)


def _cuda_version(asker: _Asker) -> str | None:
    number = asker.ask("nvmlSystemGetCudaDriverVersion_v2")
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def chip_id(
    name: str | None, capability: tuple[int, int] | None, rules: Iterable[GpuRule] = DEFAULT_RULES
) -> str | None:
    """Return our id for a GPU: the first rule its name meets, else ``sm90`` and the like.

    None if neither the name nor the compute capability (major, minor) is known.
    """
    for rule in rules:
        if name and re.search(rf"(?<!\w){re.escape(rule.words)}(?!\w)", name, re.IGNORECASE):
            return rule.chip
    return f"sm{capability[0]}{capability[1]}" if capability else None


def _visible(asker: _Asker, value: str, gpus: list[Gpu]) -> tuple[int, ...] | None:
    """Read CUDA_VISIBLE_DEVICES as CUDA does: the first bad entry ends the list.

    Source: https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
    """
    indexes: list[int] = []
    for word in (entry.strip() for entry in value.split(",")):
        if word.startswith("MIG-"):
            fix = f"name whole GPUs in {_VISIBLE}, or unset it"
            message = f"{_VISIBLE}={value} names a MIG instance"
            asker.problems.append(Problem("mig-visible", message, fix))
            return None
        index = _index_of(word, gpus)
        if index is None or index in indexes:
            break
        indexes.append(index)
    if gpus and not indexes:
        message = f"{_VISIBLE}={value} hides every one of {len(gpus)} GPUs"
        asker.problems.append(Problem("gpus-hidden", message, f"unset {_VISIBLE}"))
    return tuple(indexes)


def _index_of(word: str, gpus: list[Gpu]) -> int | None:
    """Return the index that an entry, a number or the start of one UUID, stands for."""
    if re.fullmatch(r"[0-9]{1,4}", word):
        return int(word) if any(gpu.index == int(word) for gpu in gpus) else None
    if not word.startswith("GPU-"):
        return None
    hits = [gpu.index for gpu in gpus if gpu.uuid and gpu.uuid.startswith(word)]
    return hits[0] if len(hits) == 1 else None
