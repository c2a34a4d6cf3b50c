"""What a diagnosis says, as data for the printer, for ``--json`` and for exit reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

from ascend_v4.catalog.load import Row
from ascend_v4.core.finding import Evidence, Finding
from ascend_v4.errors import ExitCode

from .scan import Hit

__all__ = ["Diagnosis", "Match", "clock"]

Verdict = Literal["found", "unsure", "nothing"]
SEVERITY: dict[str, Any] = {"cause": "error", "secondary": "info", "warning": "warn"}


def clock(when: float | None) -> str:
    """Return a time of a log as text without a zone, or ``""``."""
    if when is None:
        return ""
    return datetime.fromtimestamp(when, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True)
class Match:
    """A signature that was found: its row, the lines by rank (earliest first), how often."""

    row: Row
    hits: tuple[Hit, ...]
    count: int
    codes: tuple[Row, ...] = ()

    @property
    def id(self) -> str:
        """The id of the row."""
        return str(self.row["id"])

    @property
    def role(self) -> str:
        """cause, secondary, warning, benign or ended."""
        return str(self.row.get("role", "cause"))

    @property
    def weak(self) -> bool:
        """Whether the row can't stand alone."""
        return bool(self.row.get("specificity") == "weak")

    def finding(self) -> Finding:
        """Return it in the shape that every command shares."""
        row = self.row
        return Finding(
            self.id,
            SEVERITY.get(self.role, "info"),
            f"{row['title']}: {row['cause']}",
            row["fix"],
            row["source"],
            row.get("confidence", "stated"),
            tuple(Evidence(hit.file, hit.line, hit.text) for hit in self.hits[:4]),
            row.get("since"),
            row.get("until"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the finding with what only a diagnosis knows."""
        first = self.hits[0]
        return self.finding().to_json() | {
            "role": self.role,
            "specificity": "weak" if self.weak else "strong",
            "phase": self.row["phase"],
            "exit_code": self.row["exit"],
            "count": self.count,
            "rank": first.rank,
            "when": clock(first.when) or None,
            "links": list(self.row.get("links", [])),
            "codes": list(self.codes),
        }


@dataclass(frozen=True)
class Diagnosis:
    """The first cause, what followed from it, and the earliest error lines.

    ``verdict`` is ``found`` (a cause that stands alone), ``unsure`` (consequences, weak
    signatures or warnings only) or ``nothing``. ``files`` tells lines and bytes read.
    """

    verdict: Verdict
    cause: Match | None
    also: tuple[Match, ...] = ()
    secondary: tuple[Match, ...] = ()
    warnings: tuple[Match, ...] = ()
    errors: tuple[Hit, ...] = ()
    codes: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[dict[str, Any], ...] = field(default=())

    @property
    def exit_code(self) -> ExitCode:
        """What the command exits with: 0 a cause, 16 unsure, 18 nothing recognised."""
        return {
            "found": ExitCode.DONE,
            "unsure": ExitCode.UNSURE,
            "nothing": ExitCode.NOTHING_RECOGNISED,
        }[self.verdict]

    @property
    def server_exit(self) -> int | None:
        """The shared exit code of the cause's class: what the server's own end was."""
        return int(self.cause.row["exit"]) if self.cause else None

    def to_json(self) -> dict[str, Any]:
        """Return everything as one JSON object, schema 1."""
        return {
            "schema": 1,
            "verdict": self.verdict,
            "server_exit_code": self.server_exit,
            "cause": self.cause.to_json() if self.cause else None,
            "also": [match.to_json() for match in self.also],
            "secondary": [match.to_json() for match in self.secondary],
            "warnings": [match.to_json() for match in self.warnings],
            "errors": [
                {"file": h.file, "line": h.line, "text": h.text, "rank": h.rank}
                | {"when": clock(h.when) or None}
                for h in self.errors
            ],
            "codes": list(self.codes),
            "notes": list(self.notes),
            "files": list(self.files),
        }
