"""``ascend-v4 stop``: drain and stop a run; twice is as good as once."""

from __future__ import annotations

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option
from .output import print_json, status
from .planning import host_of

__all__ = ["command"]


@click.command("stop")
@click.argument("run_id", required=False, metavar="[RUN]")
@click.option("--now", is_flag=True, help="Without a drain.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=3600.0,
    metavar="SECONDS",
    help="How long to wait for the end.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context, run_id: str | None, now: bool, timeout: float, as_json: bool
) -> None:
    """Stop a run and wait until none of its processes is left."""
    from ascend_v4.run.control import stop
    from ascend_v4.run.state import all_runs, find_run

    env = host_of(ctx).env
    if run_id is None and not any(run.alive() for run in all_runs(env)):
        status("no run is alive")
        if as_json:
            print_json({"run_id": None, "stopped": True})
        return
    run = find_run(env, run_id)
    left = stop(run, now=now, timeout_s=timeout, say=status)
    if left:
        names = ", ".join(f"{proc['title']} (pid {proc['pid']})" for proc in left)
        raise AscendV4Error(
            ExitCode.NOT_CLEANED_UP,
            "not-stopped",
            f"{run.run_id} still runs: {names}",
            f"ascend-v4 stop {run.run_id} --now",
        )
    status(f"{run.run_id} is stopped")
    if as_json:
        print_json({"run_id": run.run_id, "stopped": True})
