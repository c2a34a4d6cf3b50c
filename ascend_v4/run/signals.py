"""Signals as a list that wakes a select loop."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["FORWARDED", "STOPPING", "Signals", "interruptible", "signal_name"]

#: Drain and stop; QUIT stops at once.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
FORWARDED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """Collects signals while it is entered; readable at ``fileno()`` when there are any."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._old: dict[int, Any] = {}
        self._woken = -1

    def __enter__(self) -> Signals:
        for number in (*STOPPING, *FORWARDED):
            # nohup had HUP ignored, and it stays so.
            if signal.getsignal(number) is signal.SIG_IGN and number == signal.SIGHUP:
                continue
            self._old[number] = signal.signal(number, self._on)
        # The kernel may hand a signal to any thread, which would leave our select asleep.
        self._woken = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_exc: object) -> None:
        signal.set_wakeup_fd(self._woken)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)
        self._read = self._write = -1

    def _on(self, number: int, _frame: FrameType | None) -> None:
        self.got.append(number)
        self.wake()

    def inject(self, number: int) -> None:
        """Take a signal from any thread, as if the kernel had sent it."""
        self.got.append(number)
        self.wake()

    def wake(self) -> None:
        """Make the select return; any thread may call it, also when all is over."""
        with contextlib.suppress(OSError, ValueError):
            os.write(self._write, b".")

    def fileno(self) -> int:
        """Return the descriptor to select on."""
        return self._read

    def take(self) -> list[int]:
        """Return the signals since the last call, oldest first."""
        with contextlib.suppress(OSError):
            os.read(self._read, 4096)
        got = []
        while self.got:
            got.append(self.got.pop(0))
        return got


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let TERM, QUIT and HUP raise SystemExit meanwhile, so that what was begun is given back.

    A handler that somebody set, and an ignored signal, stay.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    ours = (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
    taken = [number for number in ours if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def signal_name(number: int) -> str:
    """Return ``SIGTERM`` for 15."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
