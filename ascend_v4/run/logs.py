"""A member's log: one file with times, rotated by size, secrets masked.

Nothing here may stop the engine: a full disk loses lines of the file, a closed or
stuck terminal loses lines of the terminal, and both are counted.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

__all__ = ["LogFile", "Masker", "Terminal", "pump", "tail"]

ROTATE_BYTES = 64 * 1024 * 1024
KEEP_FILES = 4
#: One line longer than this is cut: a progress bar without line breaks is no log.
LINE_LENGTH = 16 * 1024
TAIL_LINES = 50
TAIL_BYTES = 16 * 1024

#: Shapes of credentials that appear in logs of engines and hubs.
SECRET = re.compile(
    r"(?P<head>(?i:bearer)\s+|(?i:api[-_]?key|token|password|secret)['\"]?\s{0,3}[:=]\s{0,3}"
    r"(?:(?i:bearer)\s+)?['\"]?)(?P<value>[A-Za-z0-9_\-./+]{16,})"
    r"|\b(?P<known>(?:sk|hf|ms|ghp)[-_][A-Za-z0-9_\-]{12,})"
)
#: A line without any of these holds nothing of that shape; most lines are done here.
HINTS = ("bearer", "key", "token", "password", "secret", "sk-", "sk_", "hf_", "hf-", "ms-", "ghp_")


class Masker:
    """Replaces known secrets, and what looks like one, by ``***``."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self.secrets = sorted({s for s in secrets if len(s) >= 4}, key=len, reverse=True)

    def cut(self, line: bytes) -> tuple[bytes, bytes]:
        """Return the part of an unended line that can be shown now, and the rest.

        The rest is long enough to hold the beginning of any known secret.
        """
        known = [secret.encode() for secret in self.secrets]
        for secret in known:
            line = line.replace(secret, b"***")
        keep = max(map(len, known), default=1) - 1
        at = len(line) - keep
        return line[:at], line[at:]

    def __call__(self, line: str) -> str:
        """Return the line without secrets."""
        for secret in self.secrets:
            line = line.replace(secret, "***")
        lower = line.lower()
        if not any(hint in lower for hint in HINTS):
            return line
        return SECRET.sub(lambda m: (m["head"] or "") + "***", line)


class LogFile:
    """An append-only file ``path``, ``path.1`` … behind it; ``lost`` counts unwritten lines."""

    def __init__(
        self, path: Path, rotate_bytes: int = ROTATE_BYTES, keep: int = KEEP_FILES
    ) -> None:
        self.path, self.rotate_bytes, self.keep = path, rotate_bytes, keep
        self.lost = 0
        self.file: IO[bytes] | None = None
        self.size = 0

    def write(self, line: str) -> None:
        """Append one line with its time (UTC, milliseconds); a failure is only counted."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{now % 1 * 1000:03.0f}Z"
        data = f"{stamp} {line}\n".encode(errors="replace")
        try:
            self.opened().write(data)
        except OSError:
            self.lost += 1
            self.close()
            return
        self.size += len(data)

    def opened(self) -> IO[bytes]:
        """Return the open file, rotated first when it is full; raises OSError."""
        if self.file is not None and self.size >= self.rotate_bytes:
            self.close()
            self.rotate()
        if self.file is None:
            # Unbuffered: what was written before a crash of ours is there.
            self.file = self.path.open("ab", buffering=0)
            self.size = self.file.tell()
        return self.file

    def rotate(self) -> None:
        """Shift path to path.1, path.1 to path.2 …, the oldest away."""
        for number in range(self.keep - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            with contextlib.suppress(FileNotFoundError):
                older.replace(self.path.with_name(f"{self.path.name}.{number + 1}"))
        self.path.replace(self.path.with_name(f"{self.path.name}.1"))

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.close()
            self.file = None


class Terminal:
    """Copies lines to a descriptor from a thread of its own; a reader that is stuck loses lines.

    Our stderr, unless ``fd`` says otherwise.
    """

    def __init__(self, depth: int = 10_000, fd: int = 2) -> None:
        self.fd = fd
        self.lines: queue.Queue[bytes | None] = queue.Queue(depth)
        self.lost = 0
        self.thread = threading.Thread(target=self._copy, name="terminal", daemon=True)
        self.thread.start()

    def put(self, line: str) -> None:
        """Queue one line; never waits."""
        try:
            self.lines.put_nowait(line.encode(errors="replace") + b"\n")
        except queue.Full:
            self.lost += 1

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued, for at most ``timeout_s`` seconds."""
        with contextlib.suppress(queue.Full):
            self.lines.put_nowait(None)
        self.thread.join(timeout_s)

    def _copy(self) -> None:
        while (line := self.lines.get()) is not None:
            try:
                while line:
                    line = line[os.write(self.fd, line) :]
            except OSError:
                self.lost += 1


def pump(
    pipe: IO[bytes], masker: Masker, sinks: Iterable[Callable[[str], None]]
) -> threading.Thread:
    """Read a member's output in a thread until it ends and hand each line to every sink."""
    thread = threading.Thread(target=_pump, args=(pipe, masker, tuple(sinks)), daemon=True)
    thread.start()
    return thread


def _pump(pipe: IO[bytes], masker: Masker, sinks: tuple[Callable[[str], None], ...]) -> None:
    rest = b""
    while True:
        try:
            data = os.read(pipe.fileno(), 65536)
        except OSError:
            data = b""
        lines, rest = split(rest + data, last=not data)
        if len(rest) > LINE_LENGTH:
            line, rest = masker.cut(rest)
            lines.append(line)
        for line in lines:
            # Masked before it is cut: what is left of a secret at a cut no longer looks like one.
            text = masker(line.decode(errors="replace"))[:LINE_LENGTH]
            for sink in sinks:
                # A fault of a reader of the log is never the engine's problem.
                with contextlib.suppress(Exception):
                    sink(text)
        if not data:
            pipe.close()
            return


def split(data: bytes, *, last: bool = False) -> tuple[list[bytes], bytes]:
    """Return the whole lines of ``data`` and the rest; a carriage return ends a line too."""
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, rest = data.split(b"\n")
    if last and rest:
        lines.append(rest)
        rest = b""
    return lines, rest


class Tail:
    """Keeps the last lines of a log in memory: 50, at most 16 KiB."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=TAIL_LINES)

    def __call__(self, line: str) -> None:
        """Take one line."""
        if line.strip():
            self.lines.append(line)

    def text(self) -> list[str]:
        """Return the lines, oldest first, as many of the newest as fit."""
        kept: deque[str] = deque()
        size = 0
        for line in reversed(self.lines):
            size += len(line) + 1
            if size > TAIL_BYTES:
                break
            kept.appendleft(line)
        return list(kept)


def tail(path: Path, count: int) -> list[str]:
    """Return the last ``count`` lines of a log, over rotations; [] where there is none."""
    found: list[str] = []
    older = [path.with_name(f"{path.name}.{number}") for number in range(1, KEEP_FILES + 1)]
    for part in (path, *older):
        if len(found) < count:
            found = last_lines(part, count - len(found)) + found
    return found


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last ``count`` lines of one file; only a line feed ends a line."""
    blocks: deque[bytes] = deque()
    feeds = 0
    try:
        with path.open("rb") as file:
            at = file.seek(0, os.SEEK_END)
            # One more line feed than lines: what is before it may be a part of a line.
            while at and feeds <= count:
                step = min(at, 65536)
                at = file.seek(at - step)
                blocks.appendleft(file.read(step))
                feeds += blocks[0].count(b"\n")
    except OSError:
        return []
    data = b"".join(blocks)
    return data.decode(errors="replace").removesuffix("\n").split("\n")[-count:] if data else []
