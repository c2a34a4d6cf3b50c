"""What a site's own startups taught: saved by ``plan --from-log``, cited by later plans.

One JSON file in the user's state directory, a row for each chip, engine arithmetic and
layout; a newer log of the same replaces the older. Memory is GiB a device.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ascend_v4.errors import AscendV4Error
from ascend_v4.host.system import Host
from ascend_v4.paths import base_dir

from .weights import Interval, Weights

if TYPE_CHECKING:
    from .inputs import SizingInput
    from .memory import Budget

__all__ = ["calibration_file", "load_calibration", "save_calibration", "site_budget"]

#: GiB by which a second start of the same launch may differ from the first.
SPREAD = 0.5


def calibration_file(env: Mapping[str, str]) -> Path:
    """Return where a user's calibrations are: ``$XDG_STATE_HOME/ascend-v4/calibration.json``."""
    return base_dir(env, "XDG_STATE_HOME", ".local/state") / "calibration.json"


def load_calibration(env: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the saved rows; a missing or damaged file counts as none."""
    try:
        rows = json.loads(calibration_file(env).read_text(encoding="utf-8"))
    except (OSError, ValueError, AscendV4Error):
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def subject(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a calibration is about; a plan must agree with all of it."""
    names = ("chip", "engine", "release", "checkpoint", "tp", "dp", "pp", "spec")
    return tuple(row.get(name) for name in names)


def save_calibration(env: Mapping[str, str], row: dict[str, Any]) -> Path:
    """Add a row, in place of one about the same launch; return the file.

    Raises OSError where the state directory can't be written.
    """
    path = calibration_file(env)
    rows = [old for old in load_calibration(env) if subject(old) != subject(row)]
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(f".{os.getpid()}.new")
    fresh.write_text(json.dumps([*rows, row], indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)
    return path


def site_budget(sizing: SizingInput, usable: float, weights: Weights) -> Budget | None:
    """Return the budget by a saved startup of the same launch, None without one."""
    from .memory import Budget

    wanted = (
        sizing.chip,
        sizing.engine,
        (sizing.release or {}).get("id"),
        sizing.checkpoint.get("id"),
        sizing.tp,
        sizing.dp,
        sizing.pp,
        sizing.spec,
    )
    for row in load_calibration(Host().env):
        # More tokens in a step than at that start would take more memory than it shows.
        same = subject(row) == wanted and row["batched_tokens"] >= sizing.batched_tokens
        if not same:
            continue
        other = float(row["other_gib"])
        measured = row.get("weights_gib")
        known = weights
        if measured is not None:
            bounds = Interval(float(measured) - 0.05, float(measured) + 0.05)
            known = Weights(bounds, float(measured), f"startup log {row['log']}")
        spread = Interval(max(0.0, other - SPREAD), other + SPREAD)
        low = max(0.0, usable - known.bounds.high - spread.high)
        high = max(0.0, usable - known.bounds.low - spread.low)
        anchor = f"site:{row['log']}"
        return Budget(usable, known, spread, Interval(low, high), anchor, f"observed {row['date']}")
    return None
