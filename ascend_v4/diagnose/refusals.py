"""Refusals of the engine itself: the rules of the launch catalog, by the words they quote.

Looked at only for error lines that no signature explains, so that they cost a log
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ascend_v4.catalog.load import Catalog, Row, catalog

from .scan import Hit
from .verdict import Match

__all__ = ["engine_rules", "refusals"]

#: A shorter quotation, or one word, stands in lines that are no refusal.
LEAST_CHARS = 20
RAISED = re.compile(r"(?:Error|Exception)(?:\(\w+\))?: |: error: ")


def engine_rules(engine: str | None, version: str | None) -> list[tuple[str, Row]]:
    """Return (words, signature row) for each rule whose refusal the engine words tellingly.

    With an engine and a version, those of other releases are left out.
    """
    known = catalog()
    return [
        (rule["engine_message"], as_signature(rule))
        for rule in known.table("rules")
        if telling(rule.get("engine_message") or "") and concerns(rule, engine, version, known)
    ]


def telling(words: str) -> bool:
    """Whether a quotation is long enough to stand for its rule."""
    return len(words) >= LEAST_CHARS and " " in words


def concerns(rule: Row, engine: str | None, version: str | None, known: Catalog) -> bool:
    """Whether a rule can speak about a release; what isn't known doesn't restrict."""
    from ascend_v4.core.conditions import in_range

    scope = rule.get("applies", {})
    if engine is None or scope.get("engine") is None:
        return True
    if scope["engine"] != engine or version not in known.versions(engine):
        return bool(scope["engine"] == engine)
    if version not in scope.get("versions", [version]):
        return False
    return in_range(scope, {"engine": engine, "version": version}, known)


def as_signature(rule: Row) -> Row:
    """Return a rule in the shape of a signature; blanks of its text stay blank."""
    scope = rule.get("applies", {})
    return {
        "id": rule["id"],
        "title": "the engine refused the launch",
        "role": "cause",
        "phase": "startup",
        "exit": 3,
        "cause": blanked(rule["message"]),
        "fix": blanked(rule.get("fix", "")) or f"ascend-v4 explain {rule['id']}",
        "source": rule["source"],
        "confidence": rule.get("confidence", "stated"),
        "since": scope.get("since"),
        "until": scope.get("until"),
    }


def blanked(text: str) -> str:
    """Return a row's text with what only a plan could fill in left out."""
    return re.sub(r"\{[^}]*\}", "…", text)


def refusals(errors: Iterable[Hit], rules: list[tuple[str, Row]]) -> list[Match]:
    """Return a match for each line that raises a rule's words, the longest words first."""
    found: dict[str, list[Hit]] = {}
    rows = {row["id"]: row for _, row in rules}
    longest = sorted(rules, key=lambda rule: -len(rule[0]))
    for hit in errors:
        if not RAISED.search(hit.text):
            continue
        name = next((row["id"] for words, row in longest if words in hit.text), None)
        if name is not None:
            found.setdefault(name, []).append(hit)
    return [Match(rows[name], tuple(hits), len(hits)) for name, hits in found.items()]
