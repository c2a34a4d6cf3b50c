"""``ascend-v4 profiles``: what this tool can plan for."""

from __future__ import annotations

import click

from ascend_v4.catalog.load import Catalog, Row, catalog

from .options import json_option
from .output import print_json, print_table

__all__ = ["command"]

MEANING = {
    "ascend": "DeepSeek-V4 on Huawei Ascend NPUs through vLLM-Ascend",
    "cuda": "DeepSeek-V4 on NVIDIA GPUs through vLLM",
    "cpu": "a rehearsal of the whole deployment on real vLLM, no accelerator",
}
ENGINES = {"ascend": "vllm-ascend", "cuda": "vllm", "cpu": "vllm"}


@click.command("profiles")
@click.option("--chips", "what", flag_value="chips", help="List the chips instead.")
@click.option("--models", "what", flag_value="models", help="List the models instead.")
@click.option(
    "--releases", "releases_of", metavar="ENGINE", help="List an engine's releases instead."
)
@json_option
def command(what: str | None, releases_of: str | None, as_json: bool) -> None:
    """List the profiles: ascend, cuda and cpu.

    --profile auto, the default, looks at the host in `serve` and `doctor` only.
    """
    known = catalog()
    if releases_of:
        header, rows = release_rows(releases_of, known)
    elif what == "chips":
        header, rows = chip_rows(known)
    elif what == "models":
        header, rows = model_rows(known)
    else:
        header, rows = profile_rows(known)
    if as_json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
    else:
        print_table(header, rows)


def profile_rows(known: Catalog) -> tuple[list[str], list[list[str]]]:
    """Return the table of profiles."""
    rows = []
    for name, meaning in MEANING.items():
        chips = [r["id"] for r in of_profile(known, name) if "unsupported" not in r]
        version = str(known.default_release(ENGINES[name])["version"])
        rows.append([name, f"{ENGINES[name]} {version}", " ".join(chips), meaning])
    return ["profile", "engine", "chips", "meaning"], rows


def of_profile(known: Catalog, name: str) -> list[Row]:
    """Return the chip rows of a profile."""
    return [row for row in known.table("chips") if row["profile"] == name]


def chip_rows(known: Catalog) -> tuple[list[str], list[list[str]]]:
    """Return the table of chips, with the reason where one is unsupported."""
    rows = [
        [
            row["id"],
            row["profile"],
            str(row["devices_per_node"]),
            row["title"],
            f"no: {row['unsupported']}" if "unsupported" in row else "yes",
        ]
        for row in known.table("chips")
    ]
    return ["chip", "profile", "devices", "title", "supported"], rows


def model_rows(known: Catalog) -> tuple[list[str], list[list[str]]]:
    """Return the table of checkpoints."""
    rows = [
        [
            row["id"],
            " ".join(row["chips"]),
            f"{row['bytes'] / 1e9:.1f} GB" if "bytes" in row else "?",
            " ".join(f"{hub['hub']}:{hub['repo']}" for hub in row.get("hubs", []))
            or "built locally",
        ]
        for row in known.table("checkpoints")
    ]
    return ["model", "chips", "size", "from"], rows


def release_rows(engine: str, known: Catalog) -> tuple[list[str], list[list[str]]]:
    """Return the table of an engine's releases; raises click.UsageError for an unknown engine."""
    if engine not in known.engines():
        raise click.BadParameter(f"'{engine}' is not one of {', '.join(known.engines())}")
    rows = [
        [
            row["version"] + (" (default)" if row.get("default") else ""),
            row["vllm"],
            row.get("cann", "-"),
            " ".join(row.get("checkpoints", {})),
        ]
        for row in known.table("releases")
        if row["engine"] == engine
    ]
    return ["release", "vllm", "CANN", "models"], rows
