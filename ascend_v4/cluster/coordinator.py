"""The coordinator: a run whose members are the launchers on the nodes.

It is our own supervisor: run id, state, a log for each node, first failure wins. Each
member is a feeder (feeder.py) that keeps the lease of one node's ``serve``.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ascend_v4.host.system import Host
from ascend_v4.run.claims import Claims
from ascend_v4.run.held import Held, unclaimed
from ascend_v4.run.logs import Terminal
from ascend_v4.run.notify import Notifier
from ascend_v4.run.outcome import Outcome
from ascend_v4.run.remote import Remote
from ascend_v4.run.restart import RestartPolicy
from ascend_v4.run.signals import Signals
from ascend_v4.run.spec import Options, Spec
from ascend_v4.run.state import RunDir, prune
from ascend_v4.run.supervisor import Supervisor

from . import feeder
from .deployment import Planned, served_model
from .ways import PROGRAM, Way, judge_end, way_of

if TYPE_CHECKING:
    from ascend_v4.topology.deployment import NodePlan

__all__ = ["Coordinated", "Up", "coordinate", "node_command"]

#: A start there may wait for the engine's checks; its own deadline is to come first.
DEADLINE_MARGIN_S = 120.0
#: What a node gets beyond its drain, and after ``stop now``, to end and to tell so.
DRAIN_MARGIN_S = 10.0
END_S = 20.0
NOTIFYING = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@dataclass(frozen=True)
class Up:
    """How a deployment is run; ``passed`` are options of ``serve`` for every node.

    ``lease_s`` is how long a node lives on without a word from here, in seconds.
    """

    lease_s: float = 30.0
    deadline_s: float | None = None
    drain_s: int | None = None
    passed: tuple[str, ...] = ()
    program: str = PROGRAM
    ready_fd: int | None = None
    ready_file: Path | None = None
    say: Callable[[str], None] = lambda _: None


@dataclass
class Coordinated(Held):
    """A deployment that is about to be started; holds its claim and its run's folder."""

    whole: Planned
    host: Host
    up: Up
    run: RunDir
    claims: Claims
    signals: Signals
    specs: list[Spec] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """Return the base URL that clients use, as the nodes see it."""
        return f"{self.whole.deployment.endpoint}/v1"

    def facts(self) -> dict[str, Any]:
        """Return what a script wants to know of the deployment's run."""
        return {
            "run_id": self.run.run_id,
            "endpoint": self.endpoint,
            "model": served_model(self.whole.deployment),
            "directory": str(self.run.path),
            "nodes": [spec.name for spec in self.specs],
        }

    def options(self) -> Options:
        """Return how the nodes' launchers are watched; they watch their engines themselves."""
        processes = [process for _, process in self.whole.deployment.processes()]
        own = self.up.deadline_s or max(process.deadline_s for process in processes)
        drain = max(p.drain_s for p in processes) if self.up.drain_s is None else self.up.drain_s
        return Options(
            deadline_s=own + DEADLINE_MARGIN_S,
            drain_s=drain + DRAIN_MARGIN_S,
            fail_signal=signal.SIGQUIT,
            fail_grace_s=END_S,
            end_s=END_S,
        )

    def supervise(self, on_ready: Callable[[float], None], *, echo: bool = True) -> Outcome:
        """Run the deployment to its end and give everything back."""
        terminal = Terminal()
        plan = self.whole.deployment.nodes[0].plan
        supervisor = Supervisor(
            self.run,
            self.specs,
            self.options(),
            RestartPolicy(False),
            Notifier.of(self.up.ready_fd, self.up.ready_file, self.host.env),
            terminal,
            on_ready,
            facts={
                **self.facts(),
                "nodes": [],
                "cluster": self.whole.deployment.topology.name,
                "profile": plan.profile,
                "engine": f"{plan.engine} {plan.engine_version}",
                "resources": sorted(self.claims.held),
            },
            claims=self.claims.fds,
            echo=echo,
            signals=self.signals,
        )
        try:
            return supervisor.supervise()
        finally:
            terminal.close()
            self.release()


def coordinate(
    whole: Planned, host: Host, up: Up, before: Callable[[], None] = lambda: None
) -> Coordinated:
    """Make the run of a deployment: its claim, its folder, a member for each node.

    ``before`` is called last, with all of that made, so that others see what goes on; it
    raises to refuse. Raises AscendV4Error (busy) while another run of the same deployment lives.
    """
    signals = Signals()
    with signals.preparing():
        return made_ready(whole, host, up, signals, before)


def made_ready(
    whole: Planned, host: Host, up: Up, signals: Signals, before: Callable[[], None]
) -> Coordinated:
    """Return what :func:`coordinate` does."""
    made: Coordinated | None = None
    try:
        with signals.whole():
            run, claims = unclaimed(host.env)
            made = Coordinated(whole, host, up, run, claims, signals)
            name = whole.deployment.topology.name
            made.begin({"cluster": name}, [f"deployment-{name}"])
        topology = made.run.path / "topology.yaml"
        topology.write_text(whole.text, encoding="utf-8")
        made.specs += [spec_of(made, planned, topology) for planned in whole.deployment.nodes]
        made.run.write("plan", whole.deployment.to_json())
        prune(host.env)
        before()
        signals.hold()
    except BaseException:
        if made is not None:
            made.discard()
        raise
    return made


def node_command(up: Up, node: str) -> list[str]:
    """Return the words after ``ascend-v4`` that run a node's part for a coordinator."""
    drain = [] if up.drain_s is None else ["--drain-timeout", str(up.drain_s)]
    deadline = [] if up.deadline_s is None else ["--deadline", f"{up.deadline_s:g}"]
    base = ["serve", "--topology", "-", "--node", node, "--lease", f"{up.lease_s:g}", "--json"]
    return [*base, *deadline, *drain, *up.passed]


def spec_of(made: Coordinated, planned: NodePlan, topology: Path) -> Spec:
    """Return the member of a node."""
    up, node = made.up, planned.node
    way = way_of(node, made.host, up.program)
    words = [
        sys.executable,
        "-I",
        "-S",
        feeder.__file__,
        f"{up.lease_s / feeder.BEATS:g}",
        str(topology),
    ]
    argv = (*words, *way.argv(*node_command(up, node.name)))
    remote = Remote(node.name, fronts(made, planned), up.lease_s, ending(way))
    # Telling systemd is the coordinator's part.
    env = {name: value for name, value in made.host.env.items() if name not in NOTIFYING}
    return Spec(node.name, argv, env, remote=remote, role="node")


def fronts(made: Coordinated, planned: NodePlan) -> bool:
    """Whether the endpoint is on the node: its router, else the first server of all."""
    ends = [(n, p) for n, p in made.whole.deployment.processes() if p.ready]
    router = [pair for pair in ends if pair[1].role == "router"]
    return (router or ends)[0][0].name == planned.node.name


def ending(way: Way) -> Callable[[int, Sequence[str]], tuple[int, str, str, str] | None]:
    """Return the judge of the way's end."""
    return lambda status, lines: judge_end(way, status, lines)
