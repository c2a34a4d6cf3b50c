"""One pass over a log: what was found, where, when and by which rank, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from .lines import Line, parse_line
from .signatures import BANNER, Signatures, is_error

__all__ = ["FileScan", "Hit", "Start"]

KEEP_HITS = 8
KEEP_ERRORS = 200
KEEP_NEAR = 64
KEEP_STARTS = 4
#: How far above a line without a time one is looked for.
LOOK_BACK_BYTES = 64 * 1024
TEXT_CHARS = 400


@dataclass(frozen=True)
class Hit:
    """A line that says something: its place, text, time in seconds (None unknown) and rank."""

    file: str
    line: int
    text: str
    when: float | None
    rank: str


@dataclass
class Start:
    """What one start of the server left in a log, from its first line on."""

    line: int
    hits: dict[str, list[Hit]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    near: dict[str, list[int]] = field(default_factory=dict)
    errors: list[Hit] = field(default_factory=list)
    error_count: int = 0

    @property
    def empty(self) -> bool:
        """Whether nothing was found."""
        return not self.hits and not self.errors


class FileScan:
    """Walks the blocks of one log; ``starts`` holds the last few starts in it."""

    def __init__(self, name: str, signatures: Signatures, year: int) -> None:
        self.name, self.signatures, self.year = name, signatures, year
        self.starts: deque[Start] = deque([Start(1)], maxlen=KEEP_STARTS)
        self.dropped_starts = 0
        self.lines = 0
        self.bytes = 0
        self.last: float | None = None
        #: own less outer time, where a line had both
        self.shift = 0.0

    def read(self, blocks: Iterable[bytes]) -> FileScan:
        """Read every block; returns itself."""
        for block in blocks:
            self._block(block)
            self.bytes += len(block)
        return self

    def _block(self, block: bytes) -> None:
        at, number, end = 0, self.lines + 1, -1
        keys: set[str] = set()
        begin = 0
        for index, offset in self.signatures.prefilter.find(block):
            if offset >= end:
                if keys:
                    self._line(block, begin, end, number, keys)
                begin = block.rfind(b"\n", 0, offset) + 1
                stop = block.find(b"\n", offset)
                end = stop if stop >= 0 else len(block)
                number += block.count(b"\n", at, begin)
                at, keys = begin, set()
            keys.add(self.signatures.keys[index])
        if keys:
            self._line(block, begin, end, number, keys)
        self.lines += block.count(b"\n") + (not block.endswith(b"\n"))

    def _line(self, block: bytes, begin: int, end: int, number: int, keys: set[str]) -> None:
        start = self.starts[-1]
        if all(is_error(key) for key in keys) and start.error_count >= KEEP_ERRORS:
            start.error_count += 1
            return
        line = parse_line(block[begin : min(end, begin + 8192)], self.year)
        if BANNER in keys and not start.empty:
            self.dropped_starts += len(self.starts) == KEEP_STARTS
            start = Start(number)
            self.starts.append(start)
        for literal in keys & self.signatures.near:
            lines = start.near.setdefault(literal, [])
            if len(lines) < KEEP_NEAR:
                lines.append(number)
        rows = self.signatures.of_line(keys, line.text)
        if rows or any(is_error(key) for key in keys):
            hit = self._hit(block, begin, number, line)
            for row in rows:
                self._keep(start, row["id"], hit)
            start.error_count += 1
            if len(start.errors) < KEEP_ERRORS:
                start.errors.append(hit)

    def _keep(self, start: Start, name: str, hit: Hit) -> None:
        start.counts[name] = start.counts.get(name, 0) + 1
        kept = start.hits.setdefault(name, [])
        if len(kept) < KEEP_HITS and hit.rank not in {other.rank for other in kept}:
            kept.append(hit)

    def _hit(self, block: bytes, begin: int, number: int, line: Line) -> Hit:
        when = self._time(line)
        if when is None:
            when = self._time_above(block, begin)
        self.last = when if when is not None else self.last
        return Hit(self.name, number, line.text[:TEXT_CHARS], self.last, line.rank)

    def _time(self, line: Line) -> float | None:
        if line.own is not None:
            if line.outer is not None:
                # Collectors often write UTC and programs local time; quarter hours apart.
                self.shift = round((line.own - line.outer) / 900) * 900.0
            return line.own
        return None if line.outer is None else line.outer + self.shift

    def _time_above(self, block: bytes, begin: int) -> float | None:
        """Return the time of the nearest line above that has one, as a traceback's lines don't."""
        above = block[max(0, begin - LOOK_BACK_BYTES) : begin].splitlines()
        for raw in reversed(above[-300:]):
            when = self._time(parse_line(raw[:512], self.year))
            if when is not None:
                return when
        return None
