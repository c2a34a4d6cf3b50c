"""What is left of a run whose guardian could not clean up, and how to end it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from .procs import Proc, alive, carriers, descendants, keeps, scan, send, title

__all__ = ["described", "strays", "sweep"]

SWEEP_S = 5.0


def sweep(
    run_id: str, known: Mapping[int, Proc]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Kill whatever of a run is left; return what was killed and what can't be.

    For the case that a guardian was killed itself. Never signals a process that neither
    carries the run id nor was seen in the run's tree with the same start time.
    """
    deadline = time.monotonic() + SWEEP_S
    killed: dict[int, dict[str, Any]] = {}
    while True:
        left = strays(run_id, known)
        if not left or time.monotonic() > deadline:
            names = [described(proc) for proc in left]
            gone = [p for p in killed.values() if p["pid"] not in {n["pid"] for n in names}]
            return gone, names
        for proc in left:
            killed.setdefault(proc.pid, described(proc))
            send(proc, signal.SIGKILL)
        time.sleep(0.05)
        for pid in killed:
            # Orphans were handed to us, a child subreaper.
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)


def strays(run_id: str, known: Mapping[int, Proc]) -> list[Proc]:
    """Return the live processes of a run, found by its id, by record and by descent."""
    table = scan()
    roots = {p.pid: p for p in carriers(run_id, table=table)}
    for proc in known.values():
        if alive(proc.pid, proc.start) and not keeps(proc.pid):
            roots[proc.pid] = table.get(proc.pid, proc)
    for root in list(roots.values()):
        roots |= {p.pid: p for p in descendants(root.pid, table) if not p.over}
    roots.pop(os.getpid(), None)
    return list(roots.values())


def described(proc: Proc) -> dict[str, Any]:
    """Return a process as reports show it."""
    return {
        "pid": proc.pid,
        "start": proc.start,
        "state": proc.state,
        "title": title(proc.pid),
    }
