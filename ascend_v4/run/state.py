"""The folder of a run: plan, state, exit report, logs; written atomically, trusted with care.

A run is alive when its launcher holds the lock on ``launcher.lock``, which the kernel
drops with the process. Pids are always kept with start times and the boot they belong to.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.paths import runs_dir

from .procs import Proc, boot_id, send, start_of

__all__ = [
    "RunDir",
    "all_runs",
    "find_run",
    "live_runs",
    "lock_held",
    "new_run",
    "prune",
    "write_atomic",
]

KEEP_RUNS = 20
SCHEMA = 1


def write_atomic(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old or the new file, never a part; raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def lock_held(path: Path) -> bool:
    """Whether somebody holds the lock on a file now; False where there is no such file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


class RunDir:
    """One run's folder; nothing is created by looking."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id = path.name
        self._lock: int | None = None

    def log(self, member: str) -> Path:
        """Return the path of a member's log."""
        return self.path / "logs" / f"{member}.log"

    def members(self) -> list[str]:
        """Return the members that have a log, in order of their names."""
        return sorted(path.stem for path in (self.path / "logs").glob("*.log"))

    def write(self, name: str, value: Mapping[str, Any]) -> bool:
        """Write one of the folder's JSON files; a full disk is survived and returns False."""
        try:
            write_atomic(self.path / f"{name}.json", value)
        except OSError:
            return False
        return True

    def read(self, name: str) -> dict[str, Any]:
        """Return one of the folder's JSON files; {} when it is missing or damaged."""
        try:
            found = json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def lock(self, facts: Mapping[str, Any]) -> None:
        """Hold the run: as long as this process lives the run counts as alive.

        Its first state says who prepares it, so that ``stop`` finds whom to ask.
        """
        self._lock = os.open(self.path / "launcher.lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.write("state", {**self.first_state(), "state": "preparing", **facts})

    def first_state(self) -> dict[str, Any]:
        """Return the state of a run whose launcher is this process and that has no member."""
        return {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "boot_id": boot_id(),
            "launcher": {"pid": os.getpid(), "start": start_of(os.getpid())},
            "started_at": time.time(),
            "state": "starting",
            "phase": "",
            "ready_at": None,
            "starts": 0,
            "members": [],
        }

    def ask_to_drain(self, launcher: Proc) -> None:
        """Send TERM, once however many ask: a second one would stop it without a drain."""
        try:
            asked = os.open(self.path / "stop.asked", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            send(launcher, signal.SIGTERM)
            return
        try:
            fcntl.flock(asked, fcntl.LOCK_EX)
            if os.fstat(asked).st_size == 0 and self.read("state").get("state") != "draining":
                send(launcher, signal.SIGTERM)
                os.write(asked, b"TERM\n")
        finally:
            os.close(asked)

    def unlock(self) -> None:
        """Let the run go."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def alive(self) -> bool:
        """Whether the launcher of the run still lives."""
        return lock_held(self.path / "launcher.lock")

    def launcher(self) -> Proc | None:
        """Return the launcher as the state names it, of this boot only."""
        state = self.read("state")
        return as_proc(state.get("launcher"), state)

    def recorded(self) -> list[Proc]:
        """Return the guardians and engine processes that the state names, of this boot only."""
        state = self.read("state")
        found = []
        for member in state.get("members") or []:
            entries = [member.get("guardian"), member.get("main"), *member.get("processes", [])]
            found += [proc for entry in entries if (proc := as_proc(entry, state))]
        return list({proc.pid: proc for proc in found}.values())

    def started_at(self) -> float:
        """Return when the run was made, in seconds since the epoch."""
        return float(self.read("state").get("started_at") or 0.0)


def as_proc(entry: object, state: Mapping[str, Any]) -> Proc | None:
    """Return a recorded pid with its start time; None if it is malformed or of another boot."""
    if state.get("boot_id") != boot_id() or not isinstance(entry, dict):
        return None
    pid, start = entry.get("pid"), entry.get("start")
    if not isinstance(pid, int) or not isinstance(start, int) or pid <= 1 or start <= 0:
        return None
    return Proc(pid, start, 0, "?")


def new_run(env: Mapping[str, str]) -> RunDir:
    """Make the folder of a new run; its id is the UTC time to the millisecond and two letters.

    Ids sort by time.

    Raises AscendV4Error (host not ready) when the state directory can't be written.
    """
    now = time.time()
    moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    name = f"{moment}-{int(now * 1000) % 1000:03}{secrets.token_hex(1)}"
    path = runs_dir(env) / name
    try:
        # The folder itself is closed: plan, state and report hold lines of the log as well.
        path.mkdir(parents=True, mode=0o700)
        (path / "logs").mkdir(mode=0o700)
    except OSError as error:
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "no-state-directory",
            f"the state directory {path.parent} can't be written: {error.strerror}",
            "set XDG_STATE_HOME to a directory of yours",
        ) from error
    return RunDir(path)


def all_runs(env: Mapping[str, str]) -> list[RunDir]:
    """Return every run of this user, oldest first."""
    try:
        entries = sorted(path for path in runs_dir(env).iterdir() if (path / "logs").is_dir())
    except OSError:
        return []
    return [RunDir(path) for path in entries]


def find_run(env: Mapping[str, str], run_id: str | None) -> RunDir:
    """Return the run that a command means.

    With an id (or a beginning that only one run has), that run; ``last``, the newest;
    without one, the only run that is alive, else the only run there is. A node's part of
    a deployment that is coordinated here counts as its coordinator's. Raises
    AscendV4Error (usage) listing the ids otherwise.
    """
    runs = all_runs(env)
    if run_id == "last" and runs:
        return whole_runs(runs)[-1]
    if run_id:
        found = [r for r in runs if r.run_id == run_id] or [
            r for r in runs if r.run_id.startswith(run_id)
        ]
    else:
        found = live_runs(env) or whole_runs(runs)
    if len(found) == 1:
        return found[0]
    shown = ", ".join(run.run_id for run in (found or runs)[-5:])
    if not runs:
        cause = "this user has no run" + (f", so none is called '{run_id}'" if run_id else "")
        raise AscendV4Error(ExitCode.USAGE, "which-run", cause, "start one with ascend-v4 serve")
    if not found:
        cause = f"there is no run '{run_id}'; the newest are {shown}"
    else:
        cause = f"there are {len(found)} runs and none was named; the newest are {shown}"
    raise AscendV4Error(
        ExitCode.USAGE, "which-run", cause, "name the run (or `last`): ascend-v4 ps --all"
    )


def live_runs(env: Mapping[str, str]) -> list[RunDir]:
    """Return the runs of this user that are alive, see :func:`whole_runs`."""
    return whole_runs([run for run in all_runs(env) if run.alive()])


def whole_runs(runs: Sequence[RunDir]) -> list[RunDir]:
    """Return the runs, oldest first, without the parts of what another of them coordinates."""
    states = {run.run_id: run.read("state") for run in runs}
    whole = [run for run in runs if states[run.run_id].get("cluster")]
    return [
        run
        for run in runs
        if not any(
            one.run_id < run.run_id
            and states[one.run_id]["cluster"] == states[run.run_id].get("deployment")
            and (one.alive() or one.read("exit").get("ended_at", 0) > run.started_at())
            for one in whole
        )
    ]


def prune(env: Mapping[str, str], keep: int = KEEP_RUNS) -> None:
    """Remove the oldest finished runs, so that ``keep`` stay."""
    finished = [run for run in all_runs(env) if not run.alive()]
    for run in finished[: max(0, len(finished) - keep)]:
        shutil.rmtree(run.path, ignore_errors=True)
