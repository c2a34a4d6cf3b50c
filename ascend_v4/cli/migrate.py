"""``ascend-v4 migrate``: a script for another release."""

from __future__ import annotations

import click

from ascend_v4.errors import ExitCode

from .options import json_option
from .output import print_json, status

__all__ = ["command"]


@click.command("migrate")
@click.argument("file", metavar="FILE|-")
@click.option("--from", "from_version", required=True, help="Release that the script is for.")
@click.option("--to", "to_version", required=True, help="Release that it shall be for.")
@click.option("--engine", type=click.Choice(["vllm-ascend", "vllm"]), help="Taken from --chip.")
@click.option("--chip", help="a2, a3, a5, h200, …; a variant as a2:910b4.")
@click.option("--model", help="Checkpoint, where the script doesn't name a known one.")
@click.option("--diff", "as_diff", is_flag=True, help="Print a unified diff instead.")
@json_option
def command(
    file: str,
    from_version: str,
    to_version: str,
    engine: str | None,
    chip: str | None,
    model: str | None,
    as_diff: bool,
    as_json: bool,
) -> int:
    """Print a script rewritten for another release; - reads stdin.

    Only switches that the new release drops, moves or needs are touched. What was done,
    values whose meaning changed and what is left to do go to stderr. Exits 3 when the
    result would still be refused.
    """
    from ascend_v4.catalog.load import catalog
    from ascend_v4.core.finding import refusing
    from ascend_v4.lint.migrate import diff_of, migrate_text
    from ascend_v4.lint.source import read_source, write_source

    from .lint import finding_lines

    text = read_source(file)
    new, findings = migrate_text(
        text, from_version, to_version, chip, catalog(), engine, file, model
    )
    shown = diff_of(text, new, file, from_version, to_version) if as_diff else new
    if as_json:
        print_json({"text": shown, "findings": [finding.to_json() for finding in findings]})
    else:
        write_source(shown)
        for finding in findings:
            for line in finding_lines(finding):
                status(line)
    return int(ExitCode.REFUSED) if refusing(findings) else 0
