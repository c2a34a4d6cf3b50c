"""One server process: start it, stream its log, wait until it serves, stop it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import IO, Any

from ascend_v4.errors import AscendV4Error, ExitCode

from .ready import ReadyProbe

__all__ = ["Server", "supervise"]

POLL_S = 0.2
#: Seconds that members of the run get between TERM and KILL once the server is gone.
GRACE_S = 5.0


class Server:
    """A ``vllm serve`` in a session of its own, its log copied to our stderr.

    ``argv`` names the program by full path, ``env`` is its whole environment.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            list(argv),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self._copier = threading.Thread(target=copy_log, args=(self.process.stdout,), daemon=True)
        self._copier.start()

    def exit_code(self) -> int | None:
        """Return the exit status of the server (-n: killed by signal n), None while it runs."""
        return self.process.poll()

    def signal(self, number: int) -> None:
        """Send a signal to the server itself; it stops its own engine processes."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill_group(self, number: int) -> None:
        """Send a signal to every process of the server's own group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        """Leave nothing behind: end what is left of the group and the rest of the log."""
        self.kill_group(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while group_alive(self.process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.kill_group(signal.SIGKILL)
        self.process.wait()
        self._copier.join(timeout=GRACE_S)


def group_alive(group: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def copy_log(pipe: IO[bytes]) -> None:
    """Copy the log to stderr until it ends; a closed stderr never stops the engine."""
    closed = False
    for line in iter(pipe.readline, b""):
        if closed:
            continue
        try:
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
        except (OSError, ValueError):
            closed = True


class Signals:
    """Counts INT and TERM while it is entered, and forwards HUP."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.first: int | None = None
        self.count = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._old[number] = signal.signal(number, self._on)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _on(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.server.signal(number)
            return
        self.first = self.first or number
        self.count += 1
        if self.count == 1:
            self.server.signal(number)
        else:
            self.server.kill_group(signal.SIGKILL)


def supervise(
    server: Server,
    probe: ReadyProbe | None,
    deadline_s: float,
    drain_s: float,
    on_ready: Callable[[float], None],
) -> int:
    """Wait until the server is ready, tell so, then until it ends; return the exit status.

    ``probe`` None skips the check. ``deadline_s`` bounds the start and ``drain_s`` the stop,
    in seconds. Returns 128+n after signal n. Raises AscendV4Error: not ready before the
    deadline (8), engine died (9).
    """
    started = time.monotonic()
    with Signals(server) as signals:
        try:
            ready = wait_ready(server, probe, started + deadline_s, signals)
            if ready:
                on_ready(time.monotonic() - started)
            return wait_end(server, signals, drain_s)
        finally:
            server.close()


def wait_ready(server: Server, probe: ReadyProbe | None, deadline: float, signals: Signals) -> bool:
    """Wait for a generated token; False when stopped by a signal meanwhile."""
    while signals.first is None:
        died(server, "before it was ready")
        if probe is None or probe.generated():
            return signals.first is None
        if time.monotonic() > deadline:
            raise AscendV4Error(
                ExitCode.NOT_READY_IN_TIME,
                "not-ready",
                f"the server generated no token before the deadline; last seen: {probe.last}",
                "read the log above; --deadline SECONDS allows more time",
            )
        time.sleep(POLL_S)
    return False


def wait_end(server: Server, signals: Signals, drain_s: float) -> int:
    """Wait until the server ends; past the drain time after a signal, it is killed."""
    asked: float | None = None
    while True:
        code = server.exit_code()
        if code is not None:
            break
        if signals.first is not None:
            asked = asked or time.monotonic()
            if time.monotonic() - asked > drain_s:
                server.kill_group(signal.SIGKILL)
        time.sleep(POLL_S)
    if signals.first is not None:
        return 128 + signals.first
    if code != 0:
        died(server, "while it served")
    return 0


def died(server: Server, when: str) -> None:
    """Raise AscendV4Error (engine died) if the server has ended."""
    code = server.exit_code()
    if code is None:
        return
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    raise AscendV4Error(
        ExitCode.ENGINE_DIED,
        "engine-died",
        f"the engine ended with {how} {when}",
        "read the log above: the first error in it is the cause, later ones follow from it",
    )
