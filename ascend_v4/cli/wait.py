"""``ascend-v4 wait``: until a run is ready or stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option
from .output import print_json, print_result, status
from .planning import host_of
from .types import Amount

if TYPE_CHECKING:
    from ascend_v4.run.state import RunDir

__all__ = ["command"]

#: A run that signal n stopped has the code 128 + n.
SIGNALLED = 128


@click.command("wait")
@click.argument("run_id", required=False, metavar="[RUN]")
@click.option(
    "--for", "wanted", type=click.Choice(["ready", "stopped"]), default="ready", show_default=True
)
@click.option("--timeout", type=Amount(min=0), metavar="SECONDS", help="Give up (8).")
@json_option
@click.pass_context
def command(
    ctx: click.Context, run_id: str | None, wanted: str, timeout: float | None, as_json: bool
) -> int:
    """Wait until a run is ready (prints its endpoint) or stopped.

    A run that ends before it is ready gives its own exit code, 128 + n for signal n. One
    that was ready and ended by itself, without an error, gives 17: nothing answers there.
    """
    from ascend_v4.run.control import wait_until
    from ascend_v4.run.state import find_run

    run = find_run(host_of(ctx).env, run_id)
    came = wait_until(run, wanted, timeout)
    if came == "timeout":
        raise AscendV4Error(
            ExitCode.NOT_READY_IN_TIME,
            "timeout",
            f"{run.run_id} was not {wanted} within {timeout:g} s",
            f"ascend-v4 status {run.run_id}",
        )
    if came == wanted:
        endpoint = run.read("state").get("endpoint", "")
        if as_json:
            print_json({"run_id": run.run_id, "state": came, "endpoint": endpoint})
        else:
            print_result(endpoint if came == "ready" else run.run_id)
        return 0
    return ended(run.run_id, run.read("exit") or lost(run), as_json=as_json)


def lost(run: RunDir) -> dict[str, Any]:
    """Return what stands for the report of a run that has none: its launcher was killed."""
    ready = run.read("state").get("ready_at") is not None
    when = "after it had been ready" if ready else "before it was ready"
    text = f"{run.run_id} ended {when} and left no report: its launcher was killed"
    return {"failure": {"kind": "no-report", "message": text}}


def ended(run_id: str, end: Mapping[str, Any], *, as_json: bool) -> int:
    """Return the exit status of waiting for a run that is over, as its report says.

    Raises the AscendV4Error that it ended with, unless a signal stopped it.
    """
    code = end.get("code")
    when = "after it had been ready" if was_ready(end) else "before it was ready"
    if code is not None and code > SIGNALLED:
        if as_json:
            print_json({"run_id": run_id, "state": "stopped", "code": code})
        status(f"{run_id} was stopped by signal {code - SIGNALLED} {when}")
        return int(code)
    failure = end.get("failure") or {"kind": "run-ended", "message": f"{run_id} ended {when}"}
    ours = ExitCode.UNREACHABLE if code == 0 and was_ready(end) else as_code(code)
    hint = f"ascend-v4 logs {run_id}"
    raise AscendV4Error(ours, failure["kind"], failure["message"], hint)


def was_ready(end: Mapping[str, Any]) -> bool:
    """Whether a run served at any of its starts."""
    return any(one.get("ready_s") is not None for one in (end, *end.get("attempts", [])))


def as_code(value: object) -> ExitCode:
    """Return a run's exit code as ours; one that is none of the table (130) means it died."""
    try:
        return ExitCode(int(value)) or ExitCode.ENGINE_DIED  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return ExitCode.ENGINE_DIED
