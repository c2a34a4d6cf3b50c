"""The feeder: stands between the coordinator and the way to one node.

It starts the way (``ssh …``), writes the topology and then a line every few seconds into
its stdin, and turns signals into lines: TERM and INT are ``stop``, a second one and QUIT are
``stop now``, USR1 is ``generate``, USR2 ``serving``. It passes the node's output on in whole
lines and ends with the way's exit code. Killed, it closes the way, and the node stops.

The node answers each line. One that has answered and then doesn't for a whole lease is lost,
though the way may stand: a stopped relay, a link that was cut under it. That is told as an
event, and the way is closed.

``python -I -S feeder.py BEAT_S TOPOLOGY WORD…``; standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["Feeder", "main"]

BEAT = "beat"
#: Lines in the time of a lease; as many without an answer are silence.
BEATS = 6
#: The node's answer to a line, and what we say of one that gives none.
ANSWER = b'{"ascend-v4": "beat"}'
SILENT = b'{"ascend-v4": "silent"}\n'
#: As ssh says it of a way that is lost.
LOST = 255
STOP = "stop"
LINES = {signal.SIGUSR1: "generate", signal.SIGUSR2: "serving", signal.SIGQUIT: "stop now"}


class Feeder:
    """Feeds one node; ``beat_s`` is the time between two lines, in seconds."""

    def __init__(self, beat_s: float, argv: list[str]) -> None:
        self.beat_s = beat_s
        self.asked: list[int] = []
        self.answered, self.missed = False, 0
        self.putting: set[int] = set()
        self.wake_r, self.wake_w = os.pipe()
        os.set_blocking(self.wake_w, False)
        signal.set_wakeup_fd(self.wake_w, warn_on_full_buffer=False)
        stopping = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
        for number in (*stopping, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
            signal.signal(number, lambda number, _: self.asked.append(number))
        self.way = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        pipes = [pipe for pipe in (self.way.stdout, self.way.stderr) if pipe]
        self.copiers = [threading.Thread(target=self.copy, args=(p,), daemon=True) for p in pipes]
        for copier in self.copiers:
            copier.start()

    def run(self, topology: str) -> int:
        """Feed until the way ends; return its exit status as a shell gives it."""
        body = [line for line in topology.splitlines() if line != "..."]
        self.write("\n".join([*body, "..."]))
        while self.way.poll() is None:
            if select.select([self.wake_r], [], [], self.beat_s)[0]:
                os.read(self.wake_r, 4096)
                self.obey()
            else:
                self.write(BEAT)
                if self.silent():
                    put(SILENT)
                    self.way.kill()
                    return LOST
        for copier in self.copiers:
            # A process that was left behind on this side may hold the pipe open.
            copier.join(2.0)
        code = self.way.returncode
        return 128 - code if code < 0 else code

    def silent(self) -> bool:
        """Count a line that was written; whether so many had no answer that the node is lost.

        Lines are counted, not seconds: we may have been stopped, and a reader of ours too.
        """
        self.missed += 1
        return self.answered and not self.putting and self.missed > BEATS

    def obey(self) -> None:
        """Turn the signals that came into lines."""
        while self.asked:
            number = self.asked.pop(0)
            if number in LINES:
                self.write(LINES[signal.Signals(number)])
            elif number != signal.SIGCHLD:
                self.write(STOP)

    def copy(self, pipe: IO[bytes]) -> None:
        """Copy whole lines to our stdout, so that two streams never mix within one.

        Answers of the node stay here: they are no news, and would fill its log.
        """
        for data in lines_of(pipe):
            lines = data.splitlines(keepends=True)
            others = [line for line in lines if line.strip() != ANSWER]
            self.answered = self.answered or len(others) < len(lines)
            self.missed = 0
            self.putting.add(pipe.fileno())
            put(b"".join(others))
            self.putting.discard(pipe.fileno())

    def write(self, line: str) -> None:
        """Write one line; a way that is closed shows as its end."""
        assert self.way.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self.way.stdin.write(line.encode() + b"\n")
            self.way.stdin.flush()


def lines_of(pipe: IO[bytes]) -> Iterator[bytes]:
    """Yield what comes in, in whole lines."""
    rest = b""
    while data := os.read(pipe.fileno(), 65536):
        whole, newline, rest = (rest + data).rpartition(b"\n")
        yield whole + newline
    yield rest + b"\n" if rest else b""


def put(data: bytes) -> None:
    """Write everything; a reader that is gone stops nothing."""
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(1, data) :]


def main(argv: list[str]) -> int:
    """Feed one node, see the module; 127, as a shell says it, where the way can't be started."""
    try:
        feeder = Feeder(float(argv[0]), argv[2:])
    except OSError as error:
        message = f"{argv[2]} can't be started on this machine: {error.strerror}"
        told = {"code": 6, "kind": "no-way", "message": message, "next": ""}
        put(json.dumps({"ascend-v4": "error", "error": told}).encode() + b"\n")
        return 127
    return feeder.run(Path(argv[1]).read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
