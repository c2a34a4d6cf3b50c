"""The folder of a run: plan, state, exit report, logs; written atomically, trusted with care.

A run is alive when its launcher holds the lock on ``launcher.lock``, which the kernel
drops with the process. Pids are always kept with start times and the boot they belong to.
"""

from __future__ import annotations

import contextlib
import errno
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

from .procs import Proc, alive, boot_id, send, start_of
from .records import parsed
from .strays import strays

__all__ = [
    "RunDir",
    "all_runs",
    "find_run",
    "live_runs",
    "lock_held",
    "members_alive",
    "new_run",
    "prune",
    "write_atomic",
]

KEEP_RUNS = 20
SCHEMA = 1
#: Bytes of a state file: about a hundred processes.
ROOM = 16 * 1024
#: Linux's PID_MAX_LIMIT (proc(5), pid_max).
MAX_PID = 2**22


def as_text(value: object) -> str:
    """Return what a JSON file of ours holds."""
    return json.dumps(value, indent=1) + "\n"


def write_atomic(path: Path, value: object, room: int = 0) -> None:
    """Write JSON so that a reader sees the old or the new file, never a part; raises OSError.

    The file gets at least ``room`` bytes, for :func:`overwrite`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(as_text(value).ljust(room), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def overwrite(path: Path, value: object) -> None:
    """Write JSON into a file that is there, in the space that it has; raises OSError.

    For a full disk. A reader in the same moment finds it damaged, and has to look again.
    """
    handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        data, size = as_text(value).encode(), os.fstat(handle).st_size
        if len(data) > size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.pwrite(handle, data.ljust(size), 0)
    finally:
        os.close(handle)


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
        """Write one of the folder's JSON files; a full disk is survived and returns False.

        The state has room, so that it still tells the truth when the disk has none.
        """
        path = self.path / f"{name}.json"
        try:
            write_atomic(path, value, ROOM if name == "state" else 0)
        except OSError:
            try:
                overwrite(path, value)
            except OSError:
                return False
        return True

    def read(self, name: str) -> dict[str, Any]:
        """Return one of the folder's JSON files; {} when it is missing or damaged.

        What a state or a report says has the right type, or is left out.
        """
        try:
            return parsed(name, (self.path / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def lock(self, facts: Mapping[str, Any]) -> None:
        """Hold the run: as long as this process lives the run counts as alive.

        Its first state says who prepares it, so that ``stop`` finds whom to ask. Raises
        AscendV4Error (host not ready) where there is no room for that.
        """
        first = {**self.first_state(), "state": "preparing", **facts}
        try:
            self._lock = os.open(self.path / "launcher.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            write_atomic(self.path / "state.json", first, ROOM)
        except OSError as error:
            raise unwritable(self.path, error) from error

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
            # No room for a file: only the state can tell that somebody asked before.
            if self.read("state").get("state") != "draining":
                send(launcher, signal.SIGTERM)
            return
        try:
            fcntl.flock(asked, fcntl.LOCK_EX)
            if os.fstat(asked).st_size == 0 and self.read("state").get("state") != "draining":
                send(launcher, signal.SIGTERM)
                # A length without content needs no room on a full disk.
                with contextlib.suppress(OSError):
                    os.ftruncate(asked, 1)
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
    if not isinstance(pid, int) or not isinstance(start, int) or start <= 0:
        return None
    if not 1 < pid <= MAX_PID:
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
        # Nothing but ours can be empty.
        with contextlib.suppress(OSError):
            path.rmdir()
        raise unwritable(path, error) from error
    return RunDir(path)


def unwritable(path: Path, error: OSError) -> AscendV4Error:
    """Return the error of a run's folder that can't be made or written."""
    room = "make room there, or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return AscendV4Error(
        ExitCode.HOST_NOT_READY,
        "no-state-directory",
        f"the state directory {path.parent} can't be written: {error.strerror}",
        f"{room}set XDG_STATE_HOME to a directory of yours",
    )


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
    """Remove the oldest finished runs, so that ``keep`` stay; none of which a process lives.

    What its guardians could not end would be of no known run.
    """
    finished = [run for run in all_runs(env) if not run.alive()]
    for run in finished[: max(0, len(finished) - keep)]:
        if not members_alive(run):
            shutil.rmtree(run.path, ignore_errors=True)


def members_alive(run: RunDir) -> list[Proc]:
    """Return the live processes of a run: guardians and engine, without the launcher."""
    known = {proc.pid: proc for proc in run.recorded() if alive(proc.pid, proc.start)}
    return strays(run.run_id, known)
