"""Settings of kernel, user and container that decide how a server starts and runs."""

from __future__ import annotations

import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path

from ascend_v4.host.system import Host

__all__ = [
    "Space",
    "free_memory_bytes",
    "free_space",
    "governors",
    "huge_pages",
    "in_container",
    "limits",
    "local_port_range",
    "reserved_ports",
    "sysctl",
]


@dataclass(frozen=True)
class Space:
    """Size of a file system and what this user may still write, in bytes."""

    total: int
    free: int


def sysctl(host: Host, name: str) -> int | None:
    """Return a kernel setting such as ``vm.swappiness``, or None."""
    text = (host.read_text(f"/proc/sys/{name.replace('.', '/')}") or "").strip()
    return int(text) if re.fullmatch(r"-?\d{1,12}", text) else None


def governors(host: Host) -> set[str]:
    """Return the clock governors of all cores; empty where the kernel has none."""
    places = host.glob("/sys/devices/system/cpu", "cpu[0-9]*/cpufreq/scaling_governor")
    root = "/sys/devices/system/cpu"
    texts = (host.read_text(f"{root}/{'/'.join(place.parts[-3:])}") for place in places)
    return {text.strip() for text in texts if text and text.strip()}


def huge_pages(host: Host) -> dict[str, int]:
    """Return the number of reserved huge pages by size (``2048kB``)."""
    found = {}
    for place in host.glob("/sys/kernel/mm/hugepages", "hugepages-*"):
        text = host.read_text(f"/sys/kernel/mm/hugepages/{place.name}/nr_hugepages") or ""
        if text.strip().isdigit():
            found[place.name.removeprefix("hugepages-")] = int(text)
    return found


def free_space(host: Host, absolute: str) -> Space | None:
    """Return the space of the file system that holds a path, or would hold it."""
    place = host.path(absolute)
    for candidate in (place, *place.parents):
        try:
            found = os.statvfs(candidate)
        except OSError:
            continue
        return Space(found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail)
    return None


def free_memory_bytes(host: Host) -> int | None:
    """Return the memory that a new program can have: of the machine or of the container."""
    meminfo = re.search(r"MemAvailable:\s*(\d{1,15}) kB", host.read_text("/proc/meminfo") or "")
    free = int(meminfo[1]) * 1024 if meminfo else None
    limit = (host.read_text("/sys/fs/cgroup/memory.max") or "").strip()
    used = (host.read_text("/sys/fs/cgroup/memory.current") or "").strip()
    if limit.isdigit() and used.isdigit():
        inactive = re.search(
            r"^inactive_file (\d{1,18})$",
            host.read_text("/sys/fs/cgroup/memory.stat") or "",
            re.MULTILINE,
        )
        left = int(limit) - int(used) + (int(inactive[1]) if inactive else 0)
        free = left if free is None else min(free, left)
    return free


def local_port_range(host: Host) -> tuple[int, int] | None:
    """Return the ports that the kernel gives to outgoing connections, both ends included."""
    words = (host.read_text("/proc/sys/net/ipv4/ip_local_port_range") or "").split()
    return (int(words[0]), int(words[1])) if [w.isdigit() for w in words] == [True] * 2 else None


def reserved_ports(host: Host) -> list[tuple[int, int]]:
    """Return the ports that the kernel keeps out of that range."""
    text = host.read_text("/proc/sys/net/ipv4/ip_local_reserved_ports") or ""
    found = []
    for part in text.strip().split(","):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part)
        if match:
            found.append((int(match[1]), int(match[2] or match[1])))
    return found


def limits(host: Host) -> dict[str, int]:
    """Return soft limits of this process: open files, and locked memory in bytes (-1: none).

    Below another root they are read from its /proc/self/limits.
    """
    if host.root == Path("/"):
        names = {"nofile": resource.RLIMIT_NOFILE, "memlock": resource.RLIMIT_MEMLOCK}
        return {name: resource.getrlimit(number)[0] for name, number in names.items()}
    text = host.read_text("/proc/self/limits") or ""
    found = {}
    for name, title in (("nofile", "Max open files"), ("memlock", "Max locked memory")):
        match = re.search(rf"^{title}\s+(\d{{1,20}}|unlimited)", text, re.MULTILINE)
        if match:
            found[name] = -1 if match[1] == "unlimited" else int(match[1])
    return found


def in_container(host: Host) -> bool:
    """Whether this is a container (docker, podman, Kubernetes)."""
    marks = ("/.dockerenv", "/run/.containerenv")
    return any(host.exists(mark) for mark in marks) or "KUBERNETES_SERVICE_HOST" in host.env
