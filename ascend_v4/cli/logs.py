"""``ascend-v4 logs``: what the engine of a run said."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option
from .output import print_result
from .planning import host_of

if TYPE_CHECKING:
    from ascend_v4.run.state import RunDir

__all__ = ["command"]

POLL_S = 0.2
#: What the launcher writes before each line: UTC, milliseconds.
STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (.*)", re.DOTALL)
Form = Callable[[str, str], str]


@click.command("logs")
@click.argument("run_id", required=False, metavar="[RUN]")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.option("--member", help="Only this process of the plan.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    run_id: str | None,
    follow: bool,
    member: str | None,
    lines: int,
    as_json: bool,
) -> None:
    """Print the end of a run's logs, times in UTC, secrets masked.

    With --json each line is one object: member, time (null for a torn line), text.
    """
    from ascend_v4.run.logs import tail
    from ascend_v4.run.state import find_run

    run = find_run(host_of(ctx).env, run_id)
    names = run.members()
    if member is not None and member not in names:
        raise AscendV4Error(
            ExitCode.USAGE,
            "unknown-member",
            f"{run.run_id} has no member '{member}'; it has {', '.join(names) or 'none'}",
            f"ascend-v4 logs {run.run_id}",
        )
    chosen = [member] if member else names
    form = as_object if as_json else prefixed if len(chosen) > 1 else plain
    places = {name: end_of(run.log(name)) for name in chosen}
    for name in chosen:
        for line in tail(run.log(name), lines):
            print_result(form(name, line))
    if follow:
        follow_until_end(run, member, places, as_json=as_json)


def plain(_name: str, line: str) -> str:
    """Return a line of the only member."""
    return line


def prefixed(name: str, line: str) -> str:
    """Return a line, named where the lines of several members are mixed."""
    return f"{name} | {line}"


def as_object(name: str, line: str) -> str:
    """Return a line as one JSON object."""
    found = STAMPED.fullmatch(line)
    time_, text = found.groups() if found else (None, line)
    return json.dumps({"member": name, "time": time_, "text": text}, ensure_ascii=False)


def end_of(path: Path) -> tuple[int, int]:
    """Return a log's inode and size in bytes, zeros where there is none yet."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_size


def follow_until_end(
    run: RunDir, member: str | None, places: dict[str, tuple[int, int]], *, as_json: bool
) -> None:
    """Print what is appended, over rotations, until the run is over.

    A log may come after the follower does: the engine is asked before it is started.
    """
    while True:
        living = run.alive()
        names = [member] if member else run.members()
        for name in names:
            place = places.get(name, (0, 0))
            form = as_object if as_json else prefixed if len(names) > 1 else plain
            places[name] = print_new(run.log(name), name, place, form)
        if not living:
            return
        time.sleep(POLL_S)


def print_new(path: Path, name: str, place: tuple[int, int], form: Form) -> tuple[int, int]:
    """Print the whole lines behind ``place`` (inode, offset); return the new place."""
    inode, offset = place
    now, size = end_of(path)
    if inode and now != inode:
        print_new(path.with_name(f"{path.name}.1"), name, (0, offset), form)
        offset = 0
    if size <= offset:
        return now, offset
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except OSError:
        return now, offset
    whole, newline, _ = data.rpartition(b"\n")
    for line in whole.decode(errors="replace").split("\n") if newline else ():
        print_result(form(name, line))
    return now, offset + len(whole) + len(newline)
