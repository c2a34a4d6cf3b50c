"""Which processes belong to a run, told without names and safe against recycled pids.

A process is known by its pid *and* its start time (field 22 of ``/proc/PID/stat``, clock
ticks since boot). It belongs to a run when it carries the run id in its environment, or
when the kernel says that it descends from the run's guardian. Both are needed: the
engine's processes rename themselves with setproctitle, which overwrites
``/proc/PID/environ`` (observed with vLLM 0.32.0) unless ``SPT_NOENV`` is set, and a
process that was reparented past the guardian has only its environment left.

Standard library only, and little of it: the guardian imports this.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import NamedTuple

__all__ = [
    "KEEPER_VARIABLE",
    "MEMBER_VARIABLE",
    "RUN_VARIABLE",
    "Proc",
    "alive",
    "boot_id",
    "carriers",
    "descendants",
    "environment",
    "identify",
    "keeps",
    "left_over",
    "scan",
    "send",
    "start_of",
    "title",
]

RUN_VARIABLE = "ASCEND_V4_RUN_ID"
MEMBER_VARIABLE = "ASCEND_V4_MEMBER"
#: Marks the process that holds a finished run's claims: of the run, and no stray.
KEEPER_VARIABLE = "ASCEND_V4_KEEPER"
#: States that are over: only the parent's wait is missing, nothing is held.
OVER = ("Z", "X")


class Proc(NamedTuple):
    """A process as the kernel lists it; ``start`` is in clock ticks since boot."""

    pid: int
    start: int
    ppid: int
    state: str

    @property
    def over(self) -> bool:
        """Whether it has ended and only waits to be reaped."""
        return self.state in OVER


def identify(pid: int) -> Proc | None:
    """Return the process that has ``pid`` now, or None."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  pathlib is not imported here
            text = file.read()
    except OSError:
        return None
    # The name in parentheses may hold anything, also parentheses and spaces.
    fields = text[text.rindex(b")") + 2 :].split()
    return Proc(pid, int(fields[19]), int(fields[1]), fields[0].decode())


def start_of(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if there is none."""
    found = identify(pid)
    return found.start if found else 0


def alive(pid: int, start: int) -> bool:
    """Whether the very process (not a later one of the same pid) still runs."""
    found = identify(pid)
    return found is not None and found.start == start and not found.over


def boot_id() -> str:
    """Return the id of this boot: start times of another boot mean nothing."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return ""


def scan() -> dict[int, Proc]:
    """Return every process by pid."""
    found = (identify(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    return {proc.pid: proc for proc in found if proc is not None}


def descendants(root: int, table: dict[int, Proc] | None = None) -> list[Proc]:
    """Return the processes below ``root`` in the kernel's tree, nearest first, without it."""
    table = scan() if table is None else table
    children: dict[int, list[Proc]] = {}
    for proc in table.values():
        children.setdefault(proc.ppid, []).append(proc)
    below, queue = [], [root]
    while queue:
        for proc in children.get(queue.pop(0), ()):
            below.append(proc)
            queue.append(proc.pid)
    return below


def environment(pid: int) -> list[bytes]:
    """Return the ``NAME=value`` entries of a process; empty where it can't be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            return file.read().split(b"\0")
    except OSError:
        return []


def carriers(
    run_id: str, member: str | None = None, table: dict[int, Proc] | None = None
) -> list[Proc]:
    """Return the processes, not over, whose environment names the run (and the member)."""
    wanted = [f"{RUN_VARIABLE}={run_id}".encode()]
    if member is not None:
        wanted.append(f"{MEMBER_VARIABLE}={member}".encode())
    found = []
    for proc in (scan() if table is None else table).values():
        if proc.over:
            continue
        entries = environment(proc.pid)
        if all(entry in entries for entry in wanted):
            found.append(proc)
    return found


def keeps(pid: int) -> bool:
    """Whether a process is one of ours that only holds claims."""
    return any(entry.startswith(f"{KEEPER_VARIABLE}=".encode()) for entry in environment(pid))


def send(proc: Proc, number: int) -> bool:
    """Send a signal to the very process; False when it is gone or may not be signalled.

    A pidfd holds the process while its start time is compared, so that a pid that was
    recycled in between is never hit.
    """
    if proc.pid <= 1:
        return False
    try:
        handle = os.pidfd_open(proc.pid)
    except ProcessLookupError:
        return False
    except (OSError, AttributeError):
        # Kernels before 5.3, and sandboxes that refuse the call.
        return send_by_pid(proc, number)
    try:
        found = identify(proc.pid)
        if found is None or found.start != proc.start:
            return False
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def send_by_pid(proc: Proc, number: int) -> bool:
    """Send a signal by pid, as close behind the check of the start time as can be."""
    found = identify(proc.pid)
    if found is None or found.start != proc.start:
        return False
    try:
        os.kill(proc.pid, number)
    except OSError:
        return False
    return True


def title(pid: int) -> str:
    """Return what a process calls itself: its command line, else its short name."""
    for name in ("cmdline", "comm"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123
                text = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if text:
            return text[:120]
    return "?"


def left_over(procs: Iterable[Proc]) -> list[Proc]:
    """Return those of the processes that still run, as they are now."""
    now = (identify(proc.pid) for proc in procs if alive(proc.pid, proc.start))
    return [proc for proc in now if proc is not None]
