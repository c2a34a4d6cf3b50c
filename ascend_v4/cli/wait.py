"""``ascend-v4 wait``: until a run is ready or stopped."""

from __future__ import annotations

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option
from .output import print_json, print_result, status
from .planning import host_of
from .types import Amount

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

    A run that ends before it is ready gives its own exit code, 128 + n for signal n.
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
    end = run.read("exit")
    if (code := end.get("code", 0)) > SIGNALLED:
        if as_json:
            print_json({"run_id": run.run_id, "state": "stopped", "code": code})
        status(f"{run.run_id} was stopped by signal {code - SIGNALLED} before it was ready")
        return int(code)
    failure = end.get("failure") or {}
    raise AscendV4Error(
        as_code(end.get("code")),
        failure.get("kind", "run-ended"),
        failure.get("message", f"{run.run_id} ended before it was ready"),
        f"ascend-v4 logs {run.run_id}",
    )


def as_code(value: object) -> ExitCode:
    """Return a run's exit code as ours; one that is none of the table (130) means it died."""
    try:
        return ExitCode(int(value)) or ExitCode.ENGINE_DIED  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return ExitCode.ENGINE_DIED
