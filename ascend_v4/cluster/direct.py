"""Nodes asked one by one, without a coordinator: what runs there, and its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ascend_v4.errors import AscendV4Error, ExitCode

from .preflight import ask_all
from .ways import Way, judge_end, last_value

if TYPE_CHECKING:
    from ascend_v4.host.system import Completed, Host
    from ascend_v4.run.state import RunDir

__all__ = ["coordinator_of", "seen_on_nodes", "stop_on_nodes"]

#: Seconds for a question; an end may take the whole drain.
ASK_S = 30.0
STOP_S = 3600.0


def coordinator_of(runs: Sequence[RunDir], name: str) -> RunDir | None:
    """Return the coordinator's run of a deployment: the one that is alive, else the newest."""
    ours = [run for run in runs if run.read("state").get("cluster") == name]
    alive = [run for run in ours if run.alive()]
    return (alive or ours)[-1] if ours else None


def seen_on_nodes(ways: Sequence[Way], name: str, host: Host) -> list[dict[str, Any]]:
    """Return each node's state of the deployment: ``down``, a run's own, or ``unreachable``."""

    def ask(way: Way) -> dict[str, Any]:
        done = host.run(way.argv("ps", "--json"), timeout_s=ASK_S)
        try:
            seen: Any = last_value(done.stdout, list) if done.ok else None
            runs = [run for run in seen if run["deployment"] == name]
        except (KeyError, TypeError):
            return {"name": way.node, "state": "unreachable", "run_id": "", "why": why(way, done)}
        mine = [run for run in runs if run["node"] in (way.node, "")]
        if not mine:
            return {"name": way.node, "state": "down", "run_id": ""}
        return {"name": way.node, "state": mine[-1]["state"], "run_id": mine[-1]["run_id"]}

    return list(ask_all(ways, ask))


def why(way: Way, done: Completed) -> str:
    """Return why a node gave no answer."""
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    judged = judge_end(way, done.returncode, lines)
    return judged[2] if judged else (lines or ["no answer"])[-1]


def stop_on_nodes(ways: Sequence[Way], name: str, host: Host, *, now: bool) -> None:
    """End what runs of the deployment on every node; nothing to end is no error.

    Raises AscendV4Error: not cleaned up (12) where a node says so, unreachable (17)
    where one can't be asked.
    """
    words = ["stop", "--deployment", name, "--json", *(["--now"] if now else [])]

    def ask(way: Way) -> Completed:
        return host.run(way.argv(*words), timeout_s=STOP_S)

    failed = [
        (way, done)
        for way, done in zip(ways, ask_all(ways, ask), strict=True)
        if done.returncode != 0
    ]
    if not failed:
        return
    kept = [pair for pair in failed if pair[1].returncode == ExitCode.NOT_CLEANED_UP]
    texts = [f"node {way.node}: {why(way, done)}" for way, done in kept or failed]
    code, kind = (
        (ExitCode.NOT_CLEANED_UP, "not-stopped") if kept else (ExitCode.UNREACHABLE, "unreachable")
    )
    hint = f"there: ascend-v4 stop --deployment {name} --now"
    raise AscendV4Error(code, kind, "\n  also ".join(texts), hint)
