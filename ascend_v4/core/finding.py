"""A finding: what lint, plan notes, doctor, diagnose and verify all report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["SEVERITIES", "Evidence", "Finding", "Severity", "refusing", "worst_first"]

Severity = Literal["error", "silent", "risk", "warn", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "silent", "risk", "warn", "info")


@dataclass(frozen=True)
class Evidence:
    """Where a finding was seen: a file, a 1-based line and its text, each as far as known."""

    file: str = ""
    line: int = 0
    text: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the evidence as the shared JSON object."""
        return {"file": self.file, "line": self.line, "text": self.text}


@dataclass(frozen=True)
class Finding:
    """One thing worth saying; see the interfaces page of the docs for the severities."""

    id: str
    severity: Severity
    message: str
    fix: str = ""
    source: str = ""
    confidence: Literal["stated", "measured", "inferred"] = "stated"
    evidence: tuple[Evidence, ...] = field(default=())
    since: str | None = None
    until: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the finding as the shared JSON object."""
        return {
            "id": self.id,
            "severity": self.severity,
            "message": self.message,
            "evidence": [piece.to_json() for piece in self.evidence],
            "fix": self.fix,
            "source": self.source,
            "confidence": self.confidence,
            "since": self.since,
            "until": self.until,
        }


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings sorted by severity, keeping their order within one."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def refusing(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that refuse a launch: errors and silent ones."""
    return [finding for finding in findings if finding.severity in ("error", "silent")]
