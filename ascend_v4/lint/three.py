"""The catalog's conditions over a launch that is only partly known.

A comparison with an unknown value is neither true nor false (None), and a rule fires
only where its condition is true whatever the unknown values turn out to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ascend_v4.catalog.load import Catalog
from ascend_v4.core.conditions import evaluate, in_range, paths_of

__all__ = ["UNKNOWN", "Unknown", "find", "governs", "holds", "paths_of"]


class Unknown:
    """A value that only the run knows; there is one instance, :data:`UNKNOWN`."""

    def __repr__(self) -> str:
        return "<unknown>"

    __str__ = __repr__


UNKNOWN: Final = Unknown()
#: What a launch itself holds: a missing entry is known to be missing.
CLOSED = ("env", "flag")


def find(facts: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path, None where it is known to be absent, or UNKNOWN."""
    if path in facts:
        return facts[path]
    head, dot, rest = path.partition(".")
    if not dot or head not in CLOSED:
        return UNKNOWN
    value: Any = facts.get(head, UNKNOWN)
    if facts.get(f"{head}_open") and isinstance(value, dict):
        value = {rest.partition(".")[0]: UNKNOWN, **value}
    while rest and isinstance(value, dict) and rest not in value:
        head, _, rest = rest.partition(".")
        value = value.get(head)
    if isinstance(value, dict) and rest:
        return value[rest]
    return value if not rest or isinstance(value, Unknown) else None


def both(parts: Iterable[bool | None]) -> bool | None:
    """Return Kleene's "and", stopping at the first False."""
    verdict: bool | None = True
    for part in parts:
        if part is False:
            return False
        verdict = None if part is None else verdict
    return verdict


def either(parts: Iterable[bool | None]) -> bool | None:
    """Return Kleene's "or", stopping at the first True."""
    verdict: bool | None = False
    for part in parts:
        if part:
            return True
        verdict = None if part is None else verdict
    return verdict


def holds(condition: list[Any], facts: Mapping[str, Any]) -> bool | None:
    """Return whether a condition holds, or None where an unknown value decides."""
    head = condition[0]
    if head == "all":
        return both(holds(part, facts) for part in condition[1:])
    if head == "any":
        return either(holds(part, facts) for part in condition[1:])
    if head == "not":
        inner = holds(condition[1], facts)
        return None if inner is None else not inner
    left, name, right = condition
    if isinstance(right, dict) and "fact" in right:
        right = find(facts, right["fact"])
    value = find(facts, left)
    if isinstance(value, Unknown) or isinstance(right, Unknown):
        return None
    return evaluate(["value", name, right], {"value": value})


def governs(when: Mapping[str, Any], facts: Mapping[str, Any], catalog: Catalog) -> bool | None:
    """Return whether a row applies, or None where that isn't known; see ``applies``."""
    if when.get("engine") not in (None, facts["engine"]) or not in_range(when, facts, catalog):
        return False
    verdicts: list[bool | None] = []
    for key, values in when.items():
        if key in ("engine", "since", "until", "where"):
            continue
        name = "version" if key == "versions" else key
        value = facts.get(name, UNKNOWN)
        known = {value, facts.get("chip_variant")} if key == "chip" else {value}
        hit = bool(known & set(values))
        verdicts.append(None if isinstance(value, Unknown) and not hit else hit)
    if False in verdicts:
        return False
    if "where" in when:
        verdicts.append(holds(when["where"], facts))
    return both(verdicts)
