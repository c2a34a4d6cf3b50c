"""Where things live: weights, engine environments and run state, by the XDG rules.

Pure functions of an environment mapping; nothing is created here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["data_home", "engine_dir", "model_dir", "models_dir", "runs_dir"]


def data_home(env: Mapping[str, str]) -> Path:
    """Return ``$XDG_DATA_HOME/ascend-v4`` (default ``~/.local/share/ascend-v4``)."""
    base = env.get("XDG_DATA_HOME") or str(
        Path(env.get("HOME") or "~").expanduser() / ".local/share"
    )
    return Path(base) / "ascend-v4"


def models_dir(env: Mapping[str, str]) -> Path:
    """Return the directory that holds all weights: ``$ASCEND_V4_MODELS`` or below the data home."""
    return (
        Path(env["ASCEND_V4_MODELS"]) if env.get("ASCEND_V4_MODELS") else data_home(env) / "models"
    )


def model_dir(env: Mapping[str, str], hub_id: str) -> Path:
    """Return where ``download`` puts ``<org>/<name>`` and ``serve`` looks for it."""
    return models_dir(env) / hub_id.replace("/", "--")


def engine_dir(env: Mapping[str, str], profile: str) -> Path:
    """Return the virtual environment of an engine that ``engine install`` made."""
    if env.get("ASCEND_V4_ENGINES"):
        return Path(env["ASCEND_V4_ENGINES"]) / profile
    return data_home(env) / "engines" / profile


def runs_dir(env: Mapping[str, str]) -> Path:
    """Return ``$XDG_STATE_HOME/ascend-v4/runs``, one folder a run below it."""
    base = env.get("XDG_STATE_HOME") or str(
        Path(env.get("HOME") or "~").expanduser() / ".local/state"
    )
    return Path(base) / "ascend-v4" / "runs"
