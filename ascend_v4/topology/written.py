"""Where the file states a value of a launch, and what is wrong with the names it states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ascend_v4.catalog.load import Catalog
from ascend_v4.core.finding import Finding
from ascend_v4.core.request import OPTION_NAMES, LaunchRequest
from ascend_v4.core.resolve import resolve
from ascend_v4.lint.known import check_names
from ascend_v4.lint.launches import Launched
from ascend_v4.lint.names import Names
from ascend_v4.lint.script import Found
from ascend_v4.lint.target import Target
from ascend_v4.lint.verdict import FLAG_OF_FACT, rule_paths, unsaid

from .lines import Path
from .model import Topology
from .words import word_at

if TYPE_CHECKING:
    from ascend_v4.core.compiler import Compiled

__all__ = ["name_findings", "places_of_rule", "written_at"]

#: Which option a launch path comes from, where an option alone decides it.
OPTION_OF = {path: fact for fact, path in FLAG_OF_FACT.items() if fact in OPTION_NAMES}


def written_at(topology: Topology, place: int, path: str) -> Path | None:
    """Return where the file states a launch path (``env.X``, ``flag.y.z``) of a group, if it does.

    What stands for the group goes before what stands for all.
    """
    group, option = topology.groups[place], OPTION_OF.get(path, "")
    kind, _, name = path.partition(".")
    at = word_at(group, name) if kind == "flag" else None
    pool = topology.kv_pool is not None and path.startswith("flag.kv-transfer-config")
    places: list[tuple[bool, Path]] = [
        (kind == "env" and name in group.env, ("groups", place, "env", name)),
        (kind == "env" and name in topology.env, ("env", name)),
        (at is not None, ("groups", place, "extra", at or 0)),
        (pool, ("kv_pool",)),
        (getattr(group, option, None) is not None, ("groups", place, option)),
        (option in group.options, ("groups", place, "options", option)),
        (option in topology.options, ("options", option)),
    ]
    return next((where for stated, where in places if stated), None)


def places_of_rule(topology: Topology, place: int, ident: str, catalog: Catalog) -> list[Path]:
    """Return where the file states what a broken rule looks at; none where it states nothing."""
    rule = next((row for row in catalog.table("rules") if row["id"] == ident), None)
    found = (written_at(topology, place, path) for path in (rule_paths(rule) if rule else ()))
    return list(dict.fromkeys(path for path in found if path is not None))


def name_findings(
    topology: Topology, place: int, request: LaunchRequest, compiled: Compiled, catalog: Catalog
) -> Iterator[tuple[Finding, Path]]:
    """Yield what lint finds in the names that the file states for a group, with their places.

    The names of our own settings are the catalog's, so only the user's can be wrong.
    """
    group = topology.groups[place]
    if not (group.extra or topology.env or group.env):
        return
    target = Target(resolve(request, catalog), catalog, True)
    launched = Launched(
        Found({}, [], 0, "env"), dict(compiled.launch.env), dict(compiled.launch.flags)
    )
    named = check_names(launched, target, Names.of(target.engine, catalog))
    rules = {row["id"]: rule_paths(row) for row in catalog.table("rules")}
    said = [(note, rules.get(note.id, [])) for note in compiled.plan.notes]
    for finding, path in unsaid(named, said):
        at = written_at(topology, place, path)
        if at is not None:
            yield finding, at
