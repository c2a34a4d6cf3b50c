"""Who a process is: a run of ours by its id, else its name, user and command."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ascend_v4.host.system import Host

__all__ = ["Holder", "holder_of", "told"]


@dataclass(frozen=True)
class Holder:
    """A process that holds a device; memory in MB. What this user may not see is ``""``."""

    pid: int
    name: str
    memory_mb: int | None
    run: str = ""
    user: str = ""


def holder_of(host: Host, pid: int, name: str, memory_mb: int | None) -> Holder:
    """Return who ``pid`` is, as far as /proc tells this user; never raises."""
    environ = host.read_text(f"/proc/{pid}/environ") or ""
    run = re.search(r"(?:^|\0)ASCEND_V4_RUN_ID=([\w.-]{1,64})", environ)
    comm = (host.read_text(f"/proc/{pid}/comm") or "").strip()
    owner = re.search(r"^Uid:\s+(\d{1,10})", host.read_text(f"/proc/{pid}/status") or "", re.M)
    return Holder(
        pid,
        name or comm,
        memory_mb,
        run[1] if run else "",
        user_name(host, owner[1]) if owner else "",
    )


def user_name(host: Host, uid: str) -> str:
    """Return the name of a user id as the host's passwd has it, else the number."""
    for line in (host.read_text("/etc/passwd") or "").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2] == uid:
            return fields[0]
    return uid


def told(holder: Holder) -> str:
    """Return a holder in a few words."""
    size = "" if holder.memory_mb is None else f", {holder.memory_mb} MB"
    whose = f", run {holder.run}" if holder.run else f", user {holder.user}" if holder.user else ""
    return f"{holder.name or 'a process'} (pid {holder.pid}{whose}{size})"
