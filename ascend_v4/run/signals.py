"""Signals as a list that wakes a select loop."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Any

__all__ = ["FORWARDED", "STOPPING", "Signals", "signal_name"]

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

    def __enter__(self) -> Signals:
        for number in (*STOPPING, *FORWARDED):
            # nohup had HUP ignored, and it stays so.
            if signal.getsignal(number) is signal.SIG_IGN and number == signal.SIGHUP:
                continue
            self._old[number] = signal.signal(number, self._on)
        return self

    def __exit__(self, *_exc: object) -> None:
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


def signal_name(number: int) -> str:
    """Return ``SIGTERM`` for 15."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
