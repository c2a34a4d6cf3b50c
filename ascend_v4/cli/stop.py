"""``ascend-v4 stop``: drain and stop a run; twice is as good as once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option
from .output import print_json, status
from .planning import host_of
from .types import Amount

if TYPE_CHECKING:
    from ascend_v4.run.state import RunDir

__all__ = ["command"]


@click.command("stop")
@click.argument("run_id", required=False, metavar="[RUN]")
@click.option("--now", is_flag=True, help="Without a drain.")
@click.option(
    "--timeout",
    type=Amount(min=0),
    default=3600.0,
    metavar="SECONDS",
    help="How long to wait for the end (8).",
)
@click.option("--deployment", metavar="NAME", help="Every run of this topology on this node.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    run_id: str | None,
    now: bool,
    timeout: float,
    deployment: str | None,
    as_json: bool,
) -> None:
    """Stop a run and wait until none of its processes is left."""
    from ascend_v4.run.state import all_runs, find_run, members_alive

    env = host_of(ctx).env
    if deployment is not None:
        if run_id is not None:
            raise click.UsageError("name a run or a deployment, not both")
        runs = [run for run in all_runs(env) if run.read("state").get("deployment") == deployment]
        runs = [run for run in runs if run.alive() or members_alive(run)]
        if not runs:
            status(f"no run of {deployment} is alive here")
        end(runs, now=now, timeout_s=timeout)
        if as_json:
            print_json({"deployment": deployment, "stopped": True})
        return
    if run_id is None and not any(run.alive() for run in all_runs(env)):
        status("no run is alive")
        if as_json:
            print_json({"run_id": None, "stopped": True})
        return
    run = find_run(env, run_id)
    end([run], now=now, timeout_s=timeout)
    if as_json:
        print_json({"run_id": run.run_id, "stopped": True})


def end(runs: list[RunDir], *, now: bool, timeout_s: float) -> None:
    """Stop runs, those that live first; raises AscendV4Error for all that stay.

    One that can't be stopped keeps no other from being asked. Not cleaned up (12) where
    processes can't be killed, not in time (8) where launchers only need longer.
    """
    from ascend_v4.run.control import stop

    kept, late = [], True
    for run in sorted(runs, key=lambda run: not run.alive()):
        left = stop(run, now=now, timeout_s=timeout_s, say=status)
        if left:
            late = late and run.alive()
            kept.append((run, staying(run, left, timeout_s)))
        else:
            status(f"{run.run_id} is stopped")
    if kept:
        raise AscendV4Error(
            ExitCode.NOT_READY_IN_TIME if late else ExitCode.NOT_CLEANED_UP,
            "timeout" if late else "not-stopped",
            "\n  also ".join(text for _, text in kept),
            f"ascend-v4 stop {kept[0][0].run_id} --now",
        )


def staying(run: RunDir, left: Sequence[Mapping[str, Any]], timeout_s: float) -> str:
    """Return what to say of a run that is not stopped."""
    if run.alive():
        return f"{run.run_id} was not stopped within {timeout_s:g} s"
    names = ", ".join(f"{proc['title']} (pid {proc['pid']})" for proc in left)
    return f"{run.run_id} still runs: {names}"
