"""Whether runs of anybody on this host have claimed what the plan wants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.run.claims import DIRECTORIES, VARIABLE, claimed_by
from ascend_v4.run.prelaunch import resources
from ascend_v4.run.state import lock_held

from .check import Outcome
from .look import Look

__all__ = ["claim_checks"]


def claim_checks(look: Look) -> Iterator[Outcome]:
    """Yield whether a device or port of the plan is claimed; looks only, makes nothing."""
    if look.compiled is None:
        yield Outcome("claims", "unknown", "there is no plan to tell devices and ports from")
        return
    named = look.host.env.get(VARIABLE)
    places = [Path(named)] if named else [look.host.path(place) for place in DIRECTORIES]
    directory = next((place for place in places if place.is_dir()), None)
    if directory is None:
        yield Outcome("claims", "ok", "no run has ever claimed anything here")
        return
    plan = look.compiled.plan
    try:
        wanted = resources(plan, plan.processes, look.host)
    except AscendV4Error as error:
        yield Outcome("claims", "fail", error.message, (), {"fix": error.next}, error.code)
        return
    taken = [name for name in wanted if lock_held(directory / f"{name}.lock")]
    if not taken:
        yield Outcome("claims", "ok", f"none in {directory}")
        return
    holder = claimed_by(directory, taken[0])
    run = str(holder.get("run_id") or "")
    who = f"run {run} of {holder.get('user')} (pid {holder.get('pid')})" if run else "another run"
    message = f"{', '.join(taken[:8])} in use by {who}"
    values = {"fix": f"ascend-v4 stop {run}".strip()}
    yield Outcome("claims", "fail", message, tuple(taken[:16]), values, ExitCode.BUSY)
