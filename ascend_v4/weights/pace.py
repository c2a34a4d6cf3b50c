"""How fast connections are: one rate for all of them, and which is left behind by the others."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from statistics import median

__all__ = ["Limit", "Meter", "Pace"]

#: Seconds over which a connection is measured before it is judged.
WINDOW_S = 5.0
#: Seconds for which the rate of a request that has ended is still compared with.
_RECENT_S = 60.0
#: A connection this many times slower than the others is given up for a new one; the
#: second number holds where another one idles and could have its bytes.
_BUSY, _IDLE = 4.0, 2.0


class Limit:
    """A rate in bytes a second that all connections share; None is none."""

    def __init__(self, per_s: int | None) -> None:
        self._per_s, self._lock, self._next = per_s, threading.Lock(), 0.0
        #: Bytes to read at once: small where the rate is low, so that it stays even.
        self.block = 1 << 20 if per_s is None else max(4096, min(1 << 20, per_s // 16))

    def take(self, count: int) -> None:
        """Sleep for as long as ``count`` bytes are worth."""
        if self._per_s is None:
            return
        with self._lock:
            now = time.monotonic()
            self._next = max(now, self._next) + count / self._per_s
            due = self._next
        if due > now:
            time.sleep(due - now)


class Pace:
    """The rates of all connections of one transfer, in bytes a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self._lock = clock, threading.Lock()
        self._live: dict[Meter, float] = {}
        self._ended: deque[tuple[float, float]] = deque(maxlen=64)

    def begin(self) -> Meter:
        """Return the meter of a request whose first byte is awaited."""
        return Meter(self)

    def note(self, meter: Meter, rate: float) -> None:
        """Keep what a connection gave over its last window."""
        with self._lock:
            self._live[meter] = rate

    def end(self, meter: Meter, rate: float | None) -> None:
        """Forget a connection; its last rate, where it is known, counts for a minute."""
        with self._lock:
            self._live.pop(meter, None)
            if rate is not None:
                self._ended.append((self.clock(), rate))

    def typical(self, meter: Meter) -> float:
        """Return the median rate of the other connections, 0 where there is none.

        Where fewer than two are running, those count too that have just ended.
        """
        with self._lock:
            others = [rate for other, rate in self._live.items() if other is not meter]
            if len(others) < 2:
                since = self.clock() - _RECENT_S
                others += [rate for at, rate in self._ended if at >= since]
        return median(others) if others else 0.0


class Meter:
    """Measures one request; ``end`` must be called."""

    def __init__(self, pace: Pace) -> None:
        self._pace, self._since, self._got = pace, pace.clock(), 0
        self._rate: float | None = None

    def add(self, count: int, left: int, idle: bool) -> bool:
        """Note bytes; return whether another connection should fetch the ``left`` ones.

        ``idle`` says that one has nothing to do. Asked once in a window only.
        """
        self._got += count
        passed = self._pace.clock() - self._since
        if passed < WINDOW_S:
            return False
        rate = self._rate = self._got / passed
        self._pace.note(self, rate)
        self._since, self._got = self._pace.clock(), 0
        slow = rate * (_IDLE if idle else _BUSY) < self._pace.typical(self)
        return slow and left > rate * WINDOW_S

    def end(self) -> None:
        """Say that the request is over."""
        passed = self._pace.clock() - self._since
        if self._rate is None and self._got and passed > 0:
            self._rate = self._got / passed
        self._pace.end(self, self._rate)
