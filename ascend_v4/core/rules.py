"""Rules against a launch: the same rows judge our own plans and other people's scripts."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from ascend_v4.catalog.load import Catalog, Row

from .conditions import applies, evaluate, look_up, paths_of
from .finding import Evidence, Finding

__all__ = ["break_rules", "fill", "finding_of"]


class Blank(dict[str, Any]):
    """Leaves ``{name}`` as it stands when a message names a fact that isn't known."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


def fill(text: str, facts: Mapping[str, Any]) -> str:
    """Return a row's text with its ``{facts}`` filled in; dotted paths work too."""
    out, rest = "", text
    while "{" in rest:
        before, _, rest = rest.partition("{")
        name, closed, rest = rest.partition("}")
        value = look_up(facts, name) if closed else None
        out += before + (str(value) if value is not None else "{" + name + closed)
    return out + rest


def finding_of(rule: Row, facts: Mapping[str, Any], evidence: tuple[Evidence, ...] = ()) -> Finding:
    """Return the finding of a broken rule, its message filled with the launch's own values."""
    scope = rule.get("applies", {})
    return Finding(
        rule["id"],
        rule["severity"],
        fill(rule["message"], facts),
        fill(rule.get("fix", ""), facts),
        rule["source"],
        rule.get("confidence", "stated"),
        evidence,
        scope.get("since"),
        scope.get("until"),
    )


def break_rules(
    facts: Mapping[str, Any], catalog: Catalog, ours: Set[str] = frozenset()
) -> list[Finding]:
    """Return a finding for each rule that the launch breaks, in catalog order.

    ``facts`` holds the release, chip and launch options, and the launch itself under
    ``env`` and ``flag``. ``ours`` are the paths that the catalog's own settings state: a
    leftover that is nobody's but ours is no news to the user.
    """
    return [
        finding_of(rule, facts)
        for rule in catalog.table("rules")
        if applies(rule.get("applies", {}), facts, catalog)
        and evaluate(rule["condition"], facts)
        and not (rule["severity"] == "info" and set(paths_of(rule["condition"])) <= ours)
    ]
