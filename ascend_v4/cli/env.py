"""``ascend-v4 env``: the environment of a launch."""

from __future__ import annotations

from typing import Any

import click

from ascend_v4.catalog.load import catalog
from ascend_v4.render.shell import dotenv, env_json, env_shell

from .options import json_option, launch_options
from .output import print_json, print_result
from .planning import compiled_command

__all__ = ["command"]


@click.command("env")
@click.option(
    "--format",
    "form",
    type=click.Choice(["shell", "dotenv", "json"]),
    default="shell",
    show_default=True,
    help="shell to eval or source, dotenv for docker and systemd.",
)
@json_option
@launch_options
@click.pass_context
def command(ctx: click.Context, /, form: str, as_json: bool, **_options: Any) -> None:
    """Print the environment of the launch: eval "$(ascend-v4 env --chip a3)".

    Nothing here looks at this host; the plan is about what was asked.
    """
    compiled = compiled_command(ctx)
    process = compiled.plan.processes[0]
    if as_json or form == "json":
        print_json(env_json(process))
    elif form == "dotenv":
        print_result(dotenv(process))
    else:
        print_result(env_shell(compiled.plan, compiled.rows, catalog()))
