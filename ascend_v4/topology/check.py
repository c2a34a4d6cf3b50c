"""Check a deployment as a whole: what no engine sees, because each sees one process.

The rules are rows of ``deployment_rules``; this judges every subject by them and shows
the lines of the file. What a single process breaks comes with the plans as notes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ascend_v4.catalog.load import Catalog, Row
from ascend_v4.core.conditions import applies, evaluate, paths_of
from ascend_v4.core.finding import Evidence, Finding, refusing, worst_first
from ascend_v4.core.rules import fill
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.lint.verdict import FLAG_OF_FACT

from .deploy import Draft, chosen, drafted, gathered, request_of
from .deployment import Deployment
from .lines import Lines, Path
from .planned_subjects import compiled_of, layout_subjects, router_subject, subjects_of_draft
from .read import TopologyError, TopologyFile, problem
from .subjects import Plain, Subject, subjects_of_file
from .wording import in_file, in_file_words
from .written import name_findings, places_of_rule, written_at

__all__ = ["Checked", "check_topology", "planned", "refuse", "verdict"]

#: How many places one finding shows.
PLACES = 10
#: Which key of the file an unknown word stands under.
KEY_OF = {
    "unknown-chip": "chip",
    "unknown-release": "engine_version",
    "unknown-model": "model",
    "unknown-profile": "profile",
    "chip-of-another-profile": "chip",
    "no-profile": "profile",
    "router-extra": "router",
    "router-metrics": "router",
}


@dataclass(frozen=True)
class Checked:
    """A checked topology: its findings, and its deployment unless there can't be one."""

    findings: tuple[Finding, ...]
    deployment: Deployment | None = None


def planned(file: TopologyFile, catalog: Catalog, models: str = "models") -> Deployment:
    """Return the checked deployment of a topology, every finding with it.

    Raises AscendV4Error (refused) naming every error with its line, TopologyError (usage)
    for words that the catalog doesn't know.
    """
    checked = check_topology(file, catalog, models)
    refuse(checked.findings)
    assert checked.deployment is not None
    return checked.deployment


def verdict(findings: Iterable[Finding]) -> ExitCode:
    """Return the exit code that findings call for: 5 where memory alone refuses, as for serve."""
    broken = {finding.id for finding in refusing(findings)}
    if not broken:
        return ExitCode.DONE
    return ExitCode.DOES_NOT_FIT if broken == {"does-not-fit"} else ExitCode.REFUSED


def refuse(findings: Sequence[Finding]) -> None:
    """Raise AscendV4Error (refused, 3, or does not fit, 5) where a finding refuses."""
    broken = refusing(findings)
    if broken:
        lines = [f"{where(note)}{note.message} [{note.id}]" for note in broken]
        text = "\n  also ".join(lines)
        raise AscendV4Error(verdict(findings), broken[0].id, text, broken[0].fix)


def where(finding: Finding) -> str:
    """Return the first place of a finding as ``file:line: ``."""
    first = next(iter(finding.evidence), None)
    return f"{first.file}:{first.line}: " if first else ""


def check_topology(file: TopologyFile, catalog: Catalog, models: str = "models") -> Checked:
    """Return every finding about a topology, and its deployment if it could be planned.

    Raises TopologyError (usage) for words that the catalog doesn't know.
    """
    try:
        return checked_file(file, catalog, models)
    except AscendV4Error as error:
        if isinstance(error, TopologyError) or error.code not in (
            ExitCode.USAGE,
            ExitCode.REFUSED,
        ):
            raise
        found = problem(error.message, file.lines.evidence((KEY_OF.get(error.kind, "name"),)))
        found = replace(found, id=error.kind, fix=in_file_words(error.next))
        if error.code == ExitCode.REFUSED:
            return Checked((found,))
        raise TopologyError([found]) from error


def checked_file(file: TopologyFile, catalog: Catalog, models: str) -> Checked:
    """Return what :func:`check_topology` does; unknown words raise as the catalog has them."""
    plain = Plain(file.topology, catalog)
    check_words(file, plain)
    book = Book(catalog, file)
    book.judge(subjects_of_file(plain))
    if book.stopped:
        return Checked(book.findings())
    facts, sizes = chosen(Draft(file.topology, catalog, models))
    book.judge(layout_subjects(plain, facts, sizes))
    book.judge([router_subject(plain, facts, sizes)])
    if book.stopped:
        return Checked(book.findings())
    draft = drafted(file.topology, catalog, models)
    book.judge(subjects_of_draft(plain, draft))
    book.add_notes(draft)
    findings = book.findings()
    if any(finding.id == "port-collision" for finding in findings):
        # A plan in which two processes want one port isn't a plan.
        return Checked(findings)
    made = in_file_notes(gathered(draft))
    return Checked(findings, replace(made, findings=findings))


def in_file_notes(deployment: Deployment) -> Deployment:
    """Return a deployment whose plans advise in the words of the file that it came from."""
    nodes = tuple(
        replace(each, plan=replace(each.plan, notes=tuple(map(in_file, each.plan.notes))))
        for each in deployment.nodes
    )
    return replace(deployment, nodes=nodes)


def check_words(file: TopologyFile, plain: Plain) -> None:
    """Raise TopologyError for chips that the catalog doesn't know and arguments it can't read."""
    from ascend_v4.core.launch import parse_flags

    found = []
    said: set[str] = set()
    for place, node in enumerate(file.topology.nodes):
        name = node.chip or plain.default_chip
        if name in said:
            continue
        said.add(name)
        path: Path = ("nodes", place, "chip") if node.chip else ("chip",)
        found += attempt(partial(plain.catalog.chip, name), file.lines, path)
    for place, group in enumerate(file.topology.groups):
        words = partial(parse_flags, tuple(group.extra))
        found += attempt(words, file.lines, ("groups", place, "extra"))
    if found:
        raise TopologyError(found)


def attempt(call: Callable[[], object], lines: Lines, path: Path) -> list[Finding]:
    """Return the finding of a call's error, if it raises one."""
    try:
        call()
    except AscendV4Error as error:
        found = problem(error.message, lines.evidence(path))
        return [replace(found, id=error.kind, fix=in_file_words(error.next))]
    return []


class Book:
    """Judges subjects by the rules of the catalog and keeps what they break."""

    def __init__(self, catalog: Catalog, file: TopologyFile) -> None:
        """Take the rules by what they judge."""
        self.catalog, self.lines, self.topology = catalog, file.lines, file.topology
        self.rules: dict[str, list[Row]] = {}
        for row in catalog.table("deployment_rules"):
            self.rules.setdefault(row["subject"], []).append(row)
        self.broken: dict[str, tuple[Row, list[Subject]]] = {}
        self.notes: list[Finding] = []
        #: Rules that say no more than another finding does, each with its group, None for all.
        self.covered: set[tuple[str, int | None]] = set()

    @property
    def stopped(self) -> bool:
        """Whether something is broken that makes planning meaningless."""
        return any(row.get("stops") for row, _ in self.broken.values())

    def judge(self, subjects: Iterable[Subject]) -> None:
        """Note every rule that a subject breaks."""
        for subject in subjects:
            for row in self.rules.get(subject.kind, ()):
                scope = row.get("applies", {})
                facts = subject.facts
                if applies(scope, facts, self.catalog) and evaluate(row["condition"], facts):
                    self.broken.setdefault(row["id"], (row, []))[1].append(subject)

    def add_notes(self, draft: Draft) -> None:
        """Take over the notes of the plans, each with the lines that cause it.

        Those are what the file states of what the rule looks at, else the group itself.
        """
        covers = {r["id"]: r["covers"] for r in self.catalog.table("rules") if "covers" in r}
        every = list(notes_of(draft))
        for note, group, _ in every:
            self.covered |= {(name, group) for name in covers.get(note.id, ())}
        for row, subjects in self.broken.values():
            self.cover(row, subjects)
        found: dict[Finding, list[Path]] = {}
        for note, group, path in every:
            if not self.covered & {(note.id, group), (note.id, None)}:
                found.setdefault(note, []).append(path)
        for note, paths in found.items():
            seen = dict.fromkeys(self.lines.evidence(path) for path in paths)
            self.notes.append(replace(note, evidence=tuple(seen)[:PLACES]))

    def cover(self, row: Row, subjects: list[Subject]) -> None:
        """Note what a broken rule would only say again, in the groups where it is broken."""
        for subject in subjects:
            groups: list[int | None] = [*subject.groups] or [None]
            self.covered |= {(name, at) for name in row.get("covers", ()) for at in groups}

    def findings(self) -> tuple[Finding, ...]:
        """Return every finding, the gravest first, in the order of the catalog."""
        for row, subjects in self.broken.values():
            self.cover(row, subjects)
        order = [row["id"] for row in self.catalog.table("deployment_rules")]
        found: list[Finding] = []
        for ident in sorted(self.broken, key=order.index):
            row, subjects = self.broken[ident]
            left = [s for s in subjects if not self.is_covered(ident, s)]
            found += self.told(row, left) if left else ()
        return tuple(worst_first([*found, *self.notes]))

    def is_covered(self, ident: str, subject: Subject) -> bool:
        """Whether another finding of the same groups, or of the whole, says it already."""
        groups = subject.groups
        inside = bool(groups) and all((ident, place) in self.covered for place in groups)
        return inside or (ident, None) in self.covered

    def told(self, row: Row, subjects: list[Subject]) -> Iterator[Finding]:
        """Yield a rule's findings: one for each cause, or one for all together."""
        if not row.get("together"):
            for subject in subjects:
                yield finding(row, subject.facts, self.evidence(row, [subject]))
            return
        names = [str(subject.facts["name"]) for subject in subjects]
        listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        facts = {**subjects[0].facts, "count": len(names), "names": listed}
        yield finding(row, facts, self.evidence(row, subjects))

    def evidence(self, row: Row, subjects: list[Subject]) -> tuple[Evidence, ...]:
        """Return the lines of subjects that break a rule."""
        paths: list[Path] = []
        for subject in subjects[:PLACES]:
            paths += self.stated(row, subject) or self.places(row.get("at", ""), subject)
        return tuple(dict.fromkeys(self.lines.evidence(path) for path in paths))

    def stated(self, row: Row, subject: Subject) -> list[Path]:
        """Return where the file states what a rule compares of two sides, and each silent side."""
        found: list[Path] = []
        silent = dict(subject.sides)
        for path in paths_of(row["condition"]) if subject.sides else ():
            side, _, fact = path.partition(".")
            at = written_at(self.topology, subject.sides[side], FLAG_OF_FACT.get(fact, fact))
            if at:
                found.append(at)
                silent.pop(side, None)
        rest: list[Path] = [("groups", place) for place in silent.values()]
        return [*dict.fromkeys(found), *rest] if found else []

    def places(self, at: str, subject: Subject) -> list[Path]:
        """Return the key of a rule in the parts of a subject: first of those that have it."""
        if at in subject.places:
            return [subject.places[at], *filter(self.lines.has, subject.also)]
        parts = [subject.path, *filter(self.lines.has, subject.also)]
        keyed = [(*part, *at.split(".")) if at else part for part in parts]
        having = [path in self.lines.numbers for path in keyed]
        first = [path for path, has in zip(keyed, having, strict=True) if has]
        rest = [part for part, has in zip(parts, having, strict=True) if not has]
        return [*first, *rest]


def notes_of(draft: Draft) -> Iterator[tuple[Finding, int, Path]]:
    """Yield what is wrong with each group's own launch, with the group and places in the file."""
    topology, catalog = draft.topology, draft.catalog
    for place, group in enumerate(topology.groups):
        for compiled in draft.compiled[group.name]:
            for note in [*compiled.plan.notes, *fit_notes(draft, place, compiled)]:
                stated = places_of_rule(topology, place, note.id, catalog)
                for path in stated or [("groups", place)]:
                    yield in_file(note), place, path
        head, request = compiled_of(draft, group), request_of(topology, group)
        for finding, path in name_findings(topology, place, request, head, catalog):
            yield in_file(finding), place, path


def fit_notes(draft: Draft, place: int, compiled: Any) -> list[Finding]:
    """Return whether a group's launch fits in its devices, told once for the group.

    Nothing where a rule refuses the launch: it may well be for the same memory.
    """
    from ascend_v4.sizing.check import fit_check

    first = compiled is compiled_of(draft, draft.topology.groups[place])
    return fit_check(compiled) if first and not refusing(compiled.plan.notes) else []


def finding(row: Row, facts: Mapping[str, Any], evidence: tuple[Evidence, ...]) -> Finding:
    """Return the finding of a broken deployment rule."""
    return Finding(
        row["id"],
        row["severity"],
        fill(row["message"], facts),
        fill(row["fix"], facts),
        row["source"],
        row.get("confidence", "stated"),
        evidence,
    )
