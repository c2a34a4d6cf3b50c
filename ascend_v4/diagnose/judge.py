"""From what was found to the first cause: time order, consequences, weak words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from ascend_v4.catalog.load import Row

from .scan import FileScan, Hit, Start
from .verdict import Diagnosis, Match, Verdict

__all__ = ["judge"]

NEAR_LINES = 80
#: A weak first line gives way to a strong one that follows within this many seconds or lines.
GIVE_WAY_S = 10.0
GIVE_WAY_LINES = 400
SHOWN_ERRORS = 8
CODE = re.compile(r"(?<![\w.-])(E[A-Z]\d{4}|[1-5]\d{5}|-80\d\d)(?!\d)")
EXCEPTION = re.compile(r"(?:^|[\s(])[\w.]*(?:Error|Exception)(?:\(\w+\))?: ")


def judge(
    scans: Sequence[FileScan],
    rows: dict[str, Row],
    codes: dict[str, Row],
    refused: Callable[[list[Hit]], list[Match]] = lambda _: [],
) -> Diagnosis:
    """Return the diagnosis of the logs that were read.

    ``codes`` explains error codes, ``refused`` finds the engine's own refusals among
    error lines; it is asked only where no signature can stand alone.
    """
    chosen = [(scan, last_failed(scan, rows)) for scan in scans]
    matches = collect(chosen, rows, codes)
    raised = [hit for _, start in chosen for hit in start.errors]
    if not any(m.role == "cause" and not m.weak for m in matches):
        told = {(hit.file, hit.line) for match in matches for hit in match.hits}
        fresh = [hit for hit in raised if (hit.file, hit.line) not in told]
        matches = sorted([*matches, *refused(fresh)], key=lambda match: order(match.hits[0]))
    causes = unexplained([m for m in matches if m.role == "cause"])
    cause = first_cause(causes)
    ended = next((m for m in matches if m.role == "ended"), None)
    if ended and (cause is None or order(ended.hits[0]) < order(cause.hits[0])):
        cause = ended
    errors = ranked(raised)
    verdict: Verdict = "nothing"
    if matches and any(m.role != "benign" for m in matches):
        verdict = "found" if cause and not cause.weak else "unsure"
    return Diagnosis(
        verdict,
        cause,
        tuple(m for m in causes if m is not cause),
        tuple(m for m in matches if is_echo(m, causes)),
        tuple(m for m in matches if m.role in ("warning", "benign")),
        tuple(errors[:SHOWN_ERRORS]),
        codes_of(errors[:SHOWN_ERRORS], codes),
        tuple(notes(scans, chosen)),
        tuple({"file": s.name, "lines": s.lines, "bytes": s.bytes} for s in scans),
    )


def is_echo(match: Match, causes: list[Match]) -> bool:
    """Whether a match is a consequence: by its role, or because another row explains it."""
    return match.role == "secondary" or (match.role == "cause" and match not in causes)


def last_failed(scan: FileScan, rows: dict[str, Row]) -> Start:
    """Return the last start in a log that failed, else the last one."""
    for start in reversed(scan.starts):
        if any(rows[name].get("role", "cause") in ("cause", "secondary") for name in start.hits):
            return start
    return next((start for start in reversed(scan.starts) if start.errors), scan.starts[-1])


def collect(
    chosen: Iterable[tuple[FileScan, Start]], rows: dict[str, Row], codes: dict[str, Row]
) -> list[Match]:
    """Return a match for each row found, with its lines of all files, in time order."""
    hits: dict[str, list[Hit]] = {}
    counts: dict[str, int] = {}
    for _, start in chosen:
        for name, found in start.hits.items():
            near = [hit for hit in found if has_near(rows[name], start, hit.line)]
            if near:
                hits.setdefault(name, []).extend(near)
                counts[name] = counts.get(name, 0) + start.counts[name]
    made = []
    for name, lines in hits.items():
        lines.sort(key=order)
        made.append(Match(rows[name], tuple(lines), counts[name], codes_of(lines[:1], codes)))
    return sorted(made, key=lambda match: order(match.hits[0]))


def has_near(row: Row, start: Start, line: int) -> bool:
    """Whether all that a row wants nearby stands within NEAR_LINES of a line."""
    return all(
        any(abs(other - line) <= NEAR_LINES for other in start.near.get(word, ()))
        for word in row.get("near", [])
    )


def order(hit: Hit) -> tuple[float, str, int]:
    """Return what hits are sorted by: time, then file and line."""
    return (hit.when if hit.when is not None else float("inf"), hit.file, hit.line)


def unexplained(causes: list[Match]) -> list[Match]:
    """Return the causes that no other one found explains; all if they explain each other."""
    explained = {name for match in causes for name in match.row.get("explains", [])}
    return [match for match in causes if match.id not in explained] or causes


def first_cause(causes: list[Match]) -> Match | None:
    """Return the earliest cause; a weak one gives way to a strong one close behind it."""
    if not causes:
        return None
    first = causes[0]
    if not first.weak:
        return first
    return next((m for m in causes if not m.weak and close(first.hits[0], m.hits[0])), first)


def close(early: Hit, late: Hit) -> bool:
    """Whether two lines belong to one event."""
    if early.file == late.file and abs(late.line - early.line) <= GIVE_WAY_LINES:
        return True
    if early.when is None or late.when is None:
        return False
    return late.when - early.when <= GIVE_WAY_S


def ranked(errors: list[Hit]) -> list[Hit]:
    """Return error lines, telling ones first, each group in time order, repeats left out."""
    seen: set[str] = set()
    unique = []
    for hit in sorted(errors, key=order):
        shape = re.sub(r"\d+", "#", hit.text[-120:])
        if shape not in seen and hit.text.strip():
            seen.add(shape)
            unique.append(hit)
    return sorted(unique, key=lambda hit: -telling(hit.text))


def telling(text: str) -> int:
    """Return how much a line tells: 2 with an exception or a code, 1 at level error, else 0."""
    if EXCEPTION.search(text) or CODE.search(text):
        return 2
    return 1 if re.search(r"\b(ERROR|CRITICAL|FATAL|Fatal|Killed)\b", text) else 0


def codes_of(hits: Iterable[Hit], known: dict[str, Row]) -> tuple[Row, ...]:
    """Return the rows of the error codes on these lines, each once."""
    found = {c: known[c] for hit in hits for c in CODE.findall(hit.text) if c in known}
    return tuple(found.values())


def notes(scans: Sequence[FileScan], chosen: list[tuple[FileScan, Start]]) -> list[str]:
    """Return what the reader should know about the logs themselves."""
    told = []
    for scan, start in chosen:
        before = [s for s in scan.starts if s.hits and s.line < start.line]
        earlier = len(before) + scan.dropped_starts
        if earlier:
            told.append(
                f"{scan.name} holds {earlier} earlier failed starts; "
                f"this is about the one from line {start.line}"
            )
    timed = [s for s in scans if s.last is not None]
    if len(scans) > 1 and len(timed) < len(scans):
        silent = ", ".join(s.name for s in scans if s.last is None and not s.starts[-1].empty)
        if silent:
            told.append(f"no times in {silent}: its place in the order is unknown")
    if len(timed) > 1:
        told.append("times are compared as printed: clocks of nodes that differ mislead")
    return told
