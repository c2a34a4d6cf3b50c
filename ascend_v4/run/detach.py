"""Starting a run in the background: all checks are still the caller's to see."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Protocol

from ascend_v4.errors import AscendV4Error, ExitCode

from .outcome import Outcome
from .signals import STOPPING, signal_name
from .state import RunDir

__all__ = ["Runnable", "detached"]


class Runnable(Protocol):
    """A run that holds its claims and has not been started."""

    run: RunDir

    def facts(self) -> dict[str, Any]:
        """Return what a script wants to know of the run."""

    def supervise(self, on_ready: Callable[[float], None], *, echo: bool = True) -> Outcome:
        """Run it to its end."""

    def discard(self) -> None:
        """Leave nothing of it."""


def detached(prepare: Callable[[], Runnable]) -> dict[str, Any]:
    """Start a launcher in a session of its own; return the facts of its run.

    ``prepare`` is called there: checks, claims and the run's folder are made before this
    returns. Raises the AscendV4Error of a launch that was refused, and SystemExit with
    128 + n where signal n, to the launcher or to us, ended it meanwhile.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        become(prepare, write)
    os.close(write)
    with passed_on(pid) as ours, os.fdopen(read, "rb") as pipe:
        text = pipe.read()
    if ours:
        raise SystemExit(128 + ours[0])
    try:
        answer = json.loads(text)
    except ValueError:
        raise silent(pid) from None
    if "facts" in answer:
        return dict(answer["facts"])
    os.waitpid(pid, 0)
    if "ended" in answer:
        raise stopped(answer["ended"])
    error = answer["error"]
    raise AscendV4Error(ExitCode(error["code"]), error["kind"], error["message"], error["next"])


@contextlib.contextmanager
def passed_on(pid: int) -> Iterator[list[int]]:
    """Pass on to the launcher what is to end us; yields the signals that came.

    It is in another session, so a terminal's Ctrl-C reaches only us. It gives back what it
    has and closes the pipe, which is what we wait for.
    """
    came: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    before = {
        number: signal.signal(number, forward)
        for number in (*STOPPING, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def silent(pid: int) -> AscendV4Error | SystemExit:
    """Return the end of a launcher that said nothing."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in STOPPING:
        return stopped(128 + os.WTERMSIG(status))
    text = "the launcher ended before it said a word"
    return AscendV4Error(ExitCode.FAULT, "launcher-died", text)


def stopped(code: int) -> SystemExit:
    """Say that the launcher was stopped; return what ends us in the same way."""
    say(f"stopped by {signal_name(code - 128)} before the engine was started")
    return SystemExit(code)


def become(prepare: Callable[[], Runnable], write: int) -> None:
    """Be the launcher, in the forked child; never returns."""
    code = 1
    try:
        os.setsid()
        prepared = prepare()
        redirect(str(prepared.run.path / "launcher.log"))
        heard, write = told(write, {"facts": prepared.facts()}), -1
        if heard:
            code = run(prepared)
        else:
            # Whoever called is gone and knows of no run.
            prepared.discard()
    except AscendV4Error as error:
        told(write, error.to_json())
        code = int(error.code)
    except (SystemExit, KeyboardInterrupt) as error:
        code = int(error.code or 0) if isinstance(error, SystemExit) else 128 + signal.SIGINT
        told(write, {"ended": code})
    except BaseException as error:
        say(f"error: {type(error).__name__}: {error}")
    finally:
        os._exit(code)


def told(write: int, answer: dict[str, Any]) -> bool:
    """Tell the caller, and that there is no more to come; False where it is gone.

    ``write`` is negative where it was told before.
    """
    if write < 0:
        return False
    try:
        with os.fdopen(write, "wb") as pipe:
            pipe.write(json.dumps(answer).encode())
    except OSError:
        return False
    return True


def run(prepared: Runnable) -> int:
    """Supervise to the end; the launcher's own words are in ``launcher.log``."""
    outcome = prepared.supervise(lambda s: say(f"ready after {s:.1f} s"), echo=False)
    if error := outcome.error():
        say(f"error: {error.message}")
    return outcome.code


def say(text: str) -> None:
    """Write a line to the launcher's log; a full disk stops nothing."""
    with contextlib.suppress(OSError, ValueError):
        os.write(2, text.encode(errors="replace") + b"\n")


def redirect(path: str) -> None:
    """Leave the caller's terminal: nothing is read, words go to a file."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:
        # A full disk costs words only.
        log = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)
