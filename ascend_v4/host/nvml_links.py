"""Whether the GPUs of a host reach each other directly, asked through NVML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ascend_v4.host.system import Host

__all__ = ["GpuLinks", "gpu_links"]

#: nvmlP2PCapsIndex READ and nvmlP2PStatus OK of nvml.h.
_READ = 0
_OK = 0


@dataclass(frozen=True)
class GpuLinks:
    """``nvlinks`` counts the active links by GPU, ``no_peer`` lists pairs without P2P reads."""

    nvlinks: dict[int, int]
    no_peer: tuple[tuple[int, int], ...]


def gpu_links(host: Host, count: int) -> GpuLinks | None:
    """Return how GPUs 0 to ``count`` - 1 are linked, None where NVML won't say; never raises."""
    if host.root != Path("/") and not host.exists("/dev/nvidiactl"):
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        links = {index: active_links(pynvml, handle) for index, handle in enumerate(handles)}
        apart = [
            (i, j)
            for i in range(count)
            for j in range(i + 1, count)
            if pynvml.nvmlDeviceGetP2PStatus(handles[i], handles[j], _READ) != _OK
        ]
        return GpuLinks(links, tuple(apart))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def active_links(nvml: Any, handle: object) -> int:
    """Return the number of NVLinks that are up; 0 for a GPU without any."""
    found = 0
    for link in range(18):
        try:
            found += bool(nvml.nvmlDeviceGetNvLinkState(handle, link))
        except nvml.NVMLError:
            break
    return found
