"""A run: starts, judges, starts again or ends, and keeps its state and exit report."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ascend_v4.errors import ExitCode

from .attempt import Attempt, Options, Spec
from .guardian import PR_SET_CHILD_SUBREAPER, prctl
from .logs import Masker, Terminal
from .member import Member
from .memory import DeviceUse, MemoryReader, wait_returned
from .notify import Notifier, Watchdog
from .outcome import Failure, Outcome
from .phases import Phase
from .procs import Proc, alive
from .remote import is_event
from .restart import RestartPolicy, Verdict
from .signals import STOPPING, Signals, signal_name
from .state import SCHEMA, RunDir
from .strays import sweep

__all__ = ["Supervisor"]

#: A count within a phase (weights 3/46) is told at most this often, in seconds.
TELL_S = 5.0
#: Our loop does something at least every 30 s; one that did nothing for so long is stuck.
STUCK_S = 75.0


@dataclass
class Supervisor:
    """Runs the members of one run. ``claims`` are locks that its guardians keep held.

    ``on_ready`` is called at each start that serves, with the seconds it took.
    """

    run: RunDir
    specs: Sequence[Spec]
    options: Options
    policy: RestartPolicy
    notifier: Notifier
    terminal: Terminal
    on_ready: Callable[[float], None]
    facts: Mapping[str, Any] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    claims: Sequence[int] = ()
    memory: MemoryReader | None = None
    echo: bool = True
    signals: Signals = field(default_factory=Signals)

    def __post_init__(self) -> None:
        self.known: dict[int, Proc] = {}
        self.attempt: Attempt | None = None
        self.attempts: list[dict[str, Any]] = []
        self.masker = Masker(self.secrets)
        self.told = (0.0, "")
        self.beat = time.monotonic()
        self.state: dict[str, Any] = {
            **self.run.first_state(),
            **self.facts,
        }

    def supervise(self) -> Outcome:
        """Run to the end of the last start; the exit report is written by then."""
        self.signals.collect()
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        outcome = Outcome(Failure(int(ExitCode.FAULT), "fault", "the launcher failed"))
        try:
            with Watchdog(self.notifier, self.healthy):
                baseline, stopped = self.baseline()
                outcome = Outcome(stopped_by=stopped)
                if stopped is None:
                    outcome = self.until_done(self.signals, baseline)
        finally:
            # All is decided; what is left is to tell it and to give everything back.
            self.signals.ignore()
            self.report(outcome)
            prctl(PR_SET_CHILD_SUBREAPER, 0)
        return outcome

    def baseline(self) -> tuple[dict[int, DeviceUse], int | None]:
        """Return the devices' use before the first start, or the signal that came before it."""
        try:
            with self.signals.interruptible():
                # Only a restart needs the baseline, and asking the devices takes seconds.
                found = dict(self.memory()) if self.memory and self.policy.enabled else {}
                return found, None
        except SystemExit as end:
            return {}, int(str(end.code)) - 128

    def until_done(self, signals: Signals, baseline: Mapping[int, DeviceUse]) -> Outcome:
        """Start, and start again as long as the policy says so."""
        while True:
            outcome = self.start_once(signals)
            verdict = self.judge(outcome)
            self.attempts.append({**outcome.to_json(), "restart": verdict.why})
            if verdict.delay_s is None:
                return outcome
            self.notifier.not_ready(verdict.why)
            wrong, stopped = self.memory_back(signals, baseline)
            if stopped is None and wrong:
                return self.memory_kept(outcome, wrong)
            if stopped is None:
                said = outcome.failure.message if outcome.failure else "ended"
                self.say(f"{said}; {verdict.why}")
                self.set("waiting", phase=verdict.why)
                stopped = self.wait(signals, verdict.delay_s)
            if stopped is not None:
                return Outcome(stopped_by=stopped)

    def judge(self, outcome: Outcome) -> Verdict:
        """Return whether to start again; never once somebody asked for the end."""
        if outcome.failure is not None and outcome.asked is not None:
            name = signal_name(outcome.asked)
            return Verdict(None, f"{name} asked for the end while the failed start was ended")
        return self.policy.judge(outcome.code, time.monotonic(), outcome.ready_at)

    def memory_back(
        self, signals: Signals, baseline: Mapping[int, DeviceUse]
    ) -> tuple[list[str], int | None]:
        """Wait for the devices' memory; return what is missing and the signal that came."""
        stopped: int | None = None
        if self.memory is None or not baseline:
            return [], None

        def nap(seconds: float) -> bool:
            nonlocal stopped
            stopped = self.wait(signals, seconds)
            return stopped is not None

        self.set("waiting", phase="waiting for device memory")
        return wait_returned(self.memory, baseline, sleep=nap), stopped

    def start_once(self, signals: Signals) -> Outcome:
        """Start all members and stay until the last of their processes is gone."""
        self.policy.started(time.monotonic())
        self.state["starts"] += 1
        self.set("starting", ready_at=None)
        self.attempt = Attempt(
            self.specs, self.options, signals, self.start, self.became_ready, self.changed
        )
        outcome = Outcome()
        try:
            outcome = self.attempt.run()
        finally:
            killed, left = sweep(self.run.run_id, self.known)
            outcome.killed += killed
            # A guardian may name what only just died; the last look counts.
            # What is no process here, a container or another node, has no second look.
            outcome.left = left + [one for one in outcome.left if not one["pid"]]
        return outcome

    def memory_kept(self, outcome: Outcome, wrong: list[str]) -> Outcome:
        """Return the outcome of a restart that was refused because memory didn't come back."""
        text = f"no restart: {'; '.join(wrong)}"
        code = int(ExitCode.NOT_CLEANED_UP)
        outcome.failure = Failure(code, "memory-not-returned", text, "ascend-v4 reap")
        return outcome

    def wait(self, signals: Signals, seconds: float) -> int | None:
        """Sleep; return the signal that ended it early, if one that stops did."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.beat = time.monotonic()
            select.select([signals], [], [], min(left, STUCK_S / 3))
            for number in signals.take():
                if number in STOPPING:
                    return number
        return None

    def start(self, spec: Spec) -> Member:
        """Start one member with its log."""
        # A node's own error line, the only one of a deployment too, is not ours.
        several = len(self.specs) > 1 or spec.remote is not None
        prefix = f"{spec.name} | " if several else ""
        sinks: list[Callable[[str], None]] = [spec.remote] if spec.remote else []
        if self.echo:
            sinks.append(lambda line: None if is_event(line) else self.terminal.put(prefix + line))
        member = Member(
            self.run.run_id,
            spec.name,
            spec.argv,
            spec.env,
            self.run.log(spec.name),
            self.masker,
            self.claims,
            sinks,
            cleanup=spec.cleanup,
        )
        if spec.remote is None:
            # A node tells its own phases.
            member.phases.on_change = lambda phase: self.on_phase(spec.name, phase)
        return member

    def healthy(self) -> bool:
        """Whether our loop turns and no member that serves hangs; for systemd's watchdog."""
        attempt = self.attempt
        serves = self.state["state"] in ("ready", "failing") and attempt is not None
        hung = serves and attempt and any(one.hung for one in attempt.liveness.values())
        return not hung and time.monotonic() - self.beat < STUCK_S

    # Telling

    def on_phase(self, name: str, phase: Phase) -> None:
        """Tell a new phase of the start; called by the thread that reads the log."""
        attempt = self.attempt
        if attempt is None or attempt.is_ready():
            return
        now = time.monotonic()
        text = f"{name}: {phase.text()}" if len(self.specs) > 1 else phase.text()
        at, last = self.told
        if last == f"{name}/{phase.id}" and now - at < TELL_S and phase.done != phase.total:
            return
        self.told = (now, f"{name}/{phase.id}")
        elapsed = now - attempt.began
        self.say(f"phase after {elapsed:.0f} s: {text} (deadline {self.options.deadline_s:g} s)")
        self.notifier.status(text)

    def say(self, text: str) -> None:
        """Put a status line among the lines of the log, on stderr."""
        self.terminal.put(f"ascend-v4: {self.masker(text)}")

    def became_ready(self, seconds: float) -> None:
        """Tell everyone that the run serves."""
        self.set("ready", ready_at=time.time(), phase="serving", ready_s=round(seconds, 3))
        self.notifier.ready(self.facts)
        self.on_ready(seconds)

    def changed(self, what: str) -> None:
        """Keep the state file up to date.

        ``what`` is ``draining``, ``failing``, a remark or nothing.
        """
        attempt = self.attempt
        self.beat = time.monotonic()
        if attempt is None:
            return
        self.known = {p.pid: p for p in self.known.values() if alive(p.pid, p.start)}
        for member in attempt.members.values():
            self.known.update(member.known)
        if what == "draining":
            self.notifier.not_ready("draining", stopping=True)
            self.set("draining")
        elif what == "failing":
            # Whoever sends requests must know at once, not when the rest has been ended.
            self.notifier.not_ready("failing")
            self.set("failing")
        elif what:
            self.say(what)
        else:
            self.save()

    def set(self, state: str, **more: object) -> None:
        """Move to another state and write it down."""
        self.state.update({"state": state, **more})
        self.save()

    def save(self) -> None:
        """Write the state file; a full disk stops nothing."""
        if self.attempt is not None:
            members = list(self.attempt.members.values())
            self.state["members"] = [member.state() for member in members if not member.over]
            if self.state["state"] == "starting" and members:
                self.state["phase"] = "; ".join(m.phases.phase.text() for m in members)
        if nodes := [spec.remote.seen() for spec in self.specs if spec.remote]:
            self.state["nodes"] = nodes
        self.run.write("state", self.state)

    def report(self, outcome: Outcome) -> None:
        """Write the exit report and the last state."""
        self.notifier.not_ready("stopped", stopping=True)
        end = {
            "schema": SCHEMA,
            "run_id": self.run.run_id,
            **outcome.to_json(),
            "ended_at": time.time(),
            "attempts": self.attempts,
        }
        self.run.write("exit", end)
        self.set("failed" if outcome.error() else "stopped")
