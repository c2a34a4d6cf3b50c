"""A cgroup v2 of its own for a member, where this process may make one.

``cgroup.kill`` then kills every process of the member at one stroke, also those that
fork faster than ``/proc`` can be read. Optional: the guardian does without. Source:
https://docs.kernel.org/admin-guide/cgroup-v2.html (delegation, cgroup.kill).
"""

from __future__ import annotations

import os

__all__ = ["enter", "kill", "make", "remove"]

SWITCH = "ASCEND_V4_CGROUP"


def own_directory() -> str:
    """Return this process's directory in the cgroup v2 tree, or ``""``."""
    try:
        with open("/proc/self/mountinfo") as file:  # noqa: PTH123
            mounts = [line.split() for line in file]
        with open("/proc/self/cgroup") as file:  # noqa: PTH123
            paths = [line.strip()[3:] for line in file if line.startswith("0::")]
    except OSError:
        return ""
    for fields in mounts:
        if "cgroup2" in fields[fields.index("-") :] and fields[3] == "/" and paths:
            return fields[4] + (paths[0] if paths[0] != "/" else "")
    return ""


def delegated(directory: str) -> bool:
    """Whether the tree below ``directory`` was given to us to manage.

    systemd marks what it delegates; an owner who isn't root was given it; and the root
    of a tree that can be written is ours to use (a container's own namespace).
    """
    try:
        owner = os.stat(directory).st_uid  # noqa: PTH116
    except OSError:
        return False
    if not os.access(directory, os.W_OK) or not os.access(f"{directory}/cgroup.procs", os.W_OK):
        return False
    if owner == os.geteuid() != 0:
        return True
    for name in ("trusted.delegate", "user.delegate"):
        try:
            if os.getxattr(directory, name) == b"1":
                return True
        except OSError:
            continue
    return False


def make(run_id: str, member: str) -> str:
    """Make the member's cgroup and return its directory; ``""`` where we may not or need not."""
    base = own_directory() if os.environ.get(SWITCH, "1") != "0" else ""
    if not base or not delegated(base):
        return ""
    directory = f"{base}/ascend-v4-{run_id}-{member}"
    try:
        os.mkdir(directory)  # noqa: PTH102
    except OSError:
        return ""
    if not os.path.exists(f"{directory}/cgroup.kill"):  # noqa: PTH110  before Linux 5.14
        remove(directory)
        return ""
    return directory


def write(path: str, text: str) -> bool:
    """Write a control file; False where the kernel refuses."""
    try:
        with open(path, "w") as file:  # noqa: PTH123
            file.write(text)
    except OSError:
        return False
    return True


def enter(directory: str) -> None:
    """Move this process into the cgroup; staying outside costs nothing but the one stroke."""
    if directory:
        write(f"{directory}/cgroup.procs", "0")


def kill(directory: str) -> None:
    """Kill every process of the cgroup."""
    if directory:
        write(f"{directory}/cgroup.kill", "1")


def remove(directory: str) -> None:
    """Remove the cgroup; it stays when something in it can't be killed."""
    if directory:
        try:
            os.rmdir(directory)  # noqa: PTH106
        except OSError:
            return
