"""Where things live: weights, engine environments and run state, by the XDG rules.

Pure functions of an environment mapping; nothing is created here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .errors import AscendV4Error, ExitCode

__all__ = ["base_dir", "data_home", "engine_dir", "model_dir", "models_dir", "runs_dir"]


def base_dir(env: Mapping[str, str], variable: str, default: str) -> Path:
    """Return our directory below an XDG base directory, ``default`` below the home without it.

    A relative one is passed over, as the XDG specification asks for
    (https://specifications.freedesktop.org/basedir-spec/latest/): it would be another
    place from each working directory. Raises AscendV4Error (host not ready) for a user
    without a home.
    """
    base = Path(env.get(variable) or "")
    if not base.is_absolute():
        try:
            base = Path(env.get("HOME") or "~").expanduser() / default
        except RuntimeError as error:
            raise AscendV4Error(
                ExitCode.HOST_NOT_READY,
                "no-home",
                f"this user has no home directory, and neither HOME nor {variable} is set",
                f"export HOME=DIR, or {variable}=DIR",
            ) from error
    return base / "ascend-v4"


def data_home(env: Mapping[str, str]) -> Path:
    """Return ``$XDG_DATA_HOME/ascend-v4`` (default ``~/.local/share/ascend-v4``)."""
    return base_dir(env, "XDG_DATA_HOME", ".local/share")


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
    return base_dir(env, "XDG_STATE_HOME", ".local/state") / "runs"
