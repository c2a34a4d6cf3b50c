"""A diagnosis as text for people."""

from __future__ import annotations

from collections.abc import Iterable

from ascend_v4.catalog.load import Row

from .scan import Hit
from .verdict import Diagnosis, Match, clock

__all__ = ["report"]

ATTACH = (
    "attach to an issue: these logs whole (every rank and node), ~/ascend/log (on NVIDIA dmesg),\n"
    "and the file of: ascend-v4 doctor --bundle out.tgz"
)


def report(found: Diagnosis) -> str:
    """Return the diagnosis as text of several lines."""
    lines: list[str] = []
    if found.cause:
        lines += cause_lines(found.cause, found.verdict == "found")
    elif found.verdict == "unsure":
        lines.append("no cause found: only consequences or warnings; the cause is in another log")
    else:
        lines.append("nothing recognised")
    for title, matches in (
        ("also found", found.also),
        ("consequences", found.secondary),
        ("warnings", found.warnings),
    ):
        if matches:
            lines += ["", f"{title}:", *(short(match) for match in matches)]
    if found.verdict != "found":
        lines += error_lines(found)
    lines += ["", *read_lines(found)] if found.notes or found.files else []
    return "\n".join(lines)


def cause_lines(match: Match, sure: bool) -> list[str]:
    """Return the cause with confidence, evidence, fix, links and its class."""
    row = match.row
    confidence = row.get("confidence", "stated")
    lines = [
        f"{'cause' if sure else 'possible cause'}: {row['title']} [{match.id}]",
        f"  {row['cause']}",
        f"  confidence: {confidence}{'' if sure else ', the sign is weak'}; "
        f"phase: {row['phase']}; exit code of this class: {row['exit']}",
        f"  fix: {row['fix']}",
        f"  source: {row['source']}",
    ]
    lines += [f"  see: {link}" for link in row.get("links", [])]
    lines += [f"  {told(code)}" for code in match.codes]
    lines.append(f"  evidence (first of {match.count}):")
    lines += [f"    {place(hit)}" for hit in match.hits[:4]]
    return lines


def error_lines(found: Diagnosis) -> list[str]:
    """Return the earliest error lines, what their codes mean and what to attach."""
    lines = ["", "earliest error lines, telling ones first:"]
    lines += [f"  {place(hit)}" for hit in found.errors] or ["  none"]
    lines += [f"  {told(code)}" for code in found.codes]
    return [*lines, "", *ATTACH.split("\n")]


def read_lines(found: Diagnosis) -> Iterable[str]:
    """Return the notes and what was read."""
    yield from (f"note: {note}" for note in found.notes)
    size = sum(int(entry["bytes"]) for entry in found.files)
    lines = sum(int(entry["lines"]) for entry in found.files)
    yield f"read {len(found.files)} logs, {lines} lines, {size / 1e6:.1f} MB"


def short(match: Match) -> str:
    """Return a match in one line, with the first place it was seen."""
    hit = match.hits[0]
    return f"  {match.row['title']} [{match.id}] {match.count}x, first {hit.file}:{hit.line}"


def place(hit: Hit) -> str:
    """Return a line with its place, time and rank."""
    words = [f"{hit.file}:{hit.line}", clock(hit.when), hit.rank, hit.text.strip()]
    return "  ".join(word for word in words if word)


def told(code: Row) -> str:
    """Return an error code in one line."""
    return f"{code['code']}: {code['meaning']} (ascend-v4 diagnose --explain {code['code']})"
