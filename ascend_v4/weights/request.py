"""What a download is asked for, what it would do, and what it did."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .manifest import Manifest
from .source import Source

__all__ = ["MARGIN", "Plan", "Reporter", "Request", "Result", "files", "free_bytes", "human"]

#: Free bytes that must be left when all is there: logs, manifests, a file system's own.
MARGIN = 256 << 20


class Reporter(Protocol):
    """Where progress goes. Byte and file counts are totals of the phase so far."""

    def status(self, text: str) -> None:
        """Say one sentence."""

    def start(self, phase: str, size: int, files: int, done: int = 0) -> None:
        """Begin a phase, ``check`` or ``download``, with ``done`` of its bytes there already."""

    def progress(self, done: int, files_done: int) -> None:
        """Say how far the phase is."""

    def stop(self) -> None:
        """End the phase."""


@dataclass(frozen=True)
class Request:
    """What to download and where to.

    ``jobs`` files at once over ``connections`` in all (1: large files too go by the
    ModelScope client), at most ``limit`` bytes a second, with ``token`` if given.
    ``include`` and ``exclude`` are patterns of paths, as of the shell.
    """

    source: Source
    revision: str
    endpoint: str
    directory: Path
    jobs: int = 4
    token: str | None = None
    connections: int = 8
    limit: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def selection(self) -> tuple[str, ...]:
        """The patterns as the manifest keeps them."""
        return (*(f"+{p}" for p in self.include), *(f"-{p}" for p in self.exclude))


@dataclass(frozen=True)
class Plan:
    """What a download would do; ``missing`` and ``free`` are bytes."""

    manifest: Manifest
    directory: Path
    missing: int
    free: int


@dataclass(frozen=True)
class Result:
    """A complete directory: bytes fetched in this run, and the files that have no hash."""

    manifest: Manifest
    directory: Path
    fetched: int
    unhashed: tuple[str, ...]


def free_bytes(directory: Path) -> int:
    """Return the free bytes of the file system that ``directory`` is or will be on."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return shutil.disk_usage(directory).free


def files(count: int) -> str:
    """Return ``1 file`` or ``5 files``."""
    return "1 file" if count == 1 else f"{count} files"


def human(size: float) -> str:
    """Return bytes as ``279.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} TiB"
