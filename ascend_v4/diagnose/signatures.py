"""The signature rows made ready to search: literals, what each stands for, and line checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ascend_v4.catalog.load import Catalog, Row, catalog

from .prefilter import Prefilter

__all__ = ["BANNER", "Signatures", "is_error"]

#: What vLLM prints once a start, in every release we know; it parts one run from the next.
BANNER = "non-default args: "
#: Words that make a line worth showing when no signature is found.
ERROR_WORDS = (
    "ERROR",
    "Error: ",
    "Error(",
    "Exception: ",
    "CRITICAL",
    "FATAL",
    "Fatal ",
    "Killed",
    "panic",
    "error code",
)


@dataclass(frozen=True)
class Entry:
    """One way a row matches: all words on one line."""

    row: Row
    words: tuple[str, ...]


class Signatures:
    """All rows that apply to a release, behind one prefilter."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = {row["id"]: row for row in rows}
        self.entries: dict[str, list[Entry]] = {}
        self.near: set[str] = set()
        for row in self.rows.values():
            self.near.update(row.get("near", []))
            for found in row["match"]:
                words = (found,) if isinstance(found, str) else tuple(found)
                anchor = max(words, key=len)
                self.entries.setdefault(anchor, []).append(Entry(row, words))
        keys = [*self.entries, *self.near, BANNER, *ERROR_WORDS]
        self.keys = list(dict.fromkeys(keys))
        self.prefilter = Prefilter([key.encode() for key in self.keys])

    def of_line(self, keys: set[str], text: str) -> list[Row]:
        """Return the rows that match a line in which ``keys`` were found, each once.

        A line that is known to be harmless may quote what it warns of.
        """
        found: dict[str, Any] = {}
        for key in keys:
            for entry in self.entries.get(key, ()):
                if all(word in text for word in entry.words):
                    found[entry.row["id"]] = entry.row
        benign = [row for row in found.values() if row.get("role") == "benign"]
        return benign or list(found.values())


def is_error(key: str) -> bool:
    """Whether a key only makes a line an error line."""
    return key in ERROR_WORDS


def applying(rows: Iterable[Row], engine: str | None, version: str | None) -> list[Row]:
    """Return the rows of an engine's release; all of them where neither is known."""
    return [row for row in rows if holds(row, engine, version, catalog())]


def holds(row: Row, engine: str | None, version: str | None, known: Catalog) -> bool:
    """Whether a row speaks about the release; what isn't known doesn't restrict."""
    if engine is None or row.get("engine") is None:
        return True
    if row["engine"] != engine:
        return False
    order = known.versions(engine)
    if version not in order:
        return True
    if row.get("versions") and version not in row["versions"]:
        return False
    rank = order.index(version)
    since, until = row.get("since"), row.get("until")
    early = since in order and rank < order.index(since)
    late = until in order and rank > order.index(until)
    return not early and not late
