"""Where manifest and stamps of a directory are: beside the weights, or in the state directory.

Weights on a read-only mount can still be checked and stamped; what is then known
about them is kept for the user, under a name made from the directory's real path.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from ascend_v4.paths import runs_dir

from .manifest import SIDECAR

__all__ = ["sidecars", "state_sidecar", "writable"]


def writable(directory: Path) -> bool:
    """Whether files can be made in ``directory`` (false for a read-only mount)."""
    return os.access(directory, os.W_OK | os.X_OK)


def state_sidecar(directory: Path, env: Mapping[str, str]) -> Path:
    """Return where a directory's manifest and stamps are kept when it can't be written."""
    name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:24]
    return runs_dir(env).parent / "weights" / name


def sidecars(directory: Path, env: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the places to read from, best first; the first one is the one to write to."""
    inside, state = directory / SIDECAR, state_sidecar(directory, env)
    can = writable(inside) if inside.is_dir() else writable(directory)
    return (inside, state) if can else (state, inside)
