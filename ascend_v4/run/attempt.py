"""One start of a run's members, from the first process to the last one gone."""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ascend_v4.errors import ExitCode

from .drain import Drain
from .liveness import Liveness, Prober, Sample, look
from .member import Member
from .outcome import Failure, Outcome, died, late
from .peers import Answers, Peers
from .procs import scan
from .remote import first_failure, newly_ready, unconfirmed
from .signals import FORWARDED, STOPPING, Signals
from .spec import FAIL_GRACE_S, Options, Spec, front_probe
from .starting import serves
from .transfer import unanswered

__all__ = ["Attempt", "Options", "Spec"]

POLL_S = 0.2
#: The engine gets this much longer than its drain before it is killed.
MARGIN_S = 3.0
#: Probe timeouts that one probe may take: it asks several things in a row.
PATIENCE = 4


@dataclass
class Attempt:
    """Starts the members in order, waits until they serve, watches them, ends them all.

    ``start`` starts one member; ``on_ready`` and ``on_change`` tell the world.
    """

    specs: Sequence[Spec]
    options: Options
    signals: Signals
    start: Callable[[Spec], Member]
    on_ready: Callable[[float], None]
    on_change: Callable[[str], None]
    members: dict[str, Member] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.ready: set[str] = set()
        self.stopping = False
        self.lease_over = False
        self.ending = False
        self.kill_at: float | None = None
        self.drain: Drain | None = None
        self.forwarded: set[int] = set()
        self.prober = Prober(self.signals.wake)
        self.asked: str | None = None
        self.next_probe = 0.0
        self.next_refresh = 0.0
        self.liveness = {s.name: Liveness(self.options.probe_failures) for s in self.specs}
        self.peers = {
            s.name: Peers(s.peers, s.env.get("VLLM_API_KEY", "")) for s in self.specs if s.peers
        }
        self.turn = 0
        wait_s = self.options.probe_timeout_s
        self.calls: list[tuple[str, Callable[[], object]]] = [
            *((spec.name, partial(look, spec.probe, wait_s)) for spec in self.specs if spec.probe),
            *((name, partial(peers.ask, wait_s)) for name, peers in self.peers.items()),
        ]
        if self.options.lease is not None:
            self.options.lease.bind(self.signals, self.generate)

    def run(self) -> Outcome:
        """Run to the end; on return no process of the members is left, or it is named."""
        try:
            self.start_next()
            while self.members and not all(m.over for m in self.members.values()):
                self.step()
        finally:
            for member in self.members.values():
                if not member.over:
                    member.kill()
                    member.wait_over(15.0)
        self.outcome.unconfirmed = unconfirmed(self.specs, self.members)
        return self.outcome

    def start_next(self) -> None:
        """Start every member whose predecessors are ready."""
        for spec in self.specs:
            waiting = set(spec.starts_after) - self.ready
            if spec.name in self.members or waiting or self.stopping:
                continue
            if spec.remote is not None:
                spec.remote.begin(self.signals.wake)
            self.members[spec.name] = self.start(spec)

    def step(self) -> None:
        """Wait for the next thing to happen, and act on all that did."""
        open_members = [m for m in self.members.values() if not m.over]
        readable, _, _ = select.select([self.signals, *open_members], [], [], self.pause())
        for number in self.signals.take():
            self.on_signal(number)
        for member in open_members:
            if member in readable:
                self.on_news(member)
        now = time.monotonic()
        self.mind_lease()
        if self.kill_at is not None and now >= self.kill_at:
            self.kill()
        if not self.stopping:
            self.watch(now)
        elif self.drain is not None:
            self.go_on_draining(self.drain)
        self.refresh(now)

    def pause(self) -> float:
        """Return how long to sleep at most, seconds."""
        if self.stopping:
            return 0.1
        if not self.is_ready():
            return POLL_S
        probe = self.next_probe
        if self.prober.busy:
            # Its answer wakes us; without one, nothing is to be done before it is given up.
            probe = self.prober.since + PATIENCE * self.options.probe_timeout_s
        if self.options.probe_interval_s <= 0:
            probe = self.next_refresh
        return max(0.0, min(self.next_refresh, probe) - time.monotonic())

    def is_ready(self) -> bool:
        """Whether every member is ready."""
        return len(self.ready) == len(self.specs)

    # What happens to us

    def on_signal(self, number: int) -> None:
        """Drain on the first TERM or INT, stop now on a second or on QUIT, forward the rest."""
        # To launchers on other nodes a HUP of ours would be one TERM after the other.
        hung_up = number == signal.SIGHUP and bool(self.options.end_s)
        if number in FORWARDED and not self.options.end_s:
            self.forwarded.add(number)
            self.tell(number)
        if not (number in STOPPING or (hung_up and not self.stopping)):
            return
        again, self.outcome.asked = self.outcome.asked, self.outcome.asked or number
        if self.outcome.failure is None:
            self.outcome.stopped_by = self.outcome.stopped_by or number
        if again is not None or number == signal.SIGQUIT:
            self.stopping = True
            self.kill()
        elif not self.stopping:
            self.begin_drain(signal.SIGTERM if hung_up else number)
            self.on_change("draining")

    def on_news(self, member: Member) -> None:
        """Take what a guardian says: the end of its main process above all."""
        before = member.exit_status
        member.hear()
        ending = member.ending
        if member.exit_status is not None and before is None:
            self.on_exit(member)
        if member.over and ending is None:
            ending = member.ending
        if member.over and ending is not None:
            self.outcome.killed += ending.killed
            self.outcome.left += ending.left
            if ending.guardian_lost and not self.stopping:
                self.fail(self.end_of(member))

    def end_of(self, member: Member) -> Failure:
        """Return the failure of a member that ended though nobody asked it to."""
        remote = self.spec_of(member).remote
        if remote is not None:
            return remote.ended(member)
        return died(member, ready=self.is_ready(), alone=len(self.specs) == 1)

    def spec_of(self, member: Member) -> Spec:
        """Return what a member was started from."""
        return next(spec for spec in self.specs if spec.name == member.name)

    def mind_lease(self) -> None:
        """End the run when its lease is over, however it was ending."""
        lease = self.options.lease
        if lease is not None and lease.lost and not self.lease_over:
            self.lease_over = True
            self.fail(lease.failure())

    def on_exit(self, member: Member) -> None:
        """Judge the end of a member's main process: asked for, forwarded, by itself, a failure."""
        status = member.exit_status or 0
        spec = self.spec_of(member)
        if (remote := spec.remote) is not None:
            remote.over(status)
            if status == ExitCode.NOT_CLEANED_UP:
                self.outcome.left.append(remote.left())
        if self.stopping:
            return
        if -status in self.forwarded:
            self.outcome.stopped_by = -status
            self.stop(signal.SIGTERM, FAIL_GRACE_S)
        elif status == 0 and spec.may_end and self.is_ready() and not member.phases.lost:
            self.stop(signal.SIGTERM, FAIL_GRACE_S)
        else:
            self.on_change("failing")
            member.settle()
            self.fail(self.end_of(member))

    def fail(self, failure: Failure) -> None:
        """Keep the first failure and end everything."""
        if self.outcome.failure is None and self.outcome.stopped_by is None:
            self.outcome.failure = failure
            self.on_change("failing")
            if self.options.lease is not None:
                self.options.lease.failed(failure)
        self.stop(self.options.fail_signal, self.options.fail_grace_s)

    # What we do to the members

    def tell(self, number: int) -> None:
        """Send a signal to the main process of each member that has one."""
        for member in self.members.values():
            if member.exit_status is None:
                member.signal(number)

    def stop(self, number: int, grace_s: float) -> None:
        """Ask every member to end, and kill what is left after ``grace_s`` seconds."""
        self.end_by(grace_s)
        self.drain = None
        self.tell(number)

    def end_by(self, grace_s: float) -> None:
        """Watch no more; what is left after ``grace_s`` seconds is killed."""
        self.stopping = True
        at = time.monotonic() + grace_s
        self.kill_at = at if self.kill_at is None else min(self.kill_at, at)
        self.prober.drop()

    def begin_drain(self, number: int) -> None:
        """Ask the members to end in their order; before it serves there is nothing to drain."""
        if not self.is_ready():
            self.stop(number, MARGIN_S)
            return
        self.end_by(self.options.drain_s + MARGIN_S)
        self.drain = Drain(self.specs, number, self.options.drain_s)

    def go_on_draining(self, drain: Drain) -> None:
        """Ask the members whose turn it is, and the others how much runs in them."""
        answer = self.prober.take()
        if answer is not None:
            drain.heard(answer)
        for name in drain.due(self.members):
            self.members[name].signal(drain.number)
        if not self.prober.busy and (question := drain.question()):
            self.prober.ask(question)

    def kill(self) -> None:
        """Kill every process of every member; launchers on other nodes first do it there."""
        self.kill_at, self.drain = None, None
        if self.options.end_s and not self.ending:
            self.ending = True
            self.kill_at = time.monotonic() + self.options.end_s
            self.tell(signal.SIGQUIT)
            return
        for member in self.members.values():
            if not member.over:
                member.kill()

    # Watching

    def watch(self, now: float) -> None:
        """Take the result of a probe, ask the next one, mind the deadline."""
        told = first_failure(self.specs, self.members)
        if told is not None:
            self.fail(told)
            return
        if not self.is_ready():
            self.watch_start(now)
        elif self.options.probe_interval_s > 0:
            self.watch_life(now)

    def watch_start(self, now: float) -> None:
        """Find out whether the members that were started are ready."""
        result = self.prober.take()
        if result is not None and self.asked is not None:
            self.on_answer(self.asked, result)
        for name in newly_ready(self.specs, self.members, self.ready, now):
            self.on_answer(name, True)
        if self.is_ready() or self.stopping:
            return
        if now - self.began > self.options.deadline_s:
            spec = next(s for s in self.specs if s.name not in self.ready)
            member, last = self.members.get(spec.name), spec.probe.last if spec.probe else ""
            alone = len(self.specs) == 1
            self.fail(late(spec.name, member, self.options.deadline_s, last, alone=alone))
            return
        pending = [
            spec
            for spec in self.specs
            if spec.name in self.members and spec.name not in self.ready and not spec.remote
        ]
        # An answer wakes us, and before a server listens it comes at once.
        if pending and not self.prober.busy and now >= self.next_probe:
            self.next_probe = now + POLL_S
            spec = pending[self.turn % len(pending)]
            self.turn += 1
            self.asked = spec.name
            self.prober.ask(partial(serves, spec, self.members[spec.name], self.options))

    def generate(self) -> tuple[bool, str]:
        """Return whether the endpoint generates a token now, and what it said; any thread."""
        probe = front_probe(self.specs)
        return (probe.generated(), probe.last) if probe else (True, "nothing to ask here")

    def on_answer(self, name: str, result: object) -> None:
        """Act on the answer of a ready check."""
        if isinstance(result, str):
            member = self.members[name]
            text = f"the answers of {name} are wrong: {result}"
            code = int(ExitCode.WRONG_ANSWERS)
            self.fail(Failure(code, "wrong-answers", text, "", name, tail=member.tail.text()))
        elif result is True:
            self.ready.add(name)
            self.start_next()
            if self.is_ready():
                self.became_ready()

    def became_ready(self) -> None:
        """Tell that the run serves."""
        now = time.monotonic()
        self.outcome.ready_at, self.outcome.ready_s = now, now - self.began
        self.next_probe = now + self.options.probe_interval_s
        for member in self.members.values():
            member.phases.served()
        if self.options.end_s:
            # Nodes tell each other's absence from a start that goes on.
            self.tell(signal.SIGUSR2)
        self.on_ready(self.outcome.ready_s)

    def watch_life(self, now: float) -> None:
        """Probe one member after the other, each once an interval."""
        limit = PATIENCE * self.options.probe_timeout_s
        result = self.prober.take()
        if result is None and self.prober.busy and now - self.prober.since > limit:
            # A reply that trickles in for ever is no reply.
            self.prober.drop()
            result = Sample(False, False)
        if isinstance(result, Sample) and self.asked is not None:
            self.on_sample(self.asked, result)
        if isinstance(result, Answers) and self.asked is not None:
            self.on_answers(self.asked, result)
        if self.prober.busy or now < self.next_probe or self.stopping:
            return
        if not self.calls:
            self.next_probe = now + 3600
            return
        self.asked, call = self.calls[self.turn % len(self.calls)]
        self.turn += 1
        self.next_probe = now + self.options.probe_interval_s / len(self.calls)
        self.prober.ask(call)

    def on_answers(self, name: str, answers: Answers) -> None:
        """Judge whether the servers that a member needs are still there."""
        peers = self.peers[name]
        lease = self.options.lease
        url, failed = peers.judge(answers, serving=lease is not None and lease.serving)
        if failed:
            self.on_change(f"{name}: no answer from {url} ({failed} of {peers.failures})")
        if failed >= peers.failures:
            self.fail(peers.lost(name, url, self.members[name].tail.text()))

    def on_sample(self, name: str, sample: Sample) -> None:
        """Judge a sample of a member that serves."""
        judge = self.liveness[name]
        hung = judge.judge(sample)
        if judge.failed:
            self.on_change(f"{name}: probe failed ({judge.failed} of {judge.failures})")
        if hung:
            member = self.members[name]
            probe = self.spec_of(member).probe
            self.fail(unanswered(member, probe, judge.failed, healthy=sample.healthy))

    def refresh(self, now: float) -> None:
        """Remember which processes there are; often while they are being made."""
        if now < self.next_refresh:
            return
        self.next_refresh = now + (30.0 if self.is_ready() else 2.0)
        table = scan()
        for member in self.members.values():
            member.refresh(table)
        self.on_change("")
