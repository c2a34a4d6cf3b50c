"""``ascend-v4 status``: one run, as it really is."""

from __future__ import annotations

import time
from typing import Any

import click

from .options import json_option
from .output import print_json, print_result
from .planning import host_of

__all__ = ["command"]


@click.command("status")
@click.argument("run_id", required=False, metavar="[RUN]")
@json_option
@click.pass_context
def command(ctx: click.Context, run_id: str | None, as_json: bool) -> None:
    """Show a run: the only one, the one named, or `last`."""
    from ascend_v4.run.control import look
    from ascend_v4.run.state import find_run

    seen = look(find_run(host_of(ctx).env, run_id))
    if as_json:
        print_json(seen)
        return
    for line in lines(seen):
        print_result(line)


def lines(seen: dict[str, Any]) -> list[str]:
    """Return a run as text for people."""
    what = f"{seen['model']} on {seen['engine']}"
    shown = [f"{seen['run_id']}  {seen['state']}  {what}", f"  endpoint   {seen['endpoint']}"]
    if seen["state"] in ("starting", "waiting"):
        shown.append(f"  phase      {seen['phase']}")
    if seen["started_at"]:
        shown.append(f"  started    {since(seen['started_at'])} ago, {seen['starts']} starts")
    shown.append(f"  processes  {len(seen['processes'])}")
    shown += [f"    {proc['pid']:>8}  {proc['title'][:70]}" for proc in seen["processes"]]
    if seen["state"] in ("lost", "cleaning-up"):
        when = "after it had been ready" if seen["ready_at"] else "before it was ready"
        shown.append(f"  reason     its launcher was killed {when}; it left no report")
    failure = (seen["exit"] or {}).get("failure")
    if seen["exit"]:
        shown.append(f"  exit code  {seen['exit']['code']}")
    if failure:
        shown.append(f"  failure    {failure['message']}")
    shown.append(f"  directory  {seen['directory']}")
    return shown


def since(moment: float) -> str:
    """Return the time since ``moment`` (seconds since the epoch) as ``3h12m`` or ``45s``."""
    seconds = max(0, int(time.time() - moment))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds % 60:02}s" if minutes else f"{seconds}s"
