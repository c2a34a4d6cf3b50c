"""The attendant of a leased run: stays beside it and tells its end, whatever ended it.

A launcher that is killed can say nothing, and what its way makes of that differs: ssh says
255, as it does of a lost link; ``kubectl exec`` says 1. So the launcher runs in a child, and
its parent, which does nothing else, writes one last event with the exit code. A way that
ends without it was lost, whatever its own code is.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys

from .lease import EVENT, LAST_WORDS_S

__all__ = ["attended", "put_event"]


def attended() -> None:
    """Go on in a child process; the parent waits for it, tells its end and exits as it did."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # A login shell may have printed something without an end of its line.
    put(b"\n")
    child = os.fork()
    if child:
        os._exit(attend(child))


def attend(child: int) -> int:
    """Wait for the child's end and tell it; return its exit status as a shell gives it."""
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, lambda number, _: forward(child, number))
    for number in (signal.SIGINT, signal.SIGHUP):
        # A terminal sends these to the child as well, and twice would be another order.
        signal.signal(number, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    code = 128 - code if code < 0 else code
    put_event("ended", code=code)
    return code


def forward(child: int, number: int) -> None:
    """Hand a signal on to the child."""
    with contextlib.suppress(OSError):
        os.kill(child, number)


def put_event(event: str, **facts: object) -> None:
    """Write one event on stdout, behind whatever line a killed process left unfinished."""
    put(b"\n" + json.dumps({EVENT: event, **facts}, ensure_ascii=False).encode() + b"\n")


def put(data: bytes) -> None:
    """Write to stdout; a reader that takes nothing for some seconds stops nothing."""
    with contextlib.suppress(OSError, ValueError):
        while data and select.select([], [1], [], LAST_WORDS_S)[1]:
            # What a pipe takes at once without waiting, once it can be written.
            data = data[os.write(1, data[:4096]) :]
