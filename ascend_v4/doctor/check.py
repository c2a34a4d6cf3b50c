"""What a check says: a verdict, the evidence, the fix."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ascend_v4.catalog.load import Row
from ascend_v4.errors import ExitCode

__all__ = ["Check", "Outcome", "Verdict", "exit_of"]

Verdict = Literal["ok", "warn", "fail", "unknown"]
#: What a failed check may exit with, the gravest first: waiting can cure a busy host only.
GRAVITY = (
    ExitCode.REFUSED,
    ExitCode.DOES_NOT_FIT,
    ExitCode.HOST_NOT_READY,
    ExitCode.BUSY,
)
SEVERITY = {"ok": "info", "warn": "warn", "fail": "error", "unknown": "info"}


@dataclass(frozen=True)
class Outcome:
    """What a check function returns: its row's id, verdict, sentence and evidence.

    ``values`` fill the fix of the row; ``code`` is what a failure exits with.
    """

    id: str
    verdict: Verdict
    message: str
    evidence: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    code: ExitCode = ExitCode.HOST_NOT_READY


class Blank(dict[str, str]):
    """Leaves nothing where a fix names a value that the outcome doesn't have."""

    def __missing__(self, key: str) -> str:
        return ""


@dataclass(frozen=True)
class Check:
    """An outcome joined with its row: ready to print."""

    outcome: Outcome
    row: Row

    @property
    def id(self) -> str:
        """The id of the check."""
        return self.outcome.id

    @property
    def verdict(self) -> Verdict:
        """ok, warn, fail or unknown."""
        return self.outcome.verdict

    @property
    def fix(self) -> str:
        """The fix with this host's values, ``""`` for a good check."""
        if self.verdict == "ok":
            return ""
        return string.Formatter().vformat(self.row.get("fix", ""), (), Blank(self.outcome.values))

    def to_json(self) -> dict[str, Any]:
        """Return the check as a finding with its verdict."""
        row, outcome = self.row, self.outcome
        return {
            "id": self.id,
            "verdict": self.verdict,
            "severity": SEVERITY[self.verdict],
            "group": row["group"],
            "title": row["title"],
            "message": outcome.message,
            "evidence": [{"file": "", "line": 0, "text": text} for text in outcome.evidence],
            "fix": self.fix,
            "source": row["source"],
            "confidence": row.get("confidence", "stated"),
            "since": None,
            "until": None,
        }


def exit_of(outcomes: list[Outcome]) -> ExitCode:
    """Return what the command exits with: 3, then 6, then 7, else 0."""
    codes = {outcome.code for outcome in outcomes if outcome.verdict == "fail"}
    return next((code for code in GRAVITY if code in codes), ExitCode.DONE)
