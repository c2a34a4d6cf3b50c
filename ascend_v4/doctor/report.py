"""A report as text for people, and its fixes as a script."""

from __future__ import annotations

from collections import Counter

from .check import Check
from .examine import Report

__all__ = ["fix_script", "text_report"]

MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL", "unknown": "?   "}
SHOWN = {"fail": 6, "warn": 3, "unknown": 1, "ok": 0}


def text_report(report: Report, verbose: bool = False) -> str:
    """Return the report as text: each check in a line, what is wrong with evidence and fix."""
    lines = []
    group = ""
    for check in report.checks:
        if check.row["group"] != group:
            group = check.row["group"]
            lines.append(f"{group}:")
        lines += check_lines(check, verbose)
    counts: Counter[str] = Counter(check.verdict for check in report.checks)
    told = ", ".join(f"{counts[v]} {v}" for v in ("fail", "warn", "unknown", "ok") if counts[v])
    code = int(report.exit_code)
    ready = {0: "this host is ready", 3: "unsupported", 6: "not ready", 7: "busy"}[code]
    lines.append(f"{ready}: {told}; {report.seconds:.1f} s")
    return "\n".join(lines)


def check_lines(check: Check, verbose: bool) -> list[str]:
    """Return the lines of one check."""
    lines = [f"  {MARKS[check.verdict]} {check.id}: {check.outcome.message}"]
    shown = 16 if verbose else SHOWN[check.verdict]
    lines += [f"         {text}" for text in check.outcome.evidence[:shown]]
    if check.verdict in ("fail", "warn") and check.fix:
        lines.append(f"         fix: {check.fix.removeprefix('# ')}")
        lines.append(f"         why: {check.row['source']}")
    return lines


def fix_script(report: Report) -> str:
    """Return the fixes of what failed or warned as a shell script: commands where a command
    alone will do, comments elsewhere. Nothing in it has been run.
    """
    lines = ["#!/bin/sh", "# Fixes that `ascend-v4 doctor` found; read before you run it."]
    for check in report.checks:
        if check.verdict not in ("fail", "warn") or not check.fix:
            continue
        place = " (on the bare host, as root)" if check.row.get("root") else ""
        lines += ["", f"# {check.id}{place}: {one_line(check.outcome.message)}"]
        runs = check.row.get("runs") and not check.fix.startswith("#")
        lines.append(one_line(check.fix) if runs else f"# {one_line(check.fix).lstrip('# ')}")
    if len(lines) == 2:
        lines.append("# nothing to fix")
    return "\n".join(lines) + "\n"


def one_line(text: str) -> str:
    """Return text without line breaks, so that no part of it leaves its comment."""
    return " ".join(text.split())
