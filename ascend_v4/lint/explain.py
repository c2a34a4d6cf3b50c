"""Why a plan says what it says, and what a name has meant over the releases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ascend_v4.catalog.load import Catalog, Row, nearest
from ascend_v4.core.compiler import Compiled
from ascend_v4.core.launch import parse_flags
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.render.shell import spans

from .names import Names, effect_of, path_of
from .three import find, paths_of

__all__ = ["explain_name", "explain_plan"]


def explain_plan(compiled: Compiled, extra: tuple[str, ...], catalog: Catalog) -> list[Row]:
    """Return each variable, flag and JSON key of a plan with what is known of it.

    Every row holds ``path``, ``value``, ``origin`` (``rule:ID``, flag, variable, file,
    profile or extra), ``reason``, ``effect`` (kind and words, or None) and ``source``.
    """
    plan = compiled.plan
    names = Names.of(plan.engine, catalog)
    theirs = {"flag": parse_flags(extra)}
    chips = (str(compiled.facts["chip"]), plan.chip)
    rows = []
    for path, value in leaves({"env": compiled.launch.env, "flag": compiled.launch.flags}):
        origin, reason, source = origin_of(path, value, compiled)
        if path.startswith("flag.") and find(theirs, path) is not None:
            origin, reason, source = "extra", "given behind --", ""
        row = names.rows.get(path)
        effect = row and effect_of(row, plan.engine_version, chips, catalog, plan.engine)
        rows.append(
            {
                "path": path,
                "value": value,
                "origin": origin,
                "reason": reason,
                "effect": effect and {"kind": effect["effect"], "says": effect["says"]},
                "source": source or (str(row["source"]) if row else ""),
            }
        )
    return rows


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each path of a nested dictionary that holds a value."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        elif value != {}:
            yield f"{prefix}{key}", value


def origin_of(path: str, value: Any, compiled: Compiled) -> tuple[str, str, str]:
    """Return origin, reason and source of a value: its setting's, or its option's choice."""
    stated = setting_of(path, compiled)
    if stated is None:
        return "extra", "given behind --", ""
    template = str(stated["value"])
    option = template[1:-1] if template.startswith("{") and template.endswith("}") else ""
    chosen = compiled.rows.get(option)
    if chosen is not None:
        return f"rule:{chosen['id']}", str(chosen["reason"]), str(chosen["source"])
    if option and compiled.plan.origins.get(option):
        origin = compiled.plan.origins[option]
        return origin, str(stated["reason"]), str(stated["source"])
    return f"rule:{stated['id']}", str(stated["reason"]), str(stated["source"])


def setting_of(path: str, compiled: Compiled) -> Row | None:
    """Return the settings row behind a path, also where the row sets a whole object."""
    while "." in path:
        if path in compiled.rows:
            return compiled.rows[path]
        path = path.rpartition(".")[0]
    return None


def explain_name(name: str, catalog: Catalog) -> list[Row]:
    """Return everything the catalog knows of a variable, flag or key, one row a meaning.

    A row holds ``path``, ``engine``, ``type``, ``meaning``, ``moved_to``, ``history`` (each
    effect with the releases it covers), ``set_by`` (our settings) and ``rules``. Raises
    AscendV4Error (usage) for a name that the catalog doesn't know.
    """
    wanted = plain_name(name)
    found = {
        path_of(row): row for row in catalog.table("variables") if wanted in spellings(path_of(row))
    }
    stated = [row["set"] for row in catalog.table("settings") if wanted in spellings(row["set"])]
    paths = list(dict.fromkeys([*found, *stated]))
    if not paths:
        known = [str(row["name"]) for row in catalog.table("variables")]
        holding = [other for other in known if wanted in plain_name(other)][:5]
        # A key is asked for by its last word, without additional_config in front.
        words = sorted({other.rsplit(".", 1)[-1].lstrip("-") for other in known})
        hint = f"did you mean {' or '.join(holding)}?" if holding else nearest(name, words)
        raise AscendV4Error(
            ExitCode.USAGE,
            "unknown-name",
            f"the catalog knows no variable, flag or key {name}. {hint}".rstrip(),
            "ascend-v4 explain --chip a3",
        )
    return [entry(path, found.get(path), catalog) for path in paths]


def plain_name(name: str) -> str:
    """Return a name as it is compared: no dashes in front, one kind of separator, lower case."""
    return name.lstrip("-").lower().replace("-", "_")


def spellings(path: str) -> set[str]:
    """Return the ways to name a path: whole, without its kind, and by its last key."""
    bare = plain_name(path.partition(".")[2])
    return {plain_name(path), bare, bare.rpartition(".")[2]}


def entry(path: str, row: Row | None, catalog: Catalog) -> Row:
    """Return what the catalog knows of one path."""
    settings = [
        {key: setting.get(key) for key in ("id", "value", "when", "reason", "source")}
        for setting in catalog.table("settings")
        if setting["set"] == path
    ]
    rules = [
        {key: rule.get(key) for key in ("id", "severity", "message", "source")}
        for rule in catalog.table("rules")
        if path in paths_of(rule["condition"])
    ]
    known = row or {}
    return {
        "path": path,
        "engine": known.get("engine"),
        "type": known.get("type"),
        "meaning": known.get("meaning"),
        "moved_to": known.get("moved_to"),
        "source": known.get("source"),
        "history": history(row, catalog) if row else [],
        "set_by": settings,
        "rules": rules,
    }


def history(row: Row, catalog: Catalog) -> list[Row]:
    """Return the effects of a row with the releases that each one covers, in words."""
    engine = row["engine"] if row["engine"] != "any" else None
    order = catalog.versions(engine) if engine else []
    return [
        {
            "releases": covered(effect, order),
            "chips": effect.get("chips"),
            "effect": effect["effect"],
            "default": effect.get("default"),
            "values": effect.get("values"),
            "says": effect["says"],
        }
        for effect in row["effects"]
    ]


def covered(effect: Row, order: list[str]) -> str:
    """Return the releases of an effect in words."""
    if not order:
        return "every release"
    since, until = effect.get("since", order[0]), effect.get("until", order[-1])
    return spans(order[order.index(since) : order.index(until) + 1], order)
