"""``ascend-v4 reap``: find processes that a run left behind, and end them."""

from __future__ import annotations

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option
from .output import print_json, print_table, status
from .planning import host_of

__all__ = ["command"]


@click.command("reap")
@click.argument("run_id", required=False, metavar="[RUN]")
@click.option("--yes", is_flag=True, help="Kill them; without it they are only shown.")
@json_option
@click.pass_context
def command(ctx: click.Context, run_id: str | None, yes: bool, as_json: bool) -> None:
    """Show the processes of runs that have no launcher any more; --yes kills them.

    Only processes that carry a run id of ours, or that a run's record names with the
    same start time, are ever touched.
    """
    from ascend_v4.run.control import reap, stray_rows, stray_runs
    from ascend_v4.run.state import find_run

    env = host_of(ctx).env
    found = stray_runs(env)
    if run_id is not None:
        # A stray may be of a run whose folder is gone.
        of_one = [known for known in found if known.startswith(run_id)]
        wanted = of_one[0] if len(of_one) == 1 else find_run(env, run_id).run_id
        found = {wanted: found[wanted]} if wanted in found else {}
    rows = stray_rows(found)
    left = reap(found) if yes else []
    if as_json:
        print_json({"strays": rows, "killed": yes, "left": left})
    elif not rows:
        status("no strays")
    else:
        cells = [[row["run_id"], str(row["pid"]), row["title"][:60]] for row in rows]
        print_table(["RUN", "PID", "PROCESS"], cells)
        status("killed" if yes else "nothing was done; ascend-v4 reap --yes kills them")
    if left:
        names = ", ".join(f"{proc['title']} (pid {proc['pid']})" for proc in left)
        raise AscendV4Error(
            ExitCode.NOT_CLEANED_UP, "not-cleaned-up", f"can't be killed: {names}", "see dmesg"
        )
