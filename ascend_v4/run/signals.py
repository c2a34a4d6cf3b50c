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
    """Collects the signals of a run; readable at ``fileno()`` when there are any.

    They are taken over once, before anything is claimed, and never given back: between two
    parts of a launch, or at its very end, a signal would else kill the launcher on the spot.
    """

    def __init__(self) -> None:
        self.got: list[int] = []
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._old: dict[int, Any] = {}
        self._woken = -1
        self._raises = False

    def collect(self) -> None:
        """Take the signals over, if that is still to be done."""
        if self._old:
            return
        for number in (*STOPPING, *FORWARDED):
            # nohup had HUP ignored, and it stays so.
            if signal.getsignal(number) is signal.SIG_IGN and number == signal.SIGHUP:
                continue
            self._old[number] = signal.signal(number, self._on)
        # The kernel may hand a signal to any thread, which would leave our select asleep.
        self._woken = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def ignore(self) -> None:
        """Hear nothing any more: the process is on its way out, and gives back what it held."""
        for number in self._old:
            signal.signal(number, signal.SIG_IGN)

    def restore(self) -> None:
        """Leave everything as it was before."""
        signal.set_wakeup_fd(self._woken)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old.clear()
        os.close(self._read)
        os.close(self._write)
        self._read = self._write = -1

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Collect from now on; in the block the first one that ends us raises SystemExit.

        After an error the signals do what they did before.
        """
        try:
            self.collect()
            with self.interruptible():
                yield
        except SystemExit:
            self.ignore()
            raise
        except BaseException:
            self.restore()
            raise

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let the first TERM, INT, QUIT or HUP raise SystemExit, also one that came before.

        Those behind it are collected: what was begun is being given back.
        """
        self._raises = True
        try:
            self._catch_up()
            yield
        finally:
            self._raises = False

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Let the block be done as a whole: what came meanwhile is raised behind it."""
        raises, self._raises = self._raises, False
        try:
            yield
        finally:
            self._raises = raises
        if raises:
            self._catch_up()

    def hold(self) -> None:
        """Raise no more: what was begun is complete, its owner will ask what came."""
        self._raises = False

    def _catch_up(self) -> None:
        """Act on what came while nothing was to be raised."""
        for number in self.take():
            self._on(number, None)

    def _on(self, number: int, _frame: FrameType | None) -> None:
        if self._raises and number in (*STOPPING, signal.SIGHUP):
            self._raises = False
            raise SystemExit(128 + number)
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
