"""The compiled catalog as plain dictionaries, read once and quickly.

Only the standard library is imported: this is on the path of every command.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from ascend_v4.errors import AscendV4Error, ExitCode

__all__ = ["Catalog", "Row", "catalog", "nearest", "read_compiled"]

Row = dict[str, Any]

COMPILED = Path(__file__).with_name("compiled.json")


def nearest(word: str, known: list[str]) -> str:
    """Return ``"did you mean X?"`` for the nearest known word, or ``""``."""
    close = get_close_matches(word.lower(), [name.lower() for name in known], n=1, cutoff=0.6)
    if not close:
        return ""
    match = next(name for name in known if name.lower() == close[0])
    return f"did you mean {match}?"


@dataclass(frozen=True)
class Catalog:
    """All rows, by table name; see ``schema`` for what each row holds."""

    tables: dict[str, list[Row]]

    def table(self, name: str) -> list[Row]:
        """Return every row of a table, in file order."""
        return self.tables[name]

    def engines(self) -> list[str]:
        """Return the engine names, in catalog order."""
        return list(dict.fromkeys(row["engine"] for row in self.table("releases")))

    def versions(self, engine: str) -> list[str]:
        """Return an engine's versions, oldest first."""
        return [row["version"] for row in self.table("releases") if row["engine"] == engine]

    def release(self, engine: str, version: str) -> Row:
        """Return a release row; an alias or a leading ``v`` is accepted.

        Raises AscendV4Error (usage) for a version that the catalog doesn't know.
        """
        wanted = version.removeprefix("v")
        for row in self.table("releases"):
            if row["engine"] == engine and wanted in (row["version"], *row.get("aliases", [])):
                return row
        known = self.versions(engine)
        raise AscendV4Error(
            ExitCode.USAGE,
            "unknown-release",
            f"{engine} {version} is not a release this catalog knows; "
            f"it knows {', '.join(known)}. {nearest(version, known)}".rstrip(),
            f"ascend-v4 profiles --releases {engine}",
        )

    def rank(self, engine: str, version: str) -> int:
        """Return the place of a version in its engine's order of publication."""
        return self.versions(engine).index(version)

    def default_release(self, engine: str) -> Row:
        """Return the release that is taken when none is asked for."""
        return next(r for r in self.table("releases") if r["engine"] == engine and r.get("default"))

    def chip(self, name: str) -> Row:
        """Return the chip row of an id or a variant (``a2:910b4``), any case.

        Raises AscendV4Error (usage) for an unknown chip.
        """
        wanted = name.lower()
        for row in self.table("chips"):
            if wanted in (row["id"], *row.get("variants", []), *row.get("aliases", [])):
                return row
        known = [row["id"] for row in self.table("chips")]
        raise AscendV4Error(
            ExitCode.USAGE,
            "unknown-chip",
            f"'{name}' is not a chip this catalog knows; it knows {', '.join(known)}. "
            f"{nearest(name, known)}".rstrip(),
            "ascend-v4 profiles --chips",
        )

    def checkpoint(self, ident: str) -> Row | None:
        """Return the checkpoint row of a catalog id or a hub id, or None."""
        wanted = ident.lower()
        for row in self.table("checkpoints"):
            names = [row["id"], *(hub["repo"] for hub in row.get("hubs", []))]
            if wanted in [name.lower() for name in names]:
                return row
        return None

    def variable(self, name: str) -> Row | None:
        """Return the row of an environment variable, flag or JSON key, or None."""
        return next((row for row in self.table("variables") if row["name"] == name), None)


@lru_cache(maxsize=1)
def catalog() -> Catalog:
    """Return the compiled catalog; see :func:`read_compiled` for errors."""
    return read_compiled(COMPILED)


def read_compiled(path: Path) -> Catalog:
    """Return the tables of a compiled file.

    Raises AscendV4Error (a fault of ours) when it is missing or damaged.
    """
    try:
        return Catalog(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise AscendV4Error(
            ExitCode.FAULT,
            "catalog-missing",
            f"the compiled catalog can't be read: {error}",
            "python -m ascend_v4.catalog.build",
        ) from error
