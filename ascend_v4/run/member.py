"""One member of a run: its guardian, its engine's main process and its log."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import guardian
from .logs import LogFile, Masker, Tail, pump
from .phases import Phases
from .procs import MEMBER_VARIABLE, RUN_VARIABLE, Proc, descendants, send, start_of, title

__all__ = ["Ending", "Member"]

#: Keeps setproctitle from overwriting the environment that ``/proc`` shows; its README:
#: https://github.com/dvarrazzo/py-setproctitle#environment-variables
KEEP_ENVIRON = ("SPT_NOENV", "1")


@dataclass
class Ending:
    """How a member ended: ``status`` as subprocess gives it, processes killed and left behind."""

    status: int | None = None
    killed: list[dict[str, Any]] = field(default_factory=list)
    left: list[dict[str, Any]] = field(default_factory=list)
    guardian_lost: bool = False


class Member:
    """A member that was started; ``argv[0]`` is a full path, ``env`` the engine's environment.

    ``claims`` are file descriptors of locks that stay held until the guardian ends too.
    ``sinks`` get each line of the log, secrets masked.
    """

    def __init__(
        self,
        run_id: str,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        masker: Masker,
        claims: Sequence[int] = (),
        sinks: Sequence[Callable[[str], None]] = (),
        grace_s: float = guardian.GRACE_S,
        cleanup: Sequence[Sequence[str]] = (),
    ) -> None:
        self.run_id, self.name = run_id, name
        self.main: Proc | None = None
        self.exit_status: int | None = None
        self.ending: Ending | None = None
        self.phases = Phases()
        self.tail = Tail()
        self.log = LogFile(log)
        self._buffer = b""
        self.known: dict[int, Proc] = {}
        ours, theirs = socket.socketpair()
        self.socket = ours
        with theirs:
            self.guardian = self._guardian(theirs.fileno(), claims)
        assert self.guardian.stdout is not None
        self.copier = pump(
            self.guardian.stdout, masker, (self.log.write, self.tail, self.phases, *sinks)
        )
        marks = {RUN_VARIABLE: run_id, MEMBER_VARIABLE: name, KEEP_ENVIRON[0]: KEEP_ENVIRON[1]}
        spec = {"argv": list(argv), "env": {**env, **marks}, "grace_s": grace_s}
        self._say({**spec, "cleanup": [list(command) for command in cleanup]})

    def _guardian(self, fd: int, claims: Sequence[int]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", guardian.__file__, self.run_id, self.name, str(fd)]
        small = {
            name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ
        }
        return subprocess.Popen(
            command,
            env={**small, RUN_VARIABLE: self.run_id, "MALLOC_ARENA_MAX": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[fd, *claims],
            start_new_session=True,
        )

    def fileno(self) -> int:
        """Return the descriptor that is readable when the guardian has something to say."""
        return self.socket.fileno()

    def signal(self, number: int) -> None:
        """Send a signal to the engine's main process, through the guardian that watches it."""
        self._say({"signal": number})

    def kill(self) -> None:
        """Kill every process of the member now."""
        self._say({"now": True})

    def _say(self, order: dict[str, Any]) -> None:
        # A guardian that is gone shows as the end of the socket, not here.
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(order).encode() + b"\n")

    def hear(self) -> None:
        """Take what the guardian says; sets ``main``, ``exit_status`` and ``ending``."""
        try:
            data = self.socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._finish()
            return
        self._buffer += data
        while b"\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\n")
            self._take(json.loads(line))

    def _take(self, news: dict[str, Any]) -> None:
        if "main" in news:
            self.main = Proc(news["main"]["pid"], news["main"]["start"], self.guardian.pid, "S")
        if "exit" in news:
            self.exit_status = int(news["exit"])
        if "end" in news:
            end = news["end"]
            self.ending = Ending(self.exit_status, end["killed"], end["left"])

    def _finish(self) -> None:
        """The guardian is gone: after its last word all is done, without it we clean up."""
        if self.ending is None:
            self.ending = Ending(self.exit_status, guardian_lost=True)
        self.guardian.wait()
        self.socket.close()
        if not self.ending.left and not self.ending.guardian_lost:
            self.copier.join(timeout=5.0)
        self.log.close()

    @property
    def over(self) -> bool:
        """Whether the member and its guardian are gone."""
        return self.socket.fileno() < 0

    def wait_over(self, timeout_s: float) -> bool:
        """Listen until the guardian is gone, at most ``timeout_s`` seconds."""
        while not self.over:
            if not select.select([self.socket], [], [], timeout_s)[0]:
                return False
            self.hear()
        return True

    def settle(self) -> None:
        """Give the log's reader a moment for the last lines, where the error is."""
        deadline = time.monotonic() + 0.5
        while self.copier.is_alive() and time.monotonic() < deadline:
            if self.wait_over(0.02):
                return

    def refresh(self, table: dict[int, Proc]) -> None:
        """Remember the member's processes of now, for a clean-up without a guardian."""
        if not self.over:
            self.known = {p.pid: p for p in descendants(self.guardian.pid, table) if not p.over}

    def state(self) -> dict[str, Any]:
        """Return the member as the state file holds it; start times in clock ticks since boot."""
        main = {"pid": self.main.pid, "start": self.main.start} if self.main else None
        return {
            "name": self.name,
            "guardian": {"pid": self.guardian.pid, "start": start_of(self.guardian.pid)},
            "main": main,
            "exit_status": self.exit_status,
            "processes": [
                {"pid": p.pid, "start": p.start, "title": title(p.pid)} for p in self.known.values()
            ],
        }

    def signal_known(self, number: int) -> None:
        """Signal the processes seen last, each only if it is still the very same one."""
        for proc in self.known.values():
            send(proc, number)
