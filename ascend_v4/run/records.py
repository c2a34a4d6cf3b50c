"""What the JSON files of a run's folder say, as far as it has the right types.

A disk, an older version or an editor may have changed them, and commands look at all runs:
what one file says in a wrong way is left out, never a reason for a command to fail.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

__all__ = ["parsed"]

#: Seconds since the epoch beyond this are no moment (the year 5138).
LAST_MOMENT = 1e11


def text(value: object) -> str | None:
    """Return a string."""
    return value if isinstance(value, str) else None


def moment(value: object) -> float | None:
    """Return seconds since the epoch."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value if 0 <= value < LAST_MOMENT else None


def count(value: object) -> int | None:
    """Return a number of things."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < LAST_MOMENT else None  # type: ignore[operator,return-value]


def code(value: object) -> int | None:
    """Return an exit code."""
    number = count(value)
    return number if number is not None and number < 256 else None


def table(value: object) -> dict[str, Any] | None:
    """Return an object."""
    return value if isinstance(value, dict) else None


def texts(value: object) -> list[str] | None:
    """Return the strings of a list."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else None


def tables(value: object) -> list[dict[str, Any]] | None:
    """Return the objects of a list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else None


def members(value: object) -> list[dict[str, Any]] | None:
    """Return the members of a state; their pids are judged one by one where they are used."""
    found = tables(value)
    return found and [{**one, "processes": tables(one.get("processes")) or []} for one in found]


def nodes(value: object) -> list[dict[str, Any]] | None:
    """Return the nodes of a coordinator's state."""
    found = tables(value)
    return found and [
        {**one, **{key: text(one.get(key)) or "" for key in ("name", "state", "run_id")}}
        for one in found
    ]


def unconfirmed(value: object) -> list[dict[str, Any]] | None:
    """Return the nodes whose end nobody heard."""
    found = tables(value)
    return found and [one for one in found if text(one.get("node")) is not None]


def failure(value: object) -> dict[str, Any] | None:
    """Return what went wrong, if it is said in words."""
    found = table(value)
    if found is None or text(found.get("message")) is None:
        return None
    return {**found, "kind": text(found.get("kind")) or "run-ended"}


STATE: dict[str, Callable[[object], object]] = {
    **dict.fromkeys(("run_id", "boot_id", "state", "phase", "endpoint", "model"), text),
    **dict.fromkeys(("profile", "engine", "runtime", "deployment", "node", "cluster"), text),
    **dict.fromkeys(("started_at", "ready_at"), moment),
    "starts": count,
    "launcher": table,
    "members": members,
    "nodes": nodes,
    "resources": texts,
}
EXIT: dict[str, Callable[[object], object]] = {
    "code": code,
    "failure": failure,
    "stopped_by": text,
    "ready_s": moment,
    "ended_at": moment,
    **dict.fromkeys(("killed", "left", "attempts"), tables),
    "unconfirmed": unconfirmed,
}
#: What a report may leave open.
NULLS = ("failure", "stopped_by", "ready_s")
KNOWN = {"state": STATE, "exit": EXIT}


def parsed(name: str, data: str) -> dict[str, Any]:
    """Return what a file says, without what it says in a wrong way; {} where it is damaged.

    ``name`` is ``state``, ``exit`` or ``plan``. A report of an end without a code is none.
    """
    try:
        found = json.loads(data)
        # Half of a surrogate pair can be read but never be printed.
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    for key, check in KNOWN.get(name, {}).items():
        if key not in found:
            continue
        found[key] = check(found[key])
        if found[key] is None and key not in NULLS:
            del found[key]
    return {} if name == "exit" and "code" not in found else found
