"""Checks of the operating system and the container around the server."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from ascend_v4.errors import ExitCode
from ascend_v4.host.os_settings import (
    free_memory_bytes,
    free_space,
    governors,
    huge_pages,
    in_container,
    limits,
    sysctl,
)

from .check import Outcome, Verdict
from .look import Look

__all__ = ["container_checks", "system_checks", "weights_check"]

GIB = 1 << 30
#: The tutorials of releases use 1 GB to 512 GB; below 1 GB worker queues were seen to fail.
SHM_FAIL = 256 << 20
SHM_WARN = 1 * GIB
OPEN_FILES = 4096
HOST_MEMORY_WARN = 16 * GIB
JEMALLOC = (
    "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2",
    "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2",
    "/usr/lib64/libjemalloc.so.2",
)


def system_checks(look: Look) -> Iterator[Outcome]:
    """Yield limits, kernel settings, clocks, huge pages, jemalloc and memory."""
    yield ulimits(look)
    yield memory(look)
    yield shared_memory(look)
    if look.profile == "cpu":
        return
    yield setting(look, "swappiness", "vm.swappiness", 10, "swaps the server out under pressure")
    yield setting(look, "numa-balancing", "kernel.numa_balancing", 0, "moves pages while serving")
    yield clocks(look)
    if look.profile == "ascend":
        yield pages(look)
        yield jemalloc(look)


def ulimits(look: Look) -> Outcome:
    """Return whether open files and locked memory are allowed enough."""
    found = limits(look.host)
    if not found:
        return Outcome("ulimits", "unknown", "the limits of this process can't be read")
    files, locked = found.get("nofile", -1), found.get("memlock", -1)
    said = f"open files {files if files >= 0 else 'unlimited'}, locked memory " + (
        "unlimited" if locked < 0 else f"{locked >> 10} KiB"
    )
    if 0 <= files < OPEN_FILES:
        return Outcome("ulimits", "warn", f"{said}: below {OPEN_FILES} open files")
    if look.nodes > 1 and 0 <= locked < 64 << 20:
        return Outcome("ulimits", "warn", f"{said}: RoCE between nodes locks more memory")
    return Outcome("ulimits", "ok", said)


def setting(look: Look, name: str, key: str, highest: int, harm: str) -> Outcome:
    """Return whether a kernel setting is low enough; the recipes want 0."""
    value = sysctl(look.host, key)
    if value is None:
        return Outcome(name, "unknown", f"{key} can't be read here")
    if value <= highest:
        return Outcome(name, "ok", f"{key} is {value}")
    return Outcome(name, "warn", f"{key} is {value}: the kernel {harm}")


def clocks(look: Look) -> Outcome:
    """Return whether all cores run the performance governor."""
    found = governors(look.host)
    if not found:
        return Outcome(
            "governor", "unknown", "the kernel shows no clock governor (virtual machine?)"
        )
    if found == {"performance"}:
        return Outcome("governor", "ok", "performance on every core")
    return Outcome("governor", "warn", f"the governor is {', '.join(sorted(found))}")


def pages(look: Look) -> Outcome:
    """Return whether huge pages suit the chip: none left over on 950."""
    found = {size: number for size, number in huge_pages(look.host).items() if number}
    if look.family == "a5" and found:
        seen = ", ".join(f"{number} of {size}" for size, number in found.items())
        fix = "echo 0 | tee /sys/kernel/mm/hugepages/hugepages-*/nr_hugepages"
        return Outcome("hugepages", "warn", f"950 wants none reserved; {seen}", values={"fix": fix})
    seen = ", ".join(f"{number} of {size}" for size, number in found.items()) or "none reserved"
    return Outcome("hugepages", "ok", f"{seen} (only a KV pool over RoCE wants some)")


def jemalloc(look: Look) -> Outcome:
    """Return whether the jemalloc that LD_PRELOAD names is where this distribution has it."""
    host = look.host
    here = next((path for path in JEMALLOC if host.exists(path)), None)
    asked = [p for p in host.env.get("LD_PRELOAD", "").replace(":", " ").split() if "jemalloc" in p]
    missing = [path for path in asked if not host.exists(path)]
    if missing:
        fix = f"export LD_PRELOAD={here}" if here else "unset LD_PRELOAD"
        return Outcome(
            "jemalloc",
            "warn",
            f"LD_PRELOAD names {missing[0]}, which is not there",
            values={"fix": fix},
        )
    if here:
        return Outcome("jemalloc", "ok", f"{here}; serve preloads it")
    fix = "apt install libjemalloc2 (Ubuntu), dnf install jemalloc (openEuler)"
    return Outcome("jemalloc", "warn", "jemalloc is not installed", values={"fix": f"# {fix}"})


def memory(look: Look) -> Outcome:
    """Return whether the host or the container has memory for the workers."""
    free = free_memory_bytes(look.host)
    if free is None:
        return Outcome("host-memory", "unknown", "the free memory can't be read")
    low = 2 * GIB if look.profile == "cpu" else HOST_MEMORY_WARN
    said = f"{free / GIB:.1f} GiB free"
    if free >= low:
        return Outcome("host-memory", "ok", said)
    return Outcome("host-memory", "warn", f"{said}: loading wants {low // GIB} GiB or more")


def shared_memory(look: Look) -> Outcome:
    """Return whether /dev/shm is large enough for the queues between workers."""
    if not look.host.exists("/dev/shm"):
        return Outcome("container-shm", "unknown", "there is no /dev/shm")
    space = free_space(look.host, "/dev/shm")
    if space is None:
        return Outcome("container-shm", "unknown", "the size of /dev/shm can't be read")
    said = f"/dev/shm: {space.free / GIB:.2f} of {space.total / GIB:.2f} GiB free"
    verdict: Verdict = (
        "fail"
        if space.free < SHM_FAIL and look.profile != "cpu"
        else "warn"
        if space.free < SHM_WARN
        else "ok"
    )
    return Outcome("container-shm", verdict, said)


def container_checks(look: Look) -> Iterator[Outcome]:
    """Yield whether the files and nodes that the driver's libraries read are there."""
    host = look.host
    a5 = look.family == "a5"
    nodes = ["davinci_manager", "hisi_hdc", *([] if a5 else ["devmm_svm"])]
    missing = [f"/dev/{name}" for name in nodes if not host.exists(f"/dev/{name}")]
    flags = " ".join(f"--device={path}" for path in missing)
    if missing:
        said = f"missing: {', '.join(missing)}"
        values = {"fix": f"start the container with {flags}"}
        yield Outcome("container-nodes", "fail", said, values=values)
    else:
        yield Outcome("container-nodes", "ok", ", ".join(f"/dev/{name}" for name in nodes))
    yield files(look)


def files(look: Look) -> Outcome:
    """Return which files of the driver a container lacks."""
    host = look.host
    wanted = {
        "/etc/ascend_install.info": "fail",
        "/usr/local/Ascend/driver/version.info": "warn",
        "/usr/local/Ascend/driver/lib64": "fail",
        "/usr/local/dcmi": "warn",
    }
    if look.nodes > 1:
        wanted["/etc/hccn.conf"] = "fail"
    if look.family == "a5":
        wanted["/etc/hccl_rootinfo.json"] = "warn"
    missing = [path for path in wanted if not host.exists(path)]
    if not missing:
        return Outcome("container-files", "ok", f"{len(wanted)} files and directories are there")
    mounts = " ".join(f"-v {path}:{path}" for path in missing)
    place = (
        "start the container with" if in_container(host) else "install the driver; in a container"
    )
    worst: Verdict = "fail" if any(wanted[path] == "fail" for path in missing) else "warn"
    return Outcome(
        "container-files",
        worst,
        f"missing: {', '.join(missing)}",
        values={"fix": f"{place} {mounts}"},
    )


def weights_check(look: Look) -> Iterator[Outcome]:
    """Yield whether the weights are here, or whether the disk has room for them."""
    if look.compiled is None:
        yield Outcome("weights", "unknown", "there is no plan to tell the weights from")
        return
    plan, facts = look.compiled.plan, look.compiled.facts
    command = f"ascend-v4 download --profile {plan.profile} --model {plan.model_id}"
    place = Path(plan.model_path)
    if (place / "config.json").is_file():
        yield Outcome("weights", "ok", f"{plan.model_path} is there (ascend-v4 verify reads it)")
        return
    if plan.checkpoint == "rehearsal":
        yield Outcome("weights", "ok", "the rehearsal checkpoint is built when it is served")
        return
    size = float(facts.get("checkpoint_gib") or 0)
    space = free_space(look.host, str(place))
    free = space.free / GIB if space else None
    values = {"fix": f"{command} --dir {shlex.quote(plan.model_path)}"}
    said = f"no weights in {plan.model_path}"
    if size and free is not None and free < size:
        message = f"{said}, and {free:.0f} GiB free where {size:.0f} GiB are needed"
        room = {"fix": f"# make room, or name another directory: {command} --dir DIR"}
        yield Outcome("weights", "fail", message, (), room, ExitCode.HOST_NOT_READY)
    else:
        yield Outcome(
            "weights", "warn", f"{said}; {free or 0:.0f} GiB free, {size:.0f} needed", (), values
        )
