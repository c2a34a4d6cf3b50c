"""Our own transfer: bounded ranges over several connections, resumable and verified.

The hubs' clients do one or two of these three. Connections are shared by all files: a
free one takes the next missing chunks of the first file that has some, so files end one
after the other and few are half done at any time. Every request asks for a bounded
range. A file's digest is computed from what is on disk while the rest arrives.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .classify import Answer, classify
from .http import Remote, Wire
from .manifest import FileRow
from .parts import CHUNK, Part, drop_parts

__all__ = ["Budget", "RangeFetcher"]

_BLOCK = 4 << 20
#: Most chunks of one request: enough to make its round trip cheap.
_RUN = 8
#: Whole transfers of a file that may end with the wrong digest.
_HASH_TRIES = 3
#: Kinds of failure that may pass.
_PASSING = ("network", "server")


class Budget(NamedTuple):
    """How much: connections over all files, files begun at once, bytes a second, tries.

    ``tries`` are failures in a row without one new byte of a file; the wait between them
    doubles up to ``delay_s``. ``limit`` None is no limit.
    """

    connections: int = 8
    jobs: int = 4
    limit: int | None = None
    tries: int = 5
    delay_s: float = 10.0


@dataclass
class _File:
    row: FileRow
    part: Part | None = None
    #: ``new`` until one request has shown that the server honours ranges.
    state: str = "new"
    claimed: set[int] = field(default_factory=set)
    failures: int = 0
    rotten: int = 0
    wait_until: float = 0.0
    hashed: int = 0
    hasher: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Job(NamedTuple):
    file: _File
    chunks: range


class RangeFetcher:
    """Fetches rows into a directory; ``on_count`` gets a path and its bytes present.

    ``on_file`` gets the path of each file that is whole, verified and has its name.
    """

    def __init__(
        self,
        remote: Remote,
        directory: Path,
        rows: Sequence[FileRow],
        budget: Budget,
        on_count: Callable[[str, int], None],
        on_file: Callable[[str], None],
    ) -> None:
        self._remote, self._directory, self._budget = remote, directory, budget
        self._on_count, self._on_file = on_count, on_file
        self._files = [_File(row) for row in rows]
        self._free = threading.Condition()
        self._limit = Limit(budget.limit)
        self.faults: list[dict[str, object]] = []

    def run(self) -> list[dict[str, object]]:
        """Fetch everything that can be had and return what failed, as faults."""
        count = max(1, self._budget.connections)
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for file in self._files:
            if file.part is not None:
                # Not earlier: another thread may still have been writing to it.
                file.part.close()
        return self.faults

    # What to do next

    def _work(self) -> None:
        wire = Wire(self._remote)
        try:
            while (job := self._take()) is not None:
                self._attempt(wire, job)
        finally:
            wire.close()

    def _take(self) -> _Job | None:
        """Return the next chunks to fetch, waiting for some; None when all is done."""
        with self._free:
            while True:
                open_files = [f for f in self._files if f.state not in ("done", "failed")]
                if not open_files:
                    self._free.notify_all()
                    return None
                now = time.monotonic()
                for file in open_files[: self._budget.jobs]:
                    if file.wait_until <= now and (job := self._claim(file)):
                        return job
                waits = [f.wait_until - now for f in open_files if f.wait_until > now]
                self._free.wait(min([*waits, 0.5]))

    def _claim(self, file: _File) -> _Job | None:
        """Claim a run of missing chunks of a file, or nothing."""
        if file.state == "busy" or (file.part is None and not self._open(file)):
            return None
        part = file.part
        assert part is not None
        missing = [
            i
            for i, count in enumerate(part.counts)
            if count < part.length(i) and i not in file.claimed
        ]
        if not missing:
            if file.row.size == 0 or (not file.claimed and part.present == file.row.size):
                file.state = "busy"
                return _Job(file, range(0))
            return None
        # Towards a file's end runs get shorter, so that no connection idles.
        most = max(1, min(_RUN, len(missing) // (2 * self._budget.connections)))
        chunks = range(missing[0], missing[0] + 1)
        while len(chunks) < most and chunks.stop in missing and part.counts[chunks.stop] == 0:
            chunks = range(chunks.start, chunks.stop + 1)
        if file.state == "new":
            file.state, chunks = "busy", chunks[:1]
        file.claimed.update(chunks)
        return _Job(file, chunks)

    def _open(self, file: _File) -> bool:
        try:
            file.part = Part(self._directory, file.row)
        except OSError as error:
            self._fail(file, error)
            return False
        file.hasher = file.row.hasher()
        self._on_count(file.row.path, file.part.present)
        return True

    # One request

    def _attempt(self, wire: Wire, job: _Job) -> None:
        """Carry out one job; a failure is counted, and bytes that came are kept."""
        file, part = job.file, job.file.part
        assert part is not None
        before = part.present
        error: BaseException | None = None
        try:
            if job.chunks:
                self._transfer(wire, job)
            self._settle(file)
        except Exception as caught:
            error = caught
        with self._free:
            file.claimed.difference_update(job.chunks)
            if error is not None:
                self._retry(file, error, part.present > before)
            elif file.state == "busy" and part.present < file.row.size:
                file.state = "open"
            self._free.notify_all()
        if error is None:
            self._finish(file)

    def _transfer(self, wire: Wire, job: _Job) -> None:
        """Ask for the chunks of a job and write what comes."""
        file, part, chunks = job.file, job.file.part, job.chunks
        assert part is not None
        start = chunks.start * CHUNK + part.counts[chunks.start]
        end = min(file.row.size, chunks.stop * CHUNK)
        with wire.get(file.row.path, start, end, file.row.size) as body:
            if body.whole:
                # The server ignores ranges: one stream from the front, nobody beside it.
                if file.state != "busy":
                    raise Answer("network", None, "it answers with the whole file")
                part.restart()
                start, end = 0, file.row.size
            self._receive(body, file, start, end)

    def _receive(self, body: Any, file: _File, at: int, end: int) -> None:
        part = file.part
        assert part is not None
        while at < end:
            data = body.read(min(self._limit.block, end - at))
            if not data:
                raise Answer("network", None, "the connection ended early")
            self._limit.take(len(data))
            view = memoryview(data)
            while view:
                index = at // CHUNK
                piece = view[: (index + 1) * CHUNK - at]
                part.write(index, piece)
                at, view = at + len(piece), view[len(piece) :]
            self._on_count(file.row.path, part.present)

    # Failures

    def _retry(self, file: _File, error: BaseException, grew: bool) -> None:
        """Let a file wait after a failure, or give it up; the lock is held."""
        if file.state in ("failed", "done"):
            return
        if file.state == "busy":
            file.state = "new"
        file.failures = 0 if grew else file.failures + 1
        passing = classify(error)["kind"] in _PASSING
        if not passing or file.failures > self._budget.tries:
            self._fail(file, error)
            return
        asked = error.retry_after if isinstance(error, Answer) else None
        delay = min(self._budget.delay_s, 0.2 * 2**file.failures)
        file.wait_until = time.monotonic() + min(asked or delay, 60.0)

    def _fail(self, file: _File, error: BaseException) -> None:
        file.state = "failed"
        self.faults.append({"path": file.row.path, **classify(error)})

    # Verification

    def _settle(self, file: _File) -> None:
        """Hash what has become whole from the front, unless another thread is at it."""
        if file.row.digest is not None and file.lock.acquire(blocking=False):
            try:
                self._hash(file)
            finally:
                file.lock.release()

    def _hash(self, file: _File) -> None:
        part = file.part
        assert part is not None
        while file.hashed < (ready := part.prefix):
            while file.hashed < ready:
                block = os.pread(part.fd, min(_BLOCK, ready - file.hashed), file.hashed)
                if not block:
                    raise OSError(5, "a part is shorter than what was written to it")
                file.hasher.update(block)
                file.hashed += len(block)

    def _finish(self, file: _File) -> None:
        """Name a file that is whole, if its digest is right; else begin it again."""
        with file.lock:
            if not self._is_whole(file):
                return
            try:
                right = self._right(file)
                with self._free:
                    self._conclude(file, right)
            except OSError as error:
                with self._free:
                    self._fail(file, error)
                return
        if right:
            self._on_file(file.row.path)
        with self._free:
            self._free.notify_all()

    def _is_whole(self, file: _File) -> bool:
        part = file.part
        ended = part is None or part.fd < 0 or file.state in ("done", "failed")
        return not ended and part is not None and part.present == file.row.size and not file.claimed

    def _right(self, file: _File) -> bool:
        if file.row.digest is None:
            return True
        self._hash(file)
        return bool(file.hasher.hexdigest() == file.row.digest)

    def _conclude(self, file: _File, right: bool) -> None:
        """Finish or restart a file; both locks are held, nobody writes to it."""
        assert file.part is not None
        if right:
            file.part.finish()
            file.state = "done"
            return
        file.part.restart()
        self._on_count(file.row.path, 0)
        file.rotten, file.hashed, file.hasher = file.rotten + 1, 0, file.row.hasher()
        file.state = "new"
        if file.rotten >= _HASH_TRIES:
            self._fail(file, Answer("hash", None, "wrong digest"))
            drop_parts(self._directory, file.row.path)


class Limit:
    """A rate in bytes a second that all connections share; None is none."""

    def __init__(self, per_s: int | None) -> None:
        self._per_s, self._lock, self._next = per_s, threading.Lock(), 0.0
        #: Bytes to read at once: small where the rate is low, so that it stays even.
        self.block = 1 << 20 if per_s is None else max(4096, min(1 << 20, per_s // 16))

    def take(self, count: int) -> None:
        """Sleep for as long as ``count`` bytes are worth."""
        if self._per_s is None:
            return
        with self._lock:
            now = time.monotonic()
            self._next = max(now, self._next) + count / self._per_s
            due = self._next
        if due > now:
            time.sleep(due - now)
