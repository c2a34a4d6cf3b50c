"""How a download shows how far it is: a bar, plain lines, JSON lines, or nothing.

All of it is for stderr. Importing this module is light; the bar brings ``rich``
when the first phase starts.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

from .request import human

__all__ = ["Bar", "JsonLines", "Lines", "Quiet", "Rate", "reporter", "span"]

_TITLES = {"check": "checking files on disk", "download": "downloading"}


class Rate:
    """Bytes per second over the last ``window_s`` seconds, and the seconds left."""

    def __init__(self, total: int, clock: Callable[[], float], window_s: float = 15.0) -> None:
        self._total, self._clock, self._window = total, clock, window_s
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, done: int) -> None:
        """Note that ``done`` bytes are there now."""
        now = self._clock()
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[0][0] < now - self._window:
            self._seen.popleft()

    @property
    def per_s(self) -> float:
        """Bytes per second; 0 when it isn't known yet."""
        if len(self._seen) < 2:
            return 0.0
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return max(0.0, (last - first) / (end - start)) if end > start else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds left at this rate, None when it isn't known."""
        if not self._seen or not self.per_s:
            return None
        return max(0.0, (self._total - self._seen[-1][1]) / self.per_s)


class Quiet:
    """Shows nothing."""

    def status(self, text: str) -> None:
        """Show nothing."""

    def start(self, phase: str, size: int, files: int, done: int = 0) -> None:
        """Show nothing."""

    def progress(self, done: int, files_done: int) -> None:
        """Show nothing."""

    def stop(self) -> None:
        """Show nothing."""


class Lines:
    """One plain line every ``every_s`` seconds, for logs."""

    def __init__(
        self, out: TextIO, every_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out, self._every, self._clock = out, every_s, clock
        self._phase, self._size, self._files = "", 0, 0
        self._last: tuple[int, int] | None = None

    def status(self, text: str) -> None:
        """Print the sentence."""
        print(text, file=self._out, flush=True)

    def start(self, phase: str, size: int, files: int, done: int = 0) -> None:
        """Print what begins."""
        self._phase, self._size, self._files = phase, size, files
        self._rate, self._last = Rate(size, self._clock), None
        self._next = self._clock() + self._every
        self._rate.add(done)
        self.emit_start()

    def progress(self, done: int, files_done: int) -> None:
        """Print a line if it is time for one."""
        self._rate.add(done)
        self._last = (done, files_done)
        if self._clock() >= self._next:
            self._next = self._clock() + self._every
            self.emit(done, files_done)

    def stop(self) -> None:
        """Print the last state."""
        if self._last is not None:
            self.emit(*self._last)

    def emit_start(self) -> None:
        """Print the phase's first line."""
        files = "1 file" if self._files == 1 else f"{self._files} files"
        self.status(f"{_TITLES[self._phase]}: {files}, {human(self._size)}")

    def emit(self, done: int, files_done: int) -> None:
        """Print one line of progress."""
        left = self._rate.left_s
        share = 100 * done // self._size if self._size else 100
        time_left = "time left unknown" if left is None else f"{span(left)} left"
        self.status(
            f"{_TITLES[self._phase]}: {share}% {human(done)} of {human(self._size)}, "
            f"{human(self._rate.per_s)}/s, {time_left}"
        )


class JsonLines(Lines):
    """The same as JSON lines, one a second: for scripts."""

    def __init__(
        self, out: TextIO, every_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(out, every_s, clock)

    def status(self, text: str) -> None:
        """Print a ``status`` event."""
        self._event("status", text=text)

    def emit_start(self) -> None:
        """Print a ``start`` event."""
        self._event("start", phase=self._phase, bytes=self._size, files=self._files)

    def emit(self, done: int, files_done: int) -> None:
        """Print a ``progress`` event."""
        left = self._rate.left_s
        self._event(
            "progress",
            phase=self._phase,
            done=done,
            bytes=self._size,
            files_done=files_done,
            bytes_per_s=round(self._rate.per_s),
            left_s=None if left is None else round(left),
        )

    def _event(self, event: str, **fields: object) -> None:
        print(json.dumps({"event": event, **fields}), file=self._out, flush=True)


class Bar:
    """One bar over all bytes with rate and time left, on a terminal."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._bar: Any = None
        self._task: Any = None

    def status(self, text: str) -> None:
        """Print the sentence."""
        print(text, file=self._out, flush=True)

    def start(self, phase: str, size: int, files: int, done: int = 0) -> None:
        """Draw an empty bar."""
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(binary_units=True),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[files]}"),
            console=Console(file=self._out),
        )
        self._files = files
        self._task = self._bar.add_task(_TITLES[phase], total=size, completed=done, files="")
        self._bar.start()

    def progress(self, done: int, files_done: int) -> None:
        """Move the bar."""
        files = f"{files_done}/{self._files} files" if files_done else ""
        self._bar.update(self._task, completed=done, files=files)

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()


def reporter(out: TextIO, quiet: bool, as_json: bool) -> Quiet | Lines | Bar:
    """Return how progress is shown on ``out``."""
    if quiet:
        return Quiet()
    if as_json:
        return JsonLines(out)
    return Bar(out) if out.isatty() else Lines(out)


def span(seconds: float) -> str:
    """Return seconds as ``2 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
