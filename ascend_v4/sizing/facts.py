"""Rows of the sizing tables: which arithmetic a release has, what a model looks like."""

from __future__ import annotations

from ascend_v4.catalog.load import Row, catalog
from ascend_v4.errors import AscendV4Error, ExitCode

__all__ = ["UnmodelledError", "kv_caches", "kv_model", "kv_release"]


class UnmodelledError(AscendV4Error):
    """A release or model whose KV arithmetic nobody could read; no figure is given for it."""


def kv_release(engine: str, version: str) -> Row:
    """Return the arithmetic of a release.

    Raises AscendV4Error (usage) for an unknown release, UnmodelledError for one whose
    arithmetic isn't known.
    """
    version = str(catalog().release(engine, version)["version"])
    rank = catalog().rank(engine, version)
    for row in catalog().table("kv_releases"):
        if row["engine"] != engine:
            continue
        until = row.get("until")
        after = rank >= catalog().rank(engine, row["since"])
        if after and (until is None or rank <= catalog().rank(engine, until)):
            return row
    first = next(r["since"] for r in catalog().table("kv_releases") if r["engine"] == engine)
    raise UnmodelledError(
        ExitCode.UNSURE,
        "kv-not-modelled",
        f"the KV arithmetic of {engine} {version} isn't known; it is known from {first} on",
        f"ascend-v4 plan --engine-version {first}",
    )


def kv_caches(engine: str, chip: str) -> Row:
    """Return the cache rows of an engine on a chip; ``chip`` may be a variant."""
    family = chip.partition(":")[0]
    rows = [row for row in catalog().table("kv_caches") if row["engine"] == engine]
    return next((row for row in rows if family in row.get("chips", [])), rows[0])


def kv_model(family: str) -> Row:
    """Return the geometry of a family. Raises UnmodelledError where none is published."""
    row = next((row for row in catalog().table("kv_models") if row["id"] == family), None)
    if row is None or row["kind"] == "unknown":
        raise UnmodelledError(
            ExitCode.UNSURE,
            "model-not-modelled",
            f"no configuration of {family} is known, so nothing is computed for it",
            "give a directory with its config.json with --model-dir",
        )
    return row
