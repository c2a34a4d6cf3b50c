"""Files on their way: which of their bytes are on disk, so that none is fetched twice.

A file that isn't whole yet is in one of two places. The ModelScope client grows
``NAME.incomplete`` from the front. Our range fetcher writes ``NAME.part`` below
``.ascend-v4/parts`` at any offset and keeps beside it ``NAME.done``: a line that says
which file this is, then four bytes for each chunk with the number of its bytes that
are there, counted from its front. A count is written after its bytes, so ``kill -9``
loses no more than one block of each connection.
"""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from pathlib import Path

from .manifest import SIDECAR, FileRow

__all__ = ["CHUNK", "Part", "drop_parts", "partial_path", "present_bytes", "size_of", "to_prefix"]

#: Bytes of a chunk, the least that is asked for in one request. The same bound was
#: seen to get round stalls of ModelScope's CDN (docs/download.md).
CHUNK = 16 << 20
_LEAD = 512
_ENDS = (".done", ".done.new")


def size_of(path: Path) -> int | None:
    """Return a regular file's size in bytes, None if there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def partial_path(path: Path) -> Path:
    """Return where the ModelScope client keeps a file that isn't whole yet.

    modelscope-hub 0.5.1, modelscope_hub/_download.py:343.
    """
    return path.with_name(path.name + ".incomplete")


def part_path(directory: Path, path: str) -> Path:
    """Return where our range fetcher keeps a file that isn't whole yet."""
    return directory / SIDECAR / "parts" / f"{path}.part"


def present_bytes(directory: Path, row: FileRow) -> int:
    """Return how many of a file's bytes are there, whole or partial."""
    if size_of(directory / row.path) == row.size:
        return row.size
    counts = _read_counts(part_path(directory, row.path), row)
    grown = min(size_of(partial_path(directory / row.path)) or 0, row.size)
    return sum(counts) if counts else grown


def drop_parts(directory: Path, path: str) -> None:
    """Remove whatever there is of a file that isn't whole."""
    part = part_path(directory, path)
    stale = (part, *(part.with_suffix(end) for end in _ENDS), partial_path(directory / path))
    for name in stale:
        name.unlink(missing_ok=True)
    _prune(part.parent, directory / SIDECAR)


def to_prefix(directory: Path, row: FileRow) -> None:
    """Hand a part of ours to the ModelScope client: what is whole from the front stays."""
    part = part_path(directory, row.path)
    counts = _read_counts(part, row)
    if counts:
        prefix = 0
        for index, count in enumerate(counts):
            prefix += count
            if count < _length(row.size, index):
                break
        os.truncate(part, prefix)
        part.replace(partial_path(directory / row.path))
    for name in (part, *(part.with_suffix(end) for end in _ENDS)):
        name.unlink(missing_ok=True)
    _prune(part.parent, directory / SIDECAR)


def _prune(folder: Path, stop: Path) -> None:
    """Remove folders that have become empty, up to ``stop``."""
    with suppress(OSError):
        while folder != stop:
            folder.rmdir()
            folder = folder.parent


def _length(size: int, index: int) -> int:
    return min(CHUNK, size - index * CHUNK)


def _identity(row: FileRow) -> dict[str, object]:
    return {"size": row.size, "digest": row.digest, "chunk": CHUNK}


def _boot_id() -> str:
    """Return the kernel's id of this boot: unsynced bytes don't outlive it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _read_counts(part: Path, row: FileRow) -> list[int]:
    """Return the bytes there of each chunk; none if the part is of another file."""
    try:
        body = part.with_suffix(".done").read_bytes()
        lead = json.loads(body[:_LEAD])
        counts = list(struct.unpack(f"<{-(-row.size // CHUNK)}I", body[_LEAD:]))
    except (OSError, ValueError, struct.error):
        return []
    boot = lead.pop("boot", "")
    if lead != _identity(row) or size_of(part) is None:
        return []
    if row.digest is None and boot != _boot_id():
        # After a crash of the machine a count may be there and its bytes not, and
        # without a hash nobody would notice.
        return []
    right = all(count <= _length(row.size, i) for i, count in enumerate(counts))
    return counts if right else []


class Part:
    """One file on its way, open for writing at any offset.

    Not safe for two threads in the same chunk. Raises OSError from the file system.
    """

    def __init__(self, directory: Path, row: FileRow) -> None:
        self.row, self._directory = row, directory
        self._path = part_path(directory, row.path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._adopt()
        self.counts = _read_counts(self._path, row) or [0] * -(-row.size // CHUNK)
        self.fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._counts_fd = self._open_counts()

    def _adopt(self) -> None:
        """Go on with what the ModelScope client has of the file."""
        grown = partial_path(self._directory / self.row.path)
        size = size_of(grown)
        if size is None:
            return
        if _read_counts(self._path, self.row) or size > self.row.size:
            grown.unlink()
            return
        grown.replace(self._path)
        self.counts = [
            max(0, min(_length(self.row.size, i), size - i * CHUNK))
            for i in range(-(-self.row.size // CHUNK))
        ]
        os.close(self._open_counts())

    def _open_counts(self) -> int:
        """Write all counts beside the part in one step and return the open file."""
        lead = json.dumps({**_identity(self.row), "boot": _boot_id()}).encode()
        fresh = self._path.with_suffix(".done.new")
        fresh.write_bytes(lead.ljust(_LEAD) + struct.pack(f"<{len(self.counts)}I", *self.counts))
        fd = os.open(fresh, os.O_WRONLY | os.O_CLOEXEC)
        fresh.replace(self._path.with_suffix(".done"))
        return fd

    def length(self, index: int) -> int:
        """Return the bytes of a chunk; the last one is shorter."""
        return _length(self.row.size, index)

    @property
    def present(self) -> int:
        """Bytes that are there."""
        return sum(self.counts)

    @property
    def prefix(self) -> int:
        """Bytes that are there without a gap from the front."""
        total = 0
        for index, count in enumerate(self.counts):
            total += count
            if count < self.length(index):
                break
        return total

    def write(self, index: int, data: memoryview) -> None:
        """Append ``data`` to a chunk, which it must not overfill."""
        at, view = index * CHUNK + self.counts[index], data
        while view:
            done = os.pwrite(self.fd, view, at)
            at, view = at + done, view[done:]
        self.counts[index] += len(data)
        count = struct.pack("<I", self.counts[index])
        os.pwrite(self._counts_fd, count, _LEAD + 4 * index)

    def write_at(self, at: int, data: memoryview) -> None:
        """Write what follows the bytes that are there up to ``at``, over ends of chunks."""
        while data:
            index = at // CHUNK
            piece = data[: (index + 1) * CHUNK - at]
            self.write(index, piece)
            at, data = at + len(piece), data[len(piece) :]

    def restart(self) -> None:
        """Forget all bytes."""
        self.counts = [0] * len(self.counts)
        os.close(self._counts_fd)
        self._counts_fd = self._open_counts()

    def finish(self) -> None:
        """Give the whole file its own name and leave no part behind."""
        target = self._directory / self.row.path
        target.parent.mkdir(parents=True, exist_ok=True)
        self.close()
        os.truncate(self._path, self.row.size)
        self._path.replace(target)
        drop_parts(self._directory, self.row.path)

    def close(self) -> None:
        """Close both files; what is there stays."""
        for fd in (self.fd, self._counts_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._counts_fd = -1
