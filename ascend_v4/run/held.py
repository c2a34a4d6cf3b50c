"""A run that holds its lock and its claims."""

from __future__ import annotations

import getpass
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .claims import Claims, lock_directory
from .signals import Signals
from .state import RunDir, new_run

__all__ = ["Held", "unclaimed"]


class Held:
    """What a node's run and a coordinator's have in common: a folder and claims to give back.

    ``signals`` were taken over before there was anything of that.
    """

    run: RunDir
    claims: Claims
    signals: Signals

    def begin(self, facts: Mapping[str, Any], names: Sequence[str]) -> None:
        """Take the run's lock and the claims ``names``; who calls discards where it raises."""
        self.run.lock(facts)
        self.claims.take(names)

    def release(self) -> None:
        """Give the claims and the run's lock back."""
        self.claims.release()
        self.run.unlock()

    def discard(self) -> None:
        """Leave nothing of a run that never started."""
        self.release()
        shutil.rmtree(self.run.path, ignore_errors=True)


def unclaimed(env: Mapping[str, str]) -> tuple[RunDir, Claims]:
    """Return a new run and its claims, of which none is taken yet."""
    locks, run = lock_directory(env), new_run(env)
    who = {"run_id": run.run_id, "pid": os.getpid(), "user": user(), "since": time.time()}
    return run, Claims(locks, who)


def user() -> str:
    """Return the name of this user, the number where it has none (containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
