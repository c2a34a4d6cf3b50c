"""A member that is a launcher on another node, known by the events on its output.

``serve --lease`` writes them, see lease.py. The member's own exit code is ours to pass on:
it stands in the same table.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ascend_v4.errors import ExitCode

from .lease import EVENT
from .member import Member
from .outcome import Failure, how_ended
from .signals import STOPPING, signal_name
from .spec import Spec

__all__ = ["Remote", "first_failure", "is_event", "newly_ready", "unconfirmed"]

#: Seconds between two requests for a completion through the endpoint.
ASK_S = 2.0
#: What sshd and shells say of a command that isn't there or may not run.
NO_PROGRAM = (126, 127)


@dataclass
class Remote:
    """What a node has said so far. ``ending`` judges an end without a word of its own.

    ``code`` is the exit code that the node told as its last word, ``status`` that of the
    way to it; ``silent`` that it answered nothing for ``lease_s`` seconds.
    ``fronts`` marks the node of the endpoint: it is ready only once all others are and it
    has then generated a token.
    """

    node: str
    fronts: bool = False
    lease_s: float = 30.0
    ending: Callable[[int, Sequence[str]], tuple[int, str, str, str] | None] = lambda *_: None
    run_id: str = ""
    state: str = "connecting"
    code: int | None = None
    status: int | None = None
    silent: bool = False
    ready: bool = False
    generated: bool = False
    last: str = ""
    asked_at: float = 0.0
    failure: Failure | None = None
    failed_at: float = 0.0
    error: dict[str, Any] = field(default_factory=dict)
    wake: Callable[[], None] = lambda: None

    def begin(self, wake: Callable[[], None]) -> None:
        """Forget an earlier start; ``wake`` is called when there is news."""
        self.run_id, self.state, self.last, self.wake = "", "connecting", "", wake
        self.ready = self.generated = self.silent = False
        self.failure, self.error = None, {}
        self.code = self.status = None

    def __call__(self, line: str) -> None:
        """Take one line of the node's output; what is no event of ours is its log."""
        if not line.startswith("{"):
            return
        try:
            said = json.loads(line)
        except ValueError:
            return
        # Before the engine runs, and logs, any error is ours: an old launcher's, the parser's.
        if isinstance(said.get("error"), dict) and (EVENT in said or not self.run_id):
            self.error = said["error"]
        if EVENT in said:
            self._take(str(said[EVENT]), said)
            self.wake()

    def seen(self) -> dict[str, Any]:
        """Return the node as ``status`` shows it."""
        state = self.state
        if self.status is not None and state != "failed":
            state = "unknown" if self.unheard() else "stopped"
        return {"name": self.node, "state": state, "run_id": self.run_id}

    def over(self, status: int) -> None:
        """Note that the way to the node ended."""
        self.status = status

    def unheard(self) -> bool:
        """Whether nobody knows how the node ended; a way that started nothing left nothing."""
        killed = self.status is None or self.status < 0
        return self.code is None and (killed or self.silent or bool(self.run_id))

    def left(self) -> dict[str, Any]:
        """Return what the node could not clean up, for the exit report."""
        said = self.error.get("message", "something of it is left")
        return {"pid": 0, "start": 0, "state": "?", "title": f"node {self.node}: {said}"}

    def _take(self, event: str, said: dict[str, Any]) -> None:
        if event == "started":
            self.run_id, self.state = str(said.get("run_id")), "starting"
        elif event == "ready":
            self.ready, self.state = True, "ready"
        elif event == "generated":
            self.generated, self.last = said.get("ok") is True, str(said.get("last"))
        elif event == "ended":
            self.code = int(said["code"])
        elif event == "silent":
            self.silent = True
        elif event == "failed" and self.failure is None:
            self.state = "failed"
            self.failure, self.failed_at = self._named(said["failure"]), time.monotonic()

    def _named(self, said: dict[str, Any]) -> Failure:
        """Return the node's failure, with the node's name in it.

        Its next command is for a shell there; its log is here too, see ``ended``.
        """
        hint = str(said.get("next", ""))
        own_log = bool(self.run_id) and self.run_id in hint
        return Failure(
            known(said.get("code")),
            str(said.get("kind", "engine-died")),
            f"node {self.node}: {said.get('message', 'it failed')}",
            f"on {self.node}: {hint}" if hint and not own_log else "",
            self.node,
            said.get("engine_status"),
            str(said.get("phase", "")),
            str(said.get("first_error", "")),
        )

    def ended(self, member: Member) -> Failure:
        """Return the failure of a node whose launcher ended though nobody asked it to."""
        failure = self.failure or self._unsaid(member)
        failure.tail = log_of(member)
        failure.next = failure.next or f"ascend-v4 logs {member.run_id} --member {self.node}"
        return failure

    def _unsaid(self, member: Member) -> Failure:
        self.state = "failed"
        status = member.exit_status if member.exit_status is not None else -9
        if self.error:
            return self._named(self.error)
        if self.code is not None:
            return self._told(self.code)
        judged = None if self.silent else self.ending(status, log_of(member))
        if judged is not None:
            code, kind, message, hint = judged
            return self._failed(code, kind, message + self._later(), status, hint)
        if self.unheard() or status > 128:
            code, kind = int(ExitCode.UNREACHABLE), "node-lost"
            message = f"the way to it ended ({how_ended(status)}) before it told its end"
            if self.silent:
                message = f"no word came from it for {self.lease_s:g} s"
            return self._failed(code, kind, message + self._later(), status)
        if status in NO_PROGRAM:
            said = next((line for line in reversed(log_of(member)) if line.strip()), "no word")
            message = f"ascend-v4 can't be run there (exit code {status}): {said}"
            return self._failed(int(ExitCode.HOST_NOT_READY), "no-program", message, status)
        return self._told(status)

    def _later(self) -> str:
        return f"; what ran there ends within {self.lease_s:g} s by its lease" * bool(self.run_id)

    def _told(self, code: int) -> Failure:
        """Return the failure of a launcher that ended there with a code and no other word."""
        kind, message = "node-ended", f"its launcher ended with {how_ended(code)}"
        if code > 128:
            stopped = code - 128 in STOPPING
            kind = "node-stopped" if stopped else "node-killed"
            how = "stopped" if stopped else "killed"
            message = f"its launcher was {how} there by {signal_name(code - 128)}"
        return self._failed(known(code), kind, message, code)

    def _failed(self, code: int, kind: str, what: str, status: int, hint: str = "") -> Failure:
        return Failure(code, kind, f"node {self.node}: {what}", hint, self.node, status)


def log_of(member: Member) -> list[str]:
    """Return the end of a node's log, without the events."""
    return [line for line in member.tail.text() if not is_event(line)]


def is_event(line: str) -> bool:
    """Whether a line of a node's output is an event, which is not for people."""
    return line.startswith(f'{{"{EVENT}":')


def known(value: object) -> int:
    """Return a node's exit code if the table has it and it is no success, else 9."""
    try:
        return int(ExitCode(int(value))) or int(ExitCode.ENGINE_DIED)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return int(ExitCode.ENGINE_DIED)


def newly_ready(
    specs: Sequence[Spec], members: dict[str, Member], ready: set[str], now: float
) -> list[str]:
    """Return the nodes that are ready and weren't; asks the endpoint's for a last completion."""
    found = []
    waiting = [spec for spec in specs if spec.remote and spec.name not in ready]
    for spec in waiting:
        remote = spec.remote
        if remote is None or not remote.ready:
            continue
        if remote.fronts and len(ready) < len(specs) - 1:
            continue
        if remote.fronts and not remote.generated:
            if now - remote.asked_at >= ASK_S:
                remote.asked_at = now
                members[spec.name].signal(signal.SIGUSR1)
            continue
        found.append(spec.name)
    return found


def unconfirmed(specs: Sequence[Spec], members: dict[str, Member]) -> list[dict[str, Any]]:
    """Return the nodes that never told whether they ended what ran there, see ``Outcome``."""
    found = []
    for spec in specs:
        member = members.get(spec.name)
        if spec.remote is None or member is None:
            continue
        if spec.remote.unheard():
            found.append({"node": spec.remote.node, "within_s": spec.remote.lease_s})
    return found


def first_failure(specs: Sequence[Spec], members: dict[str, Member]) -> Failure | None:
    """Return the failure that a node told first, with the end of its log."""
    told = [spec.remote for spec in specs if spec.remote and spec.remote.failure]
    if not told:
        return None
    remote = min(told, key=lambda one: one.failed_at)
    return remote.ended(members[remote.node])
