"""A run on a lease: it lives as long as the other end of stdin says so.

A coordinator on another machine can't send signals, and a cut link must leave nothing
behind. So lines come in on stdin: any line renews the lease, ``stop`` drains, ``stop now``
stops at once, ``generate`` asks for one completion, ``serving`` says that the whole
deployment does, ``beat`` is answered with an event. Without a line for ``seconds``, or at
the end of the input, the run ends. What happens goes out on stdout, one JSON line an event.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from ascend_v4.errors import AscendV4Error, ExitCode

from .logs import Terminal
from .outcome import Failure

if TYPE_CHECKING:
    from .signals import Signals

__all__ = ["EVENT", "Lease"]

#: The key that tells an event of ours from any other JSON in a log; its value is the event.
EVENT = "ascend-v4"
#: What the feeder writes to renew the lease; the same word is the answer.
BEAT = "beat"
#: YAML's own mark for the end of a document: heartbeats follow.
END = "..."
#: Seconds that the coordinator has at the end to read the last events.
LAST_WORDS_S = 3.0
#: How much a document may have, in bytes: a topology of a thousand nodes has a tenth.
MAX_DOCUMENT = 16 * 1024 * 1024


class Lease:
    """A lease of ``seconds`` that lines on the descriptor ``fd`` renew.

    ``lost`` says why it ended, ``""`` while it holds; ``serving`` whether all nodes serve.
    """

    def __init__(self, seconds: float, fd: int = 0, out: int = 1) -> None:
        self.seconds, self.fd = seconds, fd
        self.out = Terminal(fd=out)
        self.lost = ""
        self.serving = False
        self.last = time.monotonic()
        self._buffer = b""
        self._signals: Signals | None = None
        self._asking = threading.Lock()
        self._generate: Callable[[], tuple[bool, str]] = lambda: (False, "nothing serves yet")

    def document(self) -> str:
        """Return the lines up to ``...``; raises AscendV4Error (unreachable) without that end."""
        lines: list[str] = []
        while not lines or lines[-1] != END:
            line = self._line()
            if line is None or sum(map(len, lines)) > MAX_DOCUMENT:
                raise self.error(f"the topology on stdin did not end with a line '{END}'")
            lines.append(line)
        return "\n".join(lines[:-1]) + "\n"

    def start(self) -> None:
        """Watch from now on, in a thread. Until ``bind``, the end of the lease raises here."""
        signal.signal(signal.SIGTERM, self._interrupt)
        self.last = time.monotonic()
        # From now on the other end may count on answers.
        self.tell(BEAT)
        threading.Thread(target=self._watch, name="lease", daemon=True).start()

    def bind(self, signals: Signals, generate: Callable[[], tuple[bool, str]]) -> None:
        """Hand orders to a start's own signals; ``generate`` asks the endpoint for a token."""
        self._generate, self._signals = generate, signals

    def tell(self, event: str, **facts: object) -> None:
        """Write an event; nobody listening, or reading, is no reason to stop or to wait."""
        self.out.put(json.dumps({EVENT: event, **facts}, ensure_ascii=False))

    def close(self) -> None:
        """Write the events that were told and not yet written, for a few seconds at most."""
        self.out.close(LAST_WORDS_S)

    def failed(self, failure: Failure) -> None:
        """Tell the first failure at once: the end itself may be seconds away."""
        self.tell("failed", failure={**failure.to_json(), "tail": []})

    def failure(self) -> Failure:
        """Return the failure of a run whose lease ended."""
        error = self.error(self.lost)
        return Failure(int(error.code), error.kind, error.message, error.next)

    def error(self, why: str) -> AscendV4Error:
        """Return the error of a lease that ended."""
        text = f"the lease on this run is lost: {why}"
        hint = "see the coordinator: ascend-v4 cluster status -f TOPOLOGY"
        return AscendV4Error(ExitCode.UNREACHABLE, "lease-lost", text, hint)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self.lost:
            raise self.error(self.lost)
        raise SystemExit(128 + signal.SIGTERM)

    def _line(self) -> str | None:
        """Return the next line; None at the end of the input or of the lease."""
        while b"\n" not in self._buffer:
            left = self.last + self.seconds - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                if time.monotonic() - self.last < self.seconds:
                    continue
                self.lost = f"no line came for {self.seconds:g} s"
                return None
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            if not data:
                self.lost = "its input was closed"
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        self.last = time.monotonic()
        return line.decode(errors="replace").rstrip("\r")

    def _watch(self) -> None:
        while (line := self._line()) is not None:
            if line == BEAT:
                # The other end knows by the answer that the way still leads here.
                self.tell(BEAT)
            elif line == "stop":
                self._send(signal.SIGTERM)
            elif line == "stop now":
                self._send(signal.SIGTERM, signal.SIGQUIT)
            elif line == "serving":
                self.serving = True
            elif line == "generate":
                threading.Thread(target=self._answer, daemon=True).start()
        if self._signals is not None:
            self._signals.wake()
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    def _send(self, *numbers: int) -> None:
        if self._signals is None:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        for number in numbers:
            self._signals.inject(number)

    def _answer(self) -> None:
        # One question at a time: an endpoint that hangs must not pile them up.
        if self._asking.acquire(blocking=False):
            try:
                good, last = self._generate()
            finally:
                self._asking.release()
            self.tell("generated", ok=good, last=last)
