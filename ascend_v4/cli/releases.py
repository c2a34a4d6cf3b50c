"""``ascend-v4 releases``: which release serves what."""

from __future__ import annotations

from typing import Any

import click

from .options import json_option
from .output import print_findings, print_json, print_result, print_table

__all__ = ["command"]


@click.command("releases")
@click.option("--engine", type=click.Choice(["vllm-ascend", "vllm"]), help="Taken from --chip.")
@click.option("--chip", help="Only releases for this chip.")
@click.option("--model", help="Only releases that serve this checkpoint.")
@click.option("--check", "version", metavar="VERSION", help="Say whether this one is fit to use.")
@json_option
def command(
    engine: str | None, chip: str | None, model: str | None, version: str | None, as_json: bool
) -> None:
    """List the releases of an engine, what they serve and what is known to be bad.

    --check exits 3 with the reason where the release does not serve the chip and model,
    or is known to serve them wrong.
    """
    from ascend_v4.catalog.load import catalog
    from ascend_v4.lint.releases import check_release, engine_for, list_releases

    known = catalog()
    engine = engine_for(engine, chip, known)
    if version:
        row, notes = check_release(version, engine, chip, model, known)
        print_findings(note for note in notes if note.severity != "info")
        if as_json:
            print_json(row)
        else:
            print_result(one(row, engine, chip, model))
        return
    rows = list_releases(engine, chip, model, known)
    if as_json:
        print_json(rows)
    elif rows:
        header = ["release", "vllm", "python", "CANN", "HDK", "chips", "models", "known bad"]
        print_table(header, [cells(row) for row in rows])
    else:
        print_result("no release serves this")


def cells(row: dict[str, Any]) -> list[str]:
    """Return a release as a line of the table."""
    return [
        row["version"] + (" (default)" if row["default"] else ""),
        row["vllm"],
        row["python"] or "-",
        row["cann"] or "-",
        row["hdk"] or "-",
        " ".join(row["chips"]) or "-",
        " ".join(row["checkpoints"]) or "-",
        " ".join(bad["id"] for bad in row["known_bad"]) or "-",
    ]


def one(row: dict[str, Any], engine: str, chip: str | None, model: str | None) -> str:
    """Return what there is to say about one release that is fit to use."""
    pair = f"{model or 'its models'} on {chip or 'its chips'}"
    lines = [f"{engine} {row['version']} serves {pair} ({row['source']})"]
    lines += [f"  {chip}: {text}" for chip, text in row["chips"].items() if text != "yes"]
    lines += [f"  {bad['id']}: {bad['what']} ({bad['source']})" for bad in row["known_bad"]]
    lines += [f"  {note}" for note in row["notes"]]
    return "\n".join(lines)
