"""Rewrite a script for another release: only the switches that must change are touched."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ascend_v4.catalog.load import Catalog, Row
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.conditions import truthy
from ascend_v4.core.finding import Evidence, Finding, Severity, refusing, worst_first
from ascend_v4.core.launch import Launch
from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import AscendV4Error

from .check import launches_of, lint_script
from .edits import drop_flag, drop_variable, set_flag, set_key, set_variable
from .known import entries, judge
from .launches import Launched, locate
from .names import Names, effect_of, key_path
from .script import read_script
from .target import Target, target_of
from .three import Unknown, find
from .verdict import judge_launch

__all__ = ["diff_of", "migrate_text"]

LIVE = ("read", "deprecated")
#: A launch path and its new value; None takes it away.
Change = tuple[str, Any]
#: A broken rule and the launch paths that it looks at.
Broken = tuple[Finding, list[str]]
#: More changes than any script needs; a stop against a catalog that contradicts itself.
ROUNDS = 60


def migrate_text(
    text: str,
    from_version: str,
    to_version: str,
    chip: str | None,
    catalog: Catalog,
    engine: str | None = None,
    name: str = "-",
    model: str | None = None,
) -> tuple[str, list[Finding]]:
    """Return the script for another release, and what was done or is left to do.

    Each change is an ``info`` finding, a value whose meaning changed a ``warn``, and what
    still refuses to run keeps its own severity. Raises AscendV4Error (usage) for an
    unknown release, chip or model.
    """
    old = target_of(catalog, engine, from_version, chip, model)
    migration = Migration(
        text, name, old, old.at(catalog.release(old.engine, to_version)["version"])
    )
    migration.move_all()
    migration.repair_all()
    script = read_script(migration.text, name)
    left = [
        f for f in refusing(lint_script(script, name, migration.new)) if f.id != "other-release"
    ]
    return migration.text, worst_first([*migration.done, *migration.changed_meaning(), *left])


def diff_of(old: str, new: str, name: str, from_version: str, to_version: str) -> str:
    """Return a unified diff that ``patch`` reads."""
    lines = difflib.unified_diff(
        old.splitlines(keepends=True),
        new.splitlines(keepends=True),
        f"{name} ({from_version})",
        f"{name} ({to_version})",
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


@dataclass
class Migration:
    """A script on its way from one release to another."""

    text: str
    name: str
    old: Target
    new: Target
    done: list[Finding] = field(default_factory=list)
    stuck: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.names = Names.of(self.new.engine, self.new.catalog)
        self.first = self.launches()

    def launches(self) -> list[Launched]:
        """Return the launches of the text as it is now."""
        return launches_of(read_script(self.text, self.name))

    def effect(self, row: Row, target: Target) -> Row | None:
        """Return what a row does on a release."""
        return effect_of(row, target.version, target.chips, target.catalog, target.engine)

    def note(
        self, ident: str, severity: Severity, message: str, row: Row, line: int, fix: str = ""
    ) -> None:
        """Remember what was done."""
        proof = (Evidence(self.name, line),) if line else ()
        self.done.append(
            Finding(ident, severity, message, fix, str(row["source"]), "stated", proof)
        )

    # --- names that the new release no longer takes ---

    def move_all(self) -> None:
        """Drop or move every name that the new release passes over or refuses."""
        for _ in range(ROUNDS):
            if not any(self.move(*case) for case in self.passed_over()):
                return

    def passed_over(self) -> Iterator[tuple[str, Any, Row]]:
        """Yield path, value and row of each name that has to go."""
        for launched in self.launches():
            for path, value in entries(launched):
                row = self.names.rows.get(path)
                if row and path not in self.stuck and self.goes(path, value, row, launched):
                    yield path, value, row

    def goes(self, path: str, value: Any, row: Row, launched: Launched) -> bool:
        """Whether the new release passes over a name that the old one acted on, or refuses it."""
        was, now = self.effect(row, self.old), self.effect(row, self.new)
        finding = judge(path, value, row, launched, self.new)
        if finding is None or finding.id.endswith(("bad-value", "deprecated")):
            return False
        return bool(refusing([finding])) or bool(
            was and was["effect"] in LIVE and (now is None or now["effect"] not in LIVE)
        )

    def move(self, path: str, value: Any, row: Row) -> bool:
        """Carry out one move or drop; False, and never tried again, where it can't be done."""
        line = max(locate(launched, path) for launched in self.launches())
        before = self.text
        done = (
            self.variable_to_key(path, value, row)
            if path.startswith("env.")
            else (self.key_to_variable(path, value) or f"{path.removeprefix('flag.')} dropped")
        )
        gone = done is not None and self.drop(path)
        if not gone:
            self.text = before
            self.stuck.add(path)
            fix = f"change it by hand: {row.get('moved_to') or 'remove it'}"
            self.note(
                "by-hand",
                "warn",
                f"{path.partition('.')[2]} stands where it can't be rewritten",
                row,
                line,
                fix,
            )
            return False
        effect = self.effect(row, self.new)
        says = f": {effect['says']}" if effect else ""
        self.note("migrated", "info", f"{done}{says}", row, line)
        return True

    def variable_to_key(self, path: str, value: Any, row: Row) -> str | None:
        """Give every launch the key that a variable became; return what was done."""
        name = path.removeprefix("env.")
        target_path = key_path(row["moved_to"]) if row.get("moved_to") else ""
        key_row = self.names.rows.get(target_path)
        effect = key_row and self.effect(key_row, self.new)
        if not target_path or (key_row and not (effect and effect["effect"] in LIVE)):
            return f"{name} dropped"
        if isinstance(value, Unknown):
            return None
        for index, launched in enumerate(self.launches()):
            if name not in launched.env:
                continue
            if launched.found.style == "env":
                return (
                    f"{name} dropped; give {row['moved_to']} in --additional-config of the launch"
                )
            if find({"flag": launched.flags}, target_path) is None:
                self.apply(index, target_path, typed(value, key_row or row))
                if find({"flag": self.launches()[index].flags}, target_path) is None:
                    return None
        return f"{name} became {row['moved_to']}"

    def key_to_variable(self, path: str, value: Any) -> str:
        """Export the variable that a key once was, where the new release reads it."""
        for row in self.names.rows.values():
            if row["kind"] != "env" or not row.get("moved_to") or key_path(row["moved_to"]) != path:
                continue
            effect = self.effect(row, self.new)
            if not effect or effect["effect"] not in LIVE or isinstance(value, Unknown):
                continue
            for index, launched in enumerate(self.launches()):
                if find({"flag": launched.flags}, path) is not None:
                    self.apply(index, f"env.{row['name']}", untyped(value))
            return f"{path.removeprefix('flag.additional-config.')} became {row['name']}"
        return ""

    def drop(self, path: str) -> bool:
        """Take a name away wherever the script gives it; False if some place can't be changed."""
        for _ in range(ROUNDS):
            holders = [
                (i, x) for i, x in enumerate(self.launches()) if locate(x, path) or held(x, path)
            ]
            if not holders:
                return True
            if not self.apply(holders[0][0], path, None):
                return False
        return False

    def apply(self, index: int, path: str, value: Any) -> bool:
        """Set or, for None, remove one path of a launch; whether the text changed."""
        launched = self.launches()[index]
        kind, _, rest = path.partition(".")
        if kind == "env" and value is None:
            text = drop_variable(self.text, launched.found.env[rest])
        elif kind == "env":
            text = set_variable(self.text, launched, rest, str(value))
        elif "." in rest:
            text = set_key(self.text, launched, rest, value)
        elif value is None:
            uses = [use for use in launched.uses if use.name == rest]
            text = drop_flag(self.text, uses[-1]) if uses and launched.found.start >= 0 else None
        else:
            text = set_flag(self.text, launched, rest, value)
        changed = text is not None and text != self.text
        self.text = text if text is not None else self.text
        return changed

    # --- rules that the new release breaks on ---

    def repair_all(self) -> None:
        """Lay our own plan's values over what the new release refuses, as far as that helps."""
        for _ in range(ROUNDS):
            if not any(self.repair(i, x) for i, x in enumerate(self.launches())):
                return

    def repair(self, index: int, launched: Launched) -> bool:
        """Repair one broken rule of a launch; whether anything was changed."""
        if launched.found.start < 0:
            return False
        broken = self.broken(launched)
        ours = self.own_plan(launched) if broken else None
        if ours is None:
            return False
        for finding, paths in broken:
            for changes in candidates(paths, launched, ours):
                before = self.text
                self.apply_all(index, changes)
                follow = self.following(index, broken, ours)
                self.apply_all(index, follow)
                if self.text != before and self.better(index, broken):
                    self.note_repair(finding, [*changes, *follow], launched)
                    return True
                self.text = before
        return False

    def apply_all(self, index: int, changes: list[Change]) -> None:
        """Carry out several changes of one launch."""
        for path, value in changes:
            self.apply(index, path, value)

    def following(self, index: int, broken: list[Broken], ours: Launch) -> list[Change]:
        """Return what must change too because a change broke other rules."""
        launched = self.launches()[index]
        known = {finding.id for finding, _ in broken}
        paths = [p for f, ps in self.broken(launched) if f.id not in known for p in ps]
        return [[], *candidates(paths, launched, ours)][-1]

    def note_repair(self, finding: Finding, changes: list[Change], launched: Launched) -> None:
        """Remember what was changed so that a rule holds again."""
        rule = next(r for r in self.new.catalog.table("rules") if r["id"] == finding.id)
        what = ", ".join(
            f"{path.partition('.')[2]} {'removed' if value is None else f'set to {value}'}"
            for path, value in changes
        )
        message = f"{what}: {finding.message}"
        self.note("required", "info", message, rule, launched.found.line)

    def broken(self, launched: Launched) -> list[Broken]:
        """Return the refusing rules that a launch breaks on the new release."""
        rules = {rule["id"] for rule in self.new.catalog.table("rules")}
        verdict = judge_launch(launched, self.new, self.names)
        return [(f, p) for f, p in verdict.findings if f.id in rules and refusing([f])]

    def better(self, index: int, broken: list[Broken]) -> bool:
        """Whether a launch now breaks fewer rules and none that it didn't break before."""
        now = {finding.id for finding, _ in self.broken(self.launches()[index])}
        return now < {finding.id for finding, _ in broken}

    def own_plan(self, launched: Launched) -> Launch | None:
        """Return what we would launch on the new release with the same layout, if anything."""
        facts = judge_launch(launched, self.new, self.names).facts
        sizes = {
            option: facts[option]
            for option in ("tensor_parallel_size", "data_parallel_size")
            if isinstance(facts[option], int)
        }
        spec = facts["spec"] if isinstance(facts["spec"], str) else None
        request = LaunchRequest(
            chip=self.new.subject.variant,
            engine_version=self.new.version,
            model=str(facts["checkpoint"]) if isinstance(facts["checkpoint"], str) else None,
            spec=spec,
            allow_unvalidated=True,
            **sizes,
        )
        try:
            return compile_plan(request, self.new.catalog).launch
        except AscendV4Error:
            return None

    def changed_meaning(self) -> list[Finding]:
        """Return the names that both releases act on, but not in the same way."""
        found: dict[str, Finding] = {}
        asked = {path for launched in self.first for path, _ in entries(launched)}
        for launched in self.launches():
            for path, value in entries(launched):
                row = self.names.rows.get(path) if path in asked and truthy(value) else None
                was, now = (row and self.effect(row, t) for t in (self.old, self.new))
                if not row or not was or not now or was["says"] == now["says"]:
                    continue
                if was["effect"] in LIVE and now["effect"] in LIVE:
                    found[path] = Finding(
                        "meaning-changed",
                        "warn",
                        f"{path.partition('.')[2]} in {self.old.version}: {was['says']} "
                        f"In {self.new.version}: {now['says']}",
                        "check that the value still says what you want",
                        str(row["source"]),
                        "stated",
                        (Evidence(self.name, locate(launched, path)),),
                    )
        return list(found.values())


def held(launched: Launched, path: str) -> bool:
    """Whether a launch holds a path at all."""
    return find({"env": launched.env, "flag": launched.flags}, path) is not None


def typed(value: Any, row: Row) -> Any:
    """Return a variable's text as the JSON value that its key wants."""
    if str(row["type"]).startswith("bool"):
        return truthy(value)
    try:
        return int(value)
    except ValueError:
        return value


def untyped(value: Any) -> str:
    """Return a JSON value as a variable's text."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def candidates(paths: list[str], launched: Launched, ours: Launch) -> Iterator[list[Change]]:
    """Yield the changes to try for a broken rule: additions, then replacements, then removals.

    The last try is all of them at once.
    """
    own = {"env": ours.env, "flag": ours.flags}
    theirs = {"env": launched.env, "flag": launched.flags}
    added: list[Change] = []
    replaced: list[Change] = []
    removed: list[Change] = []
    for path in dict.fromkeys(paths):
        if not path.startswith(("env.", "flag.")):
            continue
        wanted, given = find(own, path), find(theirs, path)
        if wanted is not None and given is None:
            added.append((path, wanted))
        elif wanted is not None and given != wanted:
            replaced.append((path, wanted))
        elif wanted is None and given is not None:
            removed.append((path, None))
    every = [*added, *replaced, *removed]
    for change in every:
        yield [change]
    if len(every) > 1:
        yield every
