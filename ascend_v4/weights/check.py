"""What is on disk against the manifest: sizes, sha256, and stamps of earlier checks.

A stamp says: this very file (size, modification time, inode) had this sha256 when
it was last read in full. While it holds, the file isn't read again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock
from typing import Any, Literal

from .manifest import SIDECAR, FileRow, write_json
from .parts import partial_path, present_bytes, size_of

__all__ = ["Stamps", "Verdict", "check_files", "partial_path", "present_bytes", "size_of"]

Verdict = Literal["good", "absent", "size", "hash"]
_BLOCK = 4 << 20


class Stamps:
    """The stamps of one directory, kept in ``stamps.json`` of its sidecar.

    ``places`` are the sidecars to read, best first; stamps are saved in the first
    (default: ``.ascend-v4`` in the directory).
    """

    def __init__(self, directory: Path, places: Sequence[Path] = ()) -> None:
        self._directory = directory
        self._places = tuple(places) or (directory / SIDECAR,)
        self._rows: dict[str, Any] = {}
        self._lock = Lock()
        for place in reversed(self._places):
            with suppress(OSError, ValueError):
                rows = json.loads((place / "stamps.json").read_text(encoding="utf-8"))
                self._rows.update(rows if isinstance(rows, dict) else {})

    def holds(self, row: FileRow) -> bool:
        """Whether the file was found to be ``row`` and hasn't changed since."""
        now = self._now(row)
        return now is not None and self._rows.get(row.path) == now

    def add(self, rows: Iterable[FileRow]) -> None:
        """Stamp files that were just checked and save; may be called from any thread.

        A stamp that can't be saved costs another reading later, nothing else.
        """
        with self._lock, suppress(OSError):
            self._rows.update({row.path: self._now(row) for row in rows})
            write_json(self._rows, self._places[0] / "stamps.json")

    def _now(self, row: FileRow) -> dict[str, Any] | None:
        """Return what the stamp of the file as it is now would be; None without a right one."""
        try:
            stat = (self._directory / row.path).stat()
        except OSError:
            return None
        if stat.st_size != row.size:
            return None
        return {"sha256": row.digest, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino}


def check_files(
    directory: Path,
    rows: Iterable[FileRow],
    jobs: int,
    on_bytes: Callable[[int], None],
    on_good: Callable[[FileRow], None] = lambda _row: None,
) -> dict[str, Verdict]:
    """Check each file's size and, where the row has one, its digest, by reading it in full.

    ``jobs`` files are read at once; ``on_bytes`` gets the number of bytes read so
    far, from any thread but never from two at a time; ``on_good`` each row that was
    found right, as soon as it is known.
    """
    stop, meter = Event(), _Meter(on_bytes)

    def one(row: FileRow) -> Verdict:
        verdict = _check(directory / row.path, row, meter, stop)
        if verdict == "good":
            on_good(row)
        return verdict

    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        # The largest first, so that no core is left with one at the end.
        ordered = sorted(rows, key=lambda row: -row.size)
        futures = {row.path: pool.submit(one, row) for row in ordered}
        try:
            return {path: future.result() for path, future in futures.items()}
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Meter:
    """Adds up what several threads have read."""

    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self._on_bytes, self._lock, self._sum = on_bytes, Lock(), 0

    def add(self, count: int) -> None:
        with self._lock:
            self._sum += count
            self._on_bytes(self._sum)


def _check(path: Path, row: FileRow, meter: _Meter, stop: Event) -> Verdict:
    size = size_of(path)
    if size is None:
        return "absent"
    if size != row.size:
        return "size"
    if row.digest is None:
        return "good"
    return "good" if _digest(path, row, meter, stop) == row.digest else "hash"


def _digest(path: Path, row: FileRow, meter: _Meter, stop: Event) -> str:
    """Return a file's digest of the kind its row has, ``""`` when told to stop meanwhile."""
    digest, block = row.hasher(), memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        with suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := file.readinto(block):
            if stop.is_set():
                return ""
            digest.update(block[:count])
            meter.add(count)
    return digest.hexdigest()
