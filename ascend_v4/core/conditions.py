"""Which rows apply: the small condition language of the catalog.

A condition is a nested list: ``["all", c, …]``, ``["any", c, …]``, ``["not", c]`` or
``[path, operator, value]``. A path names a fact (``tensor_parallel_size``) or looks
into a launch (``env.NAME``, ``flag.block-size``, ``flag.additional-config.key``).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from ascend_v4.catalog.load import Catalog

__all__ = ["applies", "evaluate", "in_range", "look_up", "paths_of"]

Facts = Mapping[str, Any]

MISSING: Any = object()


def look_up(facts: Facts, path: str) -> Any:
    """Return the value at a dotted path, or None where nothing is there."""
    if path in facts:
        return facts[path]
    head, _, rest = path.partition(".")
    value: Any = facts.get(head)
    while rest:
        if not isinstance(value, Mapping):
            return None
        if rest in value:
            return value[rest]
        head, _, rest = rest.partition(".")
        value = value.get(head)
    return value


def number(value: Any) -> float | None:
    """Return a value as a number where it is one, also from a string; booleans are not."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def compare(test: Callable[[float, float], bool]) -> Callable[[Any, Any], bool]:
    """Return a comparison that is false when either side is not a number."""

    def holds(left: Any, right: Any) -> bool:
        a, b = number(left), number(right)
        return a is not None and b is not None and test(a, b)

    return holds


def truthy(value: Any) -> bool:
    """Whether a launch means yes: True, a non-zero number, or a word that isn't a no."""
    if isinstance(value, str):
        return value.strip().lower() not in ("", "0", "false", "no", "off", "none")
    return bool(value)


def equal(left: Any, right: Any) -> bool:
    """Whether two values are the same, with ``"1"`` equal to ``1`` as in an environment."""
    a, b = number(left), number(right)
    return a == b if a is not None and b is not None else left == right


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": equal,
    "!=": lambda a, b: not equal(a, b),
    ">": compare(operator.gt),
    ">=": compare(operator.ge),
    "<": compare(operator.lt),
    "<=": compare(operator.le),
    "in": lambda a, b: any(equal(a, item) for item in b),
    "not-in": lambda a, b: not any(equal(a, item) for item in b),
    "has": lambda a, b: b in (a or ()),
    "set": lambda a, b: (a is not None) == b,
    "true": lambda a, b: truthy(a) == b,
    "divides": lambda a, b: bool(number(a)) and (number(b) or 0) % (number(a) or 1) == 0,
    "has-multiple": lambda a, b: has_multiple(a, b),
    "is-number": lambda a, b: (number(a) is not None) == b,
    "is-string": lambda a, b: isinstance(a, str) == b,
}


def has_multiple(values: Any, step: Any) -> bool:
    """Whether a list holds a multiple of a number; a missing list or number holds none."""
    by = number(step)
    return bool(by) and any((number(v) or 1) % (by or 1) == 0 for v in values or ())


def evaluate(condition: list[Any], facts: Facts) -> bool:
    """Return whether a condition holds for the facts.

    A value ``{"fact": NAME}`` stands for another fact. Raises KeyError for an
    unknown operator, which the catalog's tests rule out.
    """
    head = condition[0]
    if head == "all":
        return all(evaluate(part, facts) for part in condition[1:])
    if head == "any":
        return any(evaluate(part, facts) for part in condition[1:])
    if head == "not":
        return not evaluate(condition[1], facts)
    path, name, value = condition
    if isinstance(value, Mapping) and "fact" in value:
        value = look_up(facts, value["fact"])
    return OPERATORS[name](look_up(facts, path), value)


def paths_of(condition: list[Any]) -> list[str]:
    """Return the paths that a condition looks at, in its order."""
    if condition[0] in ("all", "any", "not"):
        return [path for part in condition[1:] for path in paths_of(part)]
    value = condition[2]
    other = [value["fact"]] if isinstance(value, dict) and "fact" in value else []
    return [str(condition[0]), *other]


def applies(when: Mapping[str, Any], facts: Facts, catalog: Catalog) -> bool:
    """Return whether a row's ``when`` holds; a missing key doesn't restrict.

    ``facts`` must hold engine, version, profile, chip (family) and chip_variant, and
    the other keys of ``When`` as far as rows ask for them.
    """
    if when.get("engine") not in (None, facts.get("engine")):
        return False
    for key, values in when.items():
        if key in ("engine", "since", "until", "where"):
            continue
        if key == "versions":
            if facts["version"] not in values:
                return False
        elif key == "chip":
            if facts.get("chip") not in values and facts.get("chip_variant") not in values:
                return False
        elif facts.get(key) not in values:
            return False
    if not in_range(when, facts, catalog):
        return False
    return "where" not in when or evaluate(when["where"], facts)


def in_range(when: Mapping[str, Any], facts: Facts, catalog: Catalog) -> bool:
    """Return whether the release lies between ``since`` and ``until``, both inclusive."""
    since, until = when.get("since"), when.get("until")
    if since is None and until is None:
        return True
    order = catalog.versions(facts["engine"])
    if not {since, until} - {None} <= set(order):
        # A range of the other engine's releases, as a vLLM variable's under vllm-ascend.
        return False
    rank = order.index(facts["version"])
    return (since is None or order.index(since) <= rank) and (
        until is None or rank <= order.index(until)
    )
