"""Starting a run in the background: all checks are still the caller's to see."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Protocol

from ascend_v4.errors import AscendV4Error, ExitCode

from .outcome import Outcome
from .signals import interruptible
from .state import RunDir

__all__ = ["Runnable", "detached"]


class Runnable(Protocol):
    """A run that holds its claims and has not been started."""

    run: RunDir

    def facts(self) -> dict[str, Any]:
        """Return what a script wants to know of the run."""

    def supervise(self, on_ready: Callable[[float], None], *, echo: bool = True) -> Outcome:
        """Run it to its end."""


def detached(prepare: Callable[[], Runnable]) -> dict[str, Any]:
    """Start a launcher in a session of its own; return the facts of its run.

    ``prepare`` is called there: checks, claims and the run's folder are made before this
    returns. Raises the AscendV4Error of a launch that was refused.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        become(prepare, write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        try:
            with interruptible():
                text = pipe.read()
        except BaseException:
            # What is still being prepared would go on without us.
            os.kill(pid, signal.SIGTERM)
            raise
    try:
        answer = json.loads(text)
    except ValueError:
        raise AscendV4Error(
            ExitCode.FAULT, "launcher-died", "the launcher ended before it said a word"
        ) from None
    if "error" in answer:
        os.waitpid(pid, 0)
        error = answer["error"]
        raise AscendV4Error(ExitCode(error["code"]), error["kind"], error["message"], error["next"])
    return dict(answer)


def become(prepare: Callable[[], Runnable], write: int) -> None:
    """Be the launcher, in the forked child; never returns."""
    code = 1
    try:
        os.setsid()
        prepared = prepare()
        redirect(str(prepared.run.path / "launcher.log"))
        os.write(write, json.dumps(prepared.facts()).encode())
        os.close(write)
        code = run(prepared)
    except AscendV4Error as error:
        with contextlib.suppress(OSError):
            os.write(write, json.dumps(error.to_json()).encode())
        code = int(error.code)
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException as error:
        say(f"error: {type(error).__name__}: {error}")
    finally:
        os._exit(code)


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
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)
