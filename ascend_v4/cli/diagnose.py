"""``ascend-v4 diagnose``: why a server died, from its logs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option
from .output import print_json, print_result
from .planning import host_of

if TYPE_CHECKING:
    from ascend_v4.catalog.load import Row
    from ascend_v4.diagnose.api import Source

__all__ = ["command"]


@click.command("diagnose")
@click.argument("logs", nargs=-1, metavar="[LOG…|-]")
@click.option("--run", "run_id", metavar="ID", help="Logs of a run of ours, or `last`.")
@click.option("--explain", "code", metavar="CODE", help="Say what EI0006, 507035, … means.")
@click.option("--engine", type=click.Choice(["vllm-ascend", "vllm"]), help="Engine of the logs.")
@click.option("--engine-version", help="Leave out what other releases say.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    logs: tuple[str, ...],
    run_id: str | None,
    code: str | None,
    engine: str | None,
    engine_version: str | None,
    as_json: bool,
) -> int:
    """Name the first cause in logs of one or many ranks and nodes.

    Give files (also .gz, directories, plogs, dmesg) of every rank that failed, or - for
    stdin. Exits 0 with a cause, 16 when only consequences or weak signs were found,
    18 when nothing was recognised.
    """
    from ascend_v4.diagnose import diagnose_paths
    from ascend_v4.diagnose.report import report

    if code:
        return print_code(code, as_json)
    if engine_version:
        from ascend_v4.catalog.load import catalog

        engine = engine or "vllm-ascend"
        engine_version = str(catalog().release(engine, engine_version)["version"])
    sources = sources_of(ctx, logs, run_id)
    found = diagnose_paths(sources, engine=engine, version=engine_version)
    if as_json:
        print_json(found.to_json())
    else:
        print_result(report(found))
    return int(found.exit_code)


def sources_of(ctx: click.Context, logs: tuple[str, ...], run_id: str | None) -> list[Source]:
    """Return what to read: the logs named, those of a run, or stdin.

    Raises AscendV4Error (usage) when nothing was named, or a directory holds no file.
    """
    sources: list[Source] = []
    for name in logs:
        if name == "-":
            sources.append(("<stdin>", sys.stdin.buffer))
        elif Path(name).is_dir():
            sources += files_below(Path(name))
        else:
            sources.append(Path(name))
    if run_id or not logs:
        sources += logs_of_run(ctx, run_id)
    return sources


def files_below(directory: Path) -> list[Source]:
    """Return every file below a directory, hidden ones left out."""
    found: list[Source] = [
        path
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]
    if not found:
        raise AscendV4Error(
            ExitCode.USAGE, "no-logs", f"{directory} holds no file", f"ls -R {directory}"
        )
    return found


def logs_of_run(ctx: click.Context, run_id: str | None) -> list[Source]:
    """Return the logs of a run below the state directory, rotated parts oldest first."""
    from ascend_v4.run.state import find_run

    run = find_run(host_of(ctx).env, run_id)
    # server.log.2 was written before server.log.1, and that before server.log.
    parts = [path for path in run.path.glob("logs/*.log*") if path.is_file()]
    parts.sort(key=lambda path: (path.name.split(".log")[0], -part(path)))
    if not parts:
        raise AscendV4Error(
            ExitCode.USAGE, "no-logs", f"run {run.run_id} has no logs", f"ls {run.path}"
        )
    return [*parts]


def part(path: Path) -> int:
    """Return the number of a rotated part, 0 for the newest."""
    return int(path.suffix[1:]) if path.suffix[1:].isdigit() else 0


def print_code(code: str, as_json: bool) -> int:
    """Print what a code means and the causes that carry it; returns 0."""
    from ascend_v4.diagnose.codes import explain, related

    row = explain(code)
    rows = related(row["code"])
    if as_json:
        print_json({**row, "signatures": [other["id"] for other in rows]})
        return 0
    lines = [f"{row['code']} ({row['name']}, {row['family']}): {row['meaning']}"]
    if row.get("secondary"):
        lines.append("usually a consequence: another rank failed first")
    lines += [f"fix: {row['do']}", f"source: {row['source']}"]
    lines += [f"see: {told(other)}" for other in rows]
    print_result("\n".join(lines))
    return 0


def told(row: Row) -> Any:
    """Return a signature in one line."""
    return f"{row['id']}: {row['title']} ({row['source']})"
