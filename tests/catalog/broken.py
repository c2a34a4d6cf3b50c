"""A rule's own example: the launch that keeps the rule and the one that breaks it.

``broken`` in a rule row holds ``base`` (launch options of a plan that keeps the rule),
and what is laid over it: ``options`` (launch options), ``args`` (arguments after ``--``),
``env`` (variables), ``drop`` (flags taken away) and ``drop_env`` (variables taken away
from the base, for rules on a mere presence).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import Compiled, compile_plan
from ascend_v4.core.request import LaunchRequest
from ascend_v4.core.rules import break_rules

__all__ = ["base_facts", "broken_facts", "broken_ids"]


def compiled(options: Mapping[str, Any], args: tuple[str, ...] = ()) -> Compiled:
    """Return the compiled launch of some options, unvalidated ones included."""
    return compile_plan(LaunchRequest(**options, extra=args, allow_unvalidated=True), catalog())


def laid_over(
    made: Compiled, env: Mapping[str, str], without: list[str], flags: list[str]
) -> dict[str, Any]:
    """Return a launch's facts with variables set and taken away and flags taken away."""
    kept = {name: value for name, value in made.launch.env.items() if name not in without}
    left = {name: value for name, value in made.launch.flags.items() if name not in flags}
    return made.facts | {"env": kept | dict(env), "flag": left}


def base_facts(example: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of the launch that keeps the rule."""
    return laid_over(compiled(example["base"]), {}, example.get("drop_env", []), [])


def broken_facts(example: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of the launch that breaks the rule."""
    made = compiled(example["base"] | example.get("options", {}), tuple(example.get("args", ())))
    return laid_over(
        made, example.get("env", {}), example.get("drop_env", []), example.get("drop", [])
    )


def broken_ids(facts: Mapping[str, Any]) -> list[str]:
    """Return the ids of the rules that a launch breaks."""
    return [finding.id for finding in break_rules(facts, catalog())]
