"""Names: what the catalog knows of a variable, flag or key, and which name was meant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

from ascend_v4.catalog.load import Catalog, Row
from ascend_v4.core.conditions import in_range, truthy

from .flag_names import FLAG_NAMES

__all__ = ["Names", "effect_of", "harmless", "near", "path_of"]

#: How alike two names must be to say that one is a slip for the other.
ALIKE = 0.88


def path_of(row: Row) -> str:
    """Return the launch path of a variables row: ``env.X``, ``flag.x`` or ``flag.json.key``."""
    name = str(row["name"])
    if row["kind"] == "env":
        return f"env.{name}"
    name = name.removeprefix("flag.").removeprefix("--")
    head, dot, rest = name.partition(".")
    head = head.replace("_", "-") if dot or row["kind"] == "flag" else head
    if row["kind"] == "additional_config" and head not in ("additional-config",):
        return f"flag.additional-config.{name}"
    return f"flag.{head}{dot}{rest}"


def key_path(moved_to: str) -> str:
    """Return the launch path that a row's ``moved_to`` names."""
    path = moved_to.removeprefix("flag.").removeprefix("--")
    path = re.sub(r"\Aadditional_config\.", "additional-config.", path)
    return (
        f"flag.{path}"
        if path.startswith("additional-config.") or "." in path
        else (f"flag.additional-config.{path}")
    )


@dataclass(frozen=True)
class Names:
    """The catalog's names for one engine, by launch path."""

    rows: dict[str, Row]
    variables: frozenset[str]
    below: dict[str, frozenset[str]]
    flags: frozenset[str]

    @classmethod
    def of(cls, engine: str, catalog: Catalog) -> Names:
        """Return the names of an engine; what settings state counts as known too."""
        rows = {
            path_of(row): row
            for row in catalog.table("variables")
            if row["engine"] in (engine, "any")
        }
        stated = {path for row in catalog.table("settings") for path in leaves(row)}
        moved = {key_path(row["moved_to"]) for row in rows.values() if row.get("moved_to")}
        paths = {*rows, *stated, *moved}
        flags = {path.split(".")[1] for path in paths if path.startswith("flag.")}
        below: dict[str, set[str]] = {}
        for path in paths:
            while path.startswith("flag.") and path.count(".") > 1:
                path, _, key = path.rpartition(".")  # noqa: PLW2901
                below.setdefault(path, set()).add(key)
        return cls(
            rows,
            frozenset(path.removeprefix("env.") for path in rows if path.startswith("env.")),
            {path: frozenset(keys) for path, keys in below.items()},
            frozenset(flags | FLAG_NAMES),
        )

    def children(self, path: str) -> frozenset[str]:
        """Return the known keys directly below a path."""
        return self.below.get(path, frozenset())


def leaves(row: Row) -> list[str]:
    """Return the paths that a settings row sets, those inside a JSON value included."""
    value = row.get("value")
    if not isinstance(value, dict):
        return [str(row["set"])]
    return [f"{row['set']}.{key}" for key in value]


def effect_of(
    row: Row, version: str, chips: tuple[str, ...], catalog: Catalog, engine: str
) -> Row | None:
    """Return what a row does on a release and chip, or None where it says nothing."""
    if row["engine"] == "any":
        bounded = [e for e in row["effects"] if not e.get("since") and not e.get("until")]
    else:
        facts = {"engine": engine, "version": version}
        bounded = [e for e in row["effects"] if in_range(e, facts, catalog)]
    fitting = [e for e in bounded if not e.get("chips") or set(e["chips"]) & set(chips)]
    return fitting[-1] if fitting else None


def harmless(value: Any, default: Any = None) -> bool:
    """Whether a value asks for nothing: off, or what would happen anyway."""
    if isinstance(value, str) and value.strip() == str(default):
        return True
    return not truthy(value) or value == default


@lru_cache(maxsize=4096)
def near(name: str, known: frozenset[str], alike: float = ALIKE) -> str:
    """Return the known name that a name is a slip for, or ``""``.

    Names that differ in their digits are different names.
    """
    best, score = "", alike
    digits, folded = fold(name)
    matcher = SequenceMatcher(b=folded, autojunk=False)
    for other in sorted(known):
        theirs, plain = fold(other)
        if theirs != digits or abs(len(plain) - len(folded)) > 6 or other == name:
            continue
        matcher.set_seq1(plain)
        if matcher.real_quick_ratio() < score or matcher.quick_ratio() < score:
            continue
        ratio = matcher.ratio()
        if ratio > score or (ratio == score and not best):
            best, score = other, ratio
    return best


@lru_cache(maxsize=4096)
def fold(name: str) -> tuple[str, str]:
    """Return a name's digits, and the name without case, dashes or underscores."""
    return re.sub(r"\D", "", name), name.lower().replace("-", "").replace("_", "")
