"""``ascend-v4 lint``: what is wrong with somebody else's launch script."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ascend_v4.errors import ExitCode

from .options import json_option
from .output import print_json, print_result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ascend_v4.core.finding import Finding

__all__ = ["FAIL_ON", "command", "finding_lines"]

#: What ``--fail-on`` may name, gravest first; ``silent`` is the default.
FAIL_ON = ("error", "silent", "risk", "warn", "info", "never")


@click.command("lint")
@click.argument("file", metavar="FILE|-")
@click.option("--engine", type=click.Choice(["vllm-ascend", "vllm"]), help="Taken from --chip.")
@click.option("--engine-version", help="Release that the script is for.")
@click.option("--chip", help="a2, a3, a5, h200, …; a variant as a2:910b4.")
@click.option("--model", help="Checkpoint, where the script doesn't name a known one.")
@click.option(
    "--fail-on",
    type=click.Choice(FAIL_ON),
    default="silent",
    show_default=True,
    help="Least grave severity that makes the exit status 3.",
)
@json_option
def command(
    file: str,
    engine: str | None,
    engine_version: str | None,
    chip: str | None,
    model: str | None,
    fail_on: str,
    as_json: bool,
) -> int:
    """Judge a shell script, a pasted command or a .env file; - reads stdin.

    Reads every `vllm serve` and `python -m vllm.entrypoints…` with the variables it
    gets, and says where each finding stands. Exits 3 on errors and silent failures.
    """
    from ascend_v4.catalog.load import catalog
    from ascend_v4.lint.check import lint_text
    from ascend_v4.lint.source import read_source

    text = read_source(file)
    findings = lint_text(text, file, engine, engine_version, chip, catalog(), model)
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        print_result(
            "\n".join(line for f in findings for line in finding_lines(f)) or "no findings"
        )
    return int(ExitCode.REFUSED) if fails(findings, fail_on) else 0


def fails(findings: Sequence[Finding], fail_on: str) -> bool:
    """Whether a finding is at least as grave as ``fail_on`` says."""
    return any(FAIL_ON.index(finding.severity) <= limit(fail_on) for finding in findings)


def limit(fail_on: str) -> int:
    """Return the place of the least grave severity that fails; -1 fails on nothing."""
    return -1 if fail_on == "never" else FAIL_ON.index(fail_on)


def finding_lines(finding: Finding) -> list[str]:
    """Return a finding as ``file:line: severity: message [id]`` with its text, fix and source."""
    places = [f"{e.file}:{e.line}" if e.line else e.file for e in finding.evidence]
    head = f"{places[0]}: " if places else ""
    lines = [f"{head}{finding.severity}: {finding.message} [{finding.id}]"]
    if len(places) > 1:
        lines.append(f"    also: {', '.join(places[1:])}")
    if finding.evidence and finding.evidence[0].text:
        lines.append(f"    line: {shortened(finding.evidence[0].text)}")
    if finding.fix:
        lines.append(f"    fix: {finding.fix}")
    if finding.source:
        lines.append(f"    source: {finding.source}")
    return lines


def shortened(text: str) -> str:
    """Return a script line, at most 160 characters of it."""
    return text if len(text) <= 160 else text[:159] + "…"
