"""Where a start has got to, and why it failed, read from the engine's log.

The patterns are rows of the catalog (``phases.yaml``). Reading never raises: a log may
hold anything.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

__all__ = ["Cause", "Phase", "Phases", "strip_prefix"]

#: What vLLM writes before a message: "(Worker pid=12) ERROR 11-23 20:51:12 [core.py:402] ".
PREFIX = re.compile(
    r"^(?:\((?P<who>[\w .-]{1,60}) pid=\d+\) ?)?(?:\[[\w.]+\]\s*)?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? "
    r"\[[^\]]{1,200}\] ?)?"
)
#: The last line of a Python traceback: a dotted exception name, a colon, a message.
EXCEPTION = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Exit|Interrupt)\b(?::|$)"
)
MAX_LINE = 4096
#: While serving, an error this many seconds old did not cause a death of now.
FORGET_S = 60.0


@dataclass(frozen=True)
class Phase:
    """A phase of the start; ``done`` of ``total`` are counted within it, if anything is."""

    id: str
    order: int
    says: str
    done: int | None = None
    total: int | None = None

    def text(self) -> str:
        """Return the phase as it is shown: ``weights 3/46``."""
        return f"{self.says} {self.done}/{self.total}" if self.total else self.says


@dataclass(frozen=True)
class Cause:
    """The first real error: a row's id (``""`` if none knows it), its exit code, the line."""

    id: str
    code: int
    says: str
    line: str


START = Phase("starting", 0, "starting the engine")


@lru_cache(maxsize=1)
def rows() -> list[tuple[dict[str, Any], re.Pattern[str]]]:
    """Return the rows of the catalog with their patterns compiled."""
    from ascend_v4.catalog.load import catalog

    return [(row, re.compile(row["pattern"])) for row in catalog().table("phases")]


def strip_prefix(line: str) -> tuple[str, str]:
    """Return the level (``""`` if none) and the message of a log line."""
    found = PREFIX.match(line)
    if found is None:
        return "", line
    return found["level"] or "", line[found.end() :]


class Phases:
    """Reads one member's log line by line; ``on_change`` hears of each new phase or count."""

    def __init__(
        self,
        on_change: Callable[[Phase], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.phase = START
        self.history: list[Phase] = [START]
        self.on_change = on_change
        self.clock = clock
        self.errors: dict[str, tuple[float, Cause]] = {}
        self.serving = False
        self.lost = False

    def __call__(self, line: str) -> None:
        """Take one line of the log."""
        level, message = strip_prefix(line[:MAX_LINE])
        echo = False
        for row, pattern in rows():
            found = pattern.search(message)
            if found is None:
                continue
            kind = row["kind"]
            if kind == "phase":
                self._begin(row, found)
            elif kind == "cause" and level not in ("INFO", "DEBUG") and message[:1].strip():
                line = message.strip()[:500]
                # What the engine only warned of it may have lived with.
                slot = "warned" if level == "WARNING" else "known"
                self._keep(slot, Cause(row["id"], row.get("code", 9), row["says"], line))
            echo = echo or kind == "echo"
            self.lost = self.lost or kind == "lost"
        self._error(level, message, echo=echo)

    def feed(self, lines: Iterable[str]) -> Phases:
        """Take many lines; return self."""
        for line in lines:
            self(line)
        return self

    def cause(self) -> Cause | None:
        """Return the first real error: one that a row knows, else the first seen.

        Without one, what was only warned of, else an echo.
        """
        for slot in ("known", "first", "warned", "echo"):
            if slot in self.errors:
                return self.errors[slot][1]
        return None

    def served(self) -> None:
        """Note that the start is over: from now on an error that led to nothing is forgotten."""
        self.serving = True
        self.lost = False
        self.errors.clear()

    def _keep(self, slot: str, cause: Cause) -> None:
        now = self.clock()
        at = self.errors[slot][0] if slot in self.errors else None
        if at is None or (self.serving and now - at > FORGET_S):
            self.errors[slot] = (now, cause)

    def _begin(self, row: dict[str, Any], found: re.Match[str]) -> None:
        groups = found.groupdict()
        done, total = (int(groups[n]) if groups.get(n) else None for n in ("done", "total"))
        new = Phase(row["id"], row["order"], row["says"], done, total)
        # Ranks start side by side: the run is as far as the first of them.
        if new.order < self.phase.order or new == self.phase:
            return
        if new.id != self.phase.id:
            self.history.append(new)
        self.phase = new
        self.on_change(new)

    def _error(self, level: str, message: str, *, echo: bool) -> None:
        text = message.strip()
        raised = EXCEPTION.match(text) is not None
        if not raised and level not in ("ERROR", "CRITICAL"):
            return
        # The frames of a traceback are logged as errors too; only its last line is one.
        if not raised and (message[:1] in (" ", "\t") or text.startswith("Traceback") or not text):
            return
        cause = Cause("", 9, "", text[:500])
        self._keep("echo" if echo else "first", cause)
