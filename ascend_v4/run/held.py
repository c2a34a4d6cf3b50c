"""A run that holds its lock and its claims."""

from __future__ import annotations

import shutil

from .claims import Claims
from .signals import Signals
from .state import RunDir

__all__ = ["Held"]


class Held:
    """What a node's run and a coordinator's have in common: a folder and claims to give back.

    ``signals`` were taken over before there was anything of that.
    """

    run: RunDir
    claims: Claims
    signals: Signals

    def release(self) -> None:
        """Give the claims and the run's lock back."""
        self.claims.release()
        self.run.unlock()

    def discard(self) -> None:
        """Leave nothing of a run that never started."""
        self.release()
        shutil.rmtree(self.run.path, ignore_errors=True)
