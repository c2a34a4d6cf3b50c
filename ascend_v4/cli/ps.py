"""``ascend-v4 ps``: the runs of this user."""

from __future__ import annotations

import click

from .options import json_option
from .output import print_json, print_table
from .planning import host_of
from .status import since

__all__ = ["command"]


@click.command("ps")
@click.option("--all", "everything", is_flag=True, help="Ended runs too.")
@json_option
@click.pass_context
def command(ctx: click.Context, everything: bool, as_json: bool) -> None:
    """List the runs that are alive, or with --all every run that is kept."""
    from ascend_v4.run.control import look
    from ascend_v4.run.state import all_runs

    seen = [look(run) for run in all_runs(host_of(ctx).env)]
    shown = [run for run in seen if everything or run["launcher"] or run["processes"]]
    if as_json:
        print_json(shown)
        return
    rows = [
        [
            run["run_id"],
            run["state"],
            since(run["started_at"]) if run["started_at"] else "",
            run["model"],
            run["endpoint"],
            str(run["exit"]["code"]) if run["exit"] else "",
        ]
        for run in shown
    ]
    print_table(["RUN", "STATE", "AGE", "MODEL", "ENDPOINT", "CODE"], rows)
