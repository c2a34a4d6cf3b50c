"""What commands do to runs that exist: look, wait, stop, reap. State files are checked
against the kernel: a run is alive by its lock, a process by pid and start time.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import guardian
from .procs import RUN_VARIABLE, Proc, alive, environment, scan, send, title
from .state import RunDir, all_runs, members_alive
from .strays import described, sweep

__all__ = ["look", "reap", "stop", "stray_rows", "stray_runs", "wait_until"]

POLL_S = 0.1


def look(run: RunDir) -> dict[str, Any]:
    """Return a run as ``status`` shows it, its state corrected by what is really there."""
    state, end = run.read("state"), run.read("exit")
    launcher_alive = run.alive()
    procs = members_alive(run)
    shown = str(state.get("state", "unknown"))
    if not launcher_alive and shown not in ("stopped", "failed"):
        shown = "cleaning-up" if procs else "lost"
    return {
        "run_id": run.run_id,
        "state": shown,
        "phase": state.get("phase", ""),
        "endpoint": state.get("endpoint", ""),
        "model": state.get("model", ""),
        "profile": state.get("profile", ""),
        "engine": state.get("engine", ""),
        "runtime": state.get("runtime", ""),
        "resources": state.get("resources", []),
        "deployment": state.get("deployment", ""),
        "node": state.get("node", ""),
        "started_at": state.get("started_at"),
        "ready_at": state.get("ready_at") if shown in ("ready", "lost", "cleaning-up") else None,
        "starts": state.get("starts", 0),
        "launcher": state.get("launcher") if launcher_alive else None,
        "processes": [described(proc) for proc in procs],
        "exit": end or None,
        "directory": str(run.path),
    }


def wait_until(run: RunDir, wanted: str, timeout_s: float | None) -> str:
    """Wait for ``ready`` or ``stopped``; return what came: it, ``stopped`` or ``timeout``."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        living = run.alive()
        if not living and (wanted == "ready" or not members_alive(run)):
            return "stopped"
        if wanted == "ready" and run.read("state").get("state") == "ready":
            return "ready"
        if deadline is not None and time.monotonic() >= deadline:
            return "timeout"
        time.sleep(POLL_S)


def stop(
    run: RunDir, *, now: bool, timeout_s: float, say: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Stop a run and wait until nothing of it is left; return what could not be stopped.

    A run that is over already needs nothing. ``now`` doesn't drain. Asked again while it
    drains, it only waits.
    """
    deadline = time.monotonic() + timeout_s
    launcher = run.launcher()
    while launcher is None and run.alive() and time.monotonic() < deadline:
        time.sleep(POLL_S)
        launcher = run.launcher()
    if run.alive():
        if launcher is None:
            return [{"pid": 0, "state": "?", "title": "a launcher that did not say its pid"}]
        if now:
            send(launcher, signal.SIGQUIT)
        else:
            run.ask_to_drain(launcher)
        say(f"{'stopping' if now else 'draining'} {run.run_id}")
        while run.alive() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if run.alive():
            return [described(launcher)]
    # The launcher was killed: its guardians are at work, or were killed too.
    deadline = time.monotonic() + 5.0
    while (left := members_alive(run)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if not left:
        return []
    _, unkilled = sweep(run.run_id, {proc.pid: proc for proc in left})
    return unkilled


def run_id_of(pid: int) -> str:
    """Return the run id in a process's environment, ``""`` if it has none."""
    head = f"{RUN_VARIABLE}=".encode()
    return next(
        (e[len(head) :].decode(errors="replace") for e in environment(pid) if e.startswith(head)),
        "",
    )


def stray_runs(env: Mapping[str, str]) -> dict[str, list[Proc]]:
    """Return the strays by run id: processes of a run with no launcher and no guardian left.

    Found by the run id in their environment, and by the records of this user's runs.
    """
    table = scan()
    found: dict[str, dict[int, Proc]] = {}
    for proc in table.values():
        run_id = "" if proc.over or proc.pid == os.getpid() else run_id_of(proc.pid)
        if run_id:
            found.setdefault(run_id, {})[proc.pid] = proc
    runs = {run.run_id: run for run in all_runs(env)}
    for run_id, run in runs.items():
        for proc in run.recorded():
            if alive(proc.pid, proc.start):
                found.setdefault(run_id, {})[proc.pid] = table.get(proc.pid, proc)
    return {
        run_id: list(procs.values())
        for run_id, procs in sorted(found.items())
        if not (run_id in runs and runs[run_id].alive()) and not guarded(run_id, procs)
    }


def guarded(run_id: str, procs: Mapping[int, Proc]) -> bool:
    """Whether a guardian of the run lives: it is at work, and a run of another user is its own."""
    # By its file's name only: a run may come from another installation of ours.
    mark = f"{Path(guardian.__file__).name} {run_id} "
    return any(mark in title_whole(pid) for pid in procs)


def title_whole(pid: int) -> str:
    """Return the whole command line of a process."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
            return file.read().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def reap(found: Mapping[str, list[Proc]]) -> list[dict[str, Any]]:
    """Kill strays; return those that can't be killed."""
    left: list[dict[str, Any]] = []
    for run_id, procs in found.items():
        _, unkilled = sweep(run_id, {proc.pid: proc for proc in procs})
        left += unkilled
    return left


def stray_rows(found: Mapping[str, list[Proc]]) -> list[dict[str, Any]]:
    """Return strays as reports show them."""
    return [
        {"run_id": run_id, "pid": proc.pid, "state": proc.state, "title": title(proc.pid)}
        for run_id, procs in found.items()
        for proc in procs
    ]
