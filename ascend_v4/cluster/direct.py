"""Nodes asked one by one, without a coordinator: what runs there, and its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.run.claims import busy, claimed_by, lock_directory
from ascend_v4.run.state import lock_held

from .preflight import ask_all
from .ways import Way, judge_end, last_value

if TYPE_CHECKING:
    from ascend_v4.host.system import Completed, Host
    from ascend_v4.run.state import RunDir

__all__ = [
    "coordinator_of",
    "refuse_another",
    "seen_on_nodes",
    "state_of",
    "stop_on_nodes",
    "way_out",
]

#: Seconds for a question; an end may take the whole drain.
ASK_S = 30.0
STOP_S = 3600.0
#: States of nodes of which the whole will be ready, if all goes well.
STARTING = {"preparing", "starting", "ready"}


def coordinator_of(runs: Sequence[RunDir], name: str) -> RunDir | None:
    """Return the coordinator's run of a deployment: the one that is alive, else the newest."""
    ours = [run for run in runs if run.read("state").get("cluster") == name]
    alive = [run for run in ours if run.alive()]
    return (alive or ours)[-1] if ours else None


def refuse_another(name: str, runs: Sequence[RunDir], host: Host) -> None:
    """Raise AscendV4Error (busy) where a run that isn't among ours has the deployment."""
    locks, resource = lock_directory(host.env), f"deployment-{name}"
    if not lock_held(locks / f"{resource}.lock"):
        return
    holder = claimed_by(locks, resource)
    if holder.get("run_id") in [run.run_id for run in runs]:
        return
    # Whoever it is, it isn't us with this state directory.
    raise busy(resource, holder, None)


def way_out(runs: Sequence[RunDir]) -> str:
    """Return how to stop a deployment whose file can't be read, ``""`` where none may run."""
    ours = [run for run in runs if run.read("state").get("cluster")]
    alive = [run for run in ours if run.alive()]
    if len(alive) > 1:
        return "ascend-v4 ps, then ascend-v4 stop RUN"
    if alive:
        return f"ascend-v4 stop {alive[0].run_id}"
    # A coordinator that ended in order has asked its nodes.
    unsure = [run for run in ours if run.read("exit").get("unconfirmed", True)]
    copies = [run.path / "topology.yaml" for run in unsure]
    kept = [str(path) for path in copies if path.is_file()]
    return f"with the copy of the run: ascend-v4 cluster down -f {kept[-1]}" if kept else ""


def state_of(nodes: Sequence[Mapping[str, Any]], ended: str) -> str:
    """Return the state of a deployment without a coordinator from those of its nodes.

    ``ended`` is what its last coordinator came to, ``""`` without one: it counts where
    nothing runs any more.
    """
    states = {str(node["state"]) for node in nodes}
    if "unreachable" in states:
        # What can't be asked may still run.
        return "unknown"
    if states == {"down"}:
        return ended or "down"
    if len(states) == 1:
        return states.pop()
    return "starting" if states <= STARTING else "partial"


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

    Raises AscendV4Error: not cleaned up (12) where a node still runs, unreachable (17)
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
    still = (ExitCode.NOT_CLEANED_UP, ExitCode.NOT_READY_IN_TIME)
    kept = [pair for pair in failed if pair[1].returncode in still]
    texts = [f"node {way.node}: {why(way, done)}" for way, done in kept or failed]
    code, kind = (
        (ExitCode.NOT_CLEANED_UP, "not-stopped") if kept else (ExitCode.UNREACHABLE, "unreachable")
    )
    hint = f"there: ascend-v4 stop --deployment {name} --now"
    raise AscendV4Error(code, kind, "\n  also ".join(texts), hint)
