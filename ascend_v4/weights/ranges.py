"""Our own transfer: bounded ranges over several connections, resumable and verified.

The hubs' clients do one or two of these three. Connections are shared by all files: a
free one takes the next missing chunks of the first file that has some, so files end one
after the other and few are half done at any time. Every request asks for a bounded
range. Threads of their own compute each file's digest from what is on disk while the
rest arrives, and give it its name.
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
from .pace import Limit, Pace
from .parts import CHUNK, Part, drop_parts

__all__ = ["Budget", "RangeFetcher"]

_BLOCK = 4 << 20
#: Most chunks of one request: enough to make its round trip cheap.
_RUN = 8
#: Whole transfers of a file that may end with the wrong digest.
_HASH_TRIES = 3
#: Kinds of failure that may pass.
_PASSING = ("network", "proxy", "server")
#: Seconds after which a hasher looks whether more of a file is there.
_LOOK_S = 0.1


class _OvertakenError(Exception):
    """A connection is so much slower than the others that they should have its bytes."""


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
    #: Bytes from the front that went into the hasher; both are guarded by the lock.
    hashed: int = 0
    hasher: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    #: Whether a hasher has taken the file.
    taken: bool = False


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
        self._limit, self._pace = Limit(budget.limit), Pace()
        #: Connections that have nothing to do.
        self._idle = 0
        self.faults: list[dict[str, object]] = []

    def run(self) -> list[dict[str, object]]:
        """Fetch everything that can be had and return what failed, as faults."""
        work = [self._work] * max(1, self._budget.connections)
        work += [self._check] * max(1, min(self._budget.jobs, os.cpu_count() or 1))
        threads = [threading.Thread(target=target, daemon=True) for target in work]
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
            while open_files := self._open_files():
                now = time.monotonic()
                for file in open_files[: self._budget.jobs]:
                    if file.wait_until <= now and (job := self._claim(file)):
                        return job
                waits = [f.wait_until - now for f in open_files if f.wait_until > now]
                self._idle += not waits
                self._free.wait(min([*waits, 0.5]))
                self._idle -= not waits
            self._free.notify_all()
            return None

    def _open_files(self) -> list[_File]:
        return [file for file in self._files if file.state not in ("done", "failed")]

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
            self._transfer(wire, job)
        except _OvertakenError:
            pass
        except Exception as caught:
            error = caught
        with self._free:
            file.claimed.difference_update(job.chunks)
            if error is not None:
                self._retry(file, error, part.present > before)
            elif file.state == "busy":
                file.state = "open"
            self._free.notify_all()

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
                self._restart(file)
                start, end = 0, file.row.size
            elif file.state == "busy":
                with self._free:
                    file.state = "open"
                    self._free.notify_all()
            self._receive(body, file, start, end)

    def _receive(self, body: Any, file: _File, at: int, end: int) -> None:
        part, meter = file.part, self._pace.begin()
        assert part is not None
        try:
            while at < end:
                data = body.read(min(self._limit.block, end - at))
                if not data:
                    raise Answer("network", None, "the connection ended early")
                self._limit.take(len(data))
                part.write_at(at, memoryview(data))
                at += len(data)
                self._on_count(file.row.path, part.present)
                if meter.add(len(data), end - at, self._idle > 0) and not body.whole:
                    raise _OvertakenError
        finally:
            meter.end()

    # Failures

    def _retry(self, file: _File, error: BaseException, grew: bool) -> None:
        """Let a file wait after a failure, or give it up; the lock is held."""
        if file.state in ("failed", "done"):
            return
        if file.state == "busy":
            file.state = "new"
        if grew:
            file.failures = 0
        elif time.monotonic() >= file.wait_until:
            # Connections that fail together are one failure.
            file.failures += 1
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

    def _check(self) -> None:
        """Hash what there is of the files, and end those that are whole."""
        while (file := self._take_to_hash()) is not None:
            try:
                self._hash(file)
                self._finish(file)
            except Exception as error:
                with self._free:
                    self._fail(file, error)
            finally:
                with self._free:
                    file.taken = False
                    self._free.notify_all()

    def _take_to_hash(self) -> _File | None:
        """Return a file with something to hash or to end; None when all is done."""
        with self._free:
            while open_files := self._open_files():
                for file in open_files:
                    if not file.taken and (self._is_whole(file) or self._is_ahead(file)):
                        file.taken = True
                        return file
                self._free.wait(_LOOK_S)
            return None

    def _is_ahead(self, file: _File) -> bool:
        part = file.part
        hashes = file.row.digest is not None
        return hashes and part is not None and part.prefix - file.hashed >= _BLOCK

    def _is_whole(self, file: _File) -> bool:
        part = file.part
        return part is not None and part.present == file.row.size and not file.claimed

    def _hash(self, file: _File) -> None:
        """Hash what is there without a gap from the front."""
        part = file.part
        assert part is not None
        while file.row.digest is not None:
            with file.lock:
                count = min(_BLOCK, part.prefix - file.hashed)
                if count <= 0:
                    return
                block = os.pread(part.fd, count, file.hashed)
                if not block:
                    raise OSError(5, "a part is shorter than what was written to it")
                file.hasher.update(block)
                file.hashed += len(block)

    def _restart(self, file: _File) -> None:
        """Forget all bytes of a file that nobody else writes to."""
        assert file.part is not None
        with file.lock:
            file.part.restart()
            file.hashed, file.hasher = 0, file.row.hasher()
        self._on_count(file.row.path, 0)

    def _finish(self, file: _File) -> None:
        """Name a file that is whole and hashed, if its digest is right; else begin it again."""
        with self._free:
            part = file.part
            ended = file.state in ("done", "failed") or not self._is_whole(file)
            if ended or part is None or (file.row.digest and file.hashed < file.row.size):
                return
            right = not file.row.digest or file.hasher.hexdigest() == file.row.digest
            if not right:
                self._reject(file)
                return
            part.finish()
            file.state = "done"
        self._on_file(file.row.path)

    def _reject(self, file: _File) -> None:
        """Begin a file with a wrong digest again, or give it up; the lock is held."""
        self._restart(file)
        file.rotten, file.state = file.rotten + 1, "new"
        if file.rotten >= _HASH_TRIES:
            self._fail(file, Answer("hash", None, "wrong digest"))
            drop_parts(self._directory, file.row.path)
