"""The way in: logs to a diagnosis."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

from ascend_v4.catalog.diagnosis import diagnosis_catalog
from ascend_v4.catalog.load import Catalog

from .judge import judge
from .reader import blocks_of_lines, blocks_of_path, blocks_of_stream
from .refusals import engine_rules, refusals
from .scan import FileScan, Hit
from .signatures import Signatures, applying
from .verdict import Diagnosis, Match

__all__ = ["Source", "diagnose_lines", "diagnose_paths"]

#: A file, or a name and a stream of bytes.
Source = Path | tuple[str, IO[bytes]]


def prepare(catalog: Catalog | None, engine: str | None, version: str | None) -> Signatures:
    """Return the signatures of a release, made ready to search."""
    if catalog is None:
        return prepared(engine, version)
    return Signatures(applying(catalog.table("signatures"), engine, version))


@lru_cache(maxsize=8)
def prepared(engine: str | None, version: str | None) -> Signatures:
    """Return our own signatures; building the automaton is not worth doing twice."""
    return Signatures(applying(diagnosis_catalog().table("signatures"), engine, version))


def finish(
    scans: Sequence[FileScan],
    known: Signatures,
    catalog: Catalog | None,
    engine: str | None,
    version: str | None,
) -> Diagnosis:
    """Return the judgement of what was read."""
    rows = (catalog or diagnosis_catalog()).table("error_codes")

    def refused(errors: list[Hit]) -> list[Match]:
        return refusals(errors, engine_rules(engine, version)) if errors else []

    return judge(scans, known.rows, {row["code"]: row for row in rows}, refused)


def diagnose_paths(
    sources: Iterable[Source],
    catalog: Catalog | None = None,
    *,
    engine: str | None = None,
    version: str | None = None,
) -> Diagnosis:
    """Return the first cause in files and streams, read once in blocks of 4 MiB.

    ``engine`` and ``version`` leave out signatures of other releases. Raises
    AscendV4Error (usage) for a file that can't be read.
    """
    known = prepare(catalog, engine, version)
    scans = []
    for source in sources:
        if isinstance(source, Path):
            year = time.localtime(source.stat().st_mtime if source.exists() else None).tm_year
            scans.append(FileScan(str(source), known, year).read(blocks_of_path(source)))
        else:
            name, stream = source
            year = time.localtime().tm_year
            scans.append(FileScan(name, known, year).read(blocks_of_stream(stream)))
    return finish(scans, known, catalog, engine, version)


def diagnose_lines(
    lines: Iterable[str | bytes] | Iterable[Path],
    catalog: Catalog | None = None,
    *,
    name: str = "log",
    engine: str | None = None,
    version: str | None = None,
) -> Diagnosis:
    """Return the first cause in lines of one log, or in files where ``Path`` objects are given.

    Never raises for what the lines hold.
    """
    held = list(lines)
    paths = [entry for entry in held if isinstance(entry, Path)]
    if paths:
        return diagnose_paths(paths, catalog, engine=engine, version=version)
    known = prepare(catalog, engine, version)
    texts = [entry for entry in held if not isinstance(entry, Path)]
    scan = FileScan(name, known, time.localtime().tm_year).read(blocks_of_lines(texts))
    return finish([scan], known, catalog, engine, version)
