"""What a run came to: the first failure, and the exit report that is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ascend_v4.errors import AscendV4Error, ExitCode

from .claims import removal_of
from .member import Member
from .signals import signal_name

__all__ = ["Failure", "Outcome", "died", "hangs", "how_ended", "late"]

KINDS = {
    ExitCode.REFUSED: "engine-refused",
    ExitCode.WEIGHTS_INCOMPLETE: "weights-missing",
    ExitCode.DOES_NOT_FIT: "does-not-fit",
    ExitCode.HOST_NOT_READY: "host-not-ready",
    ExitCode.BUSY: "port-taken",
    ExitCode.WEIGHTS_CORRUPT: "weights-damaged",
}


@dataclass
class Failure:
    """The first thing that went wrong: our exit code, where, and what its log says."""

    code: int
    kind: str
    message: str
    next: str = ""
    member: str = ""
    status: int | None = None
    phase: str = ""
    cause: str = ""
    tail: list[str] = field(default_factory=list)

    def error(self) -> AscendV4Error:
        """Return the failure as the error that the command line prints."""
        return AscendV4Error(ExitCode(self.code), self.kind, self.message, self.next)

    def to_json(self) -> dict[str, Any]:
        """Return the failure for the exit report; ``engine_status`` is the engine's own code."""
        return {
            "code": self.code,
            "kind": self.kind,
            "message": self.message,
            "next": self.next,
            "member": self.member,
            "engine_status": self.status,
            "phase": self.phase,
            "first_error": self.cause,
            "tail": self.tail,
        }


@dataclass
class Outcome:
    """How one start ended: ``stopped_by`` a signal, a ``failure``, or by itself (neither).

    ``asked`` is the first signal that asked for the end, also while a failure was being torn
    down: the failure came first and stays what is told, but nothing is started again.
    ``unconfirmed`` are nodes that were lost before they told their end: ``node``, and
    ``within_s``, the seconds after which their lease is over.
    """

    failure: Failure | None = None
    stopped_by: int | None = None
    asked: int | None = None
    ready_at: float | None = None
    ready_s: float | None = None
    killed: list[dict[str, Any]] = field(default_factory=list)
    left: list[dict[str, Any]] = field(default_factory=list)
    unconfirmed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def code(self) -> int:
        """Return the exit code; what could not be cleaned up outranks all."""
        if self.left:
            return int(ExitCode.NOT_CLEANED_UP)
        if self.failure is None and self.unconfirmed:
            return int(ExitCode.UNREACHABLE)
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return self.failure.code if self.failure else 0

    def error(self) -> AscendV4Error | None:
        """Return the error that the run ended with, None where it was stopped or ended well."""
        if self.left:
            return self.uncleaned()
        if self.failure is not None:
            return None if self.stopped_by is not None else self.failure.error()
        return self.unsure() if self.unconfirmed else None

    def unsure(self) -> AscendV4Error:
        """Return the error that names the nodes which were lost before they told their end."""
        texts = [
            f"node {one['node']}: its end is not confirmed; its lease ends what runs there"
            f" within {one['within_s']:g} s"
            for one in self.unconfirmed
        ]
        hint = "ask it again: ascend-v4 cluster down -f TOPOLOGY"
        text = "\n  also ".join(texts)
        return AscendV4Error(ExitCode.UNREACHABLE, "not-confirmed", text, hint)

    def uncleaned(self) -> AscendV4Error:
        """Return the error that names what could not be ended, or is not known to have."""
        boxes = [p["title"] for p in self.left if p["title"].startswith("container ")]
        stuck = [p for p in self.left if p["title"] not in boxes]
        names = ", ".join(
            f"{p['title']} (pid {p['pid']}, state {p['state']})" if p["pid"] else p["title"]
            for p in stuck
        )
        said = [f"{len(stuck)} processes of the run can't be killed: {names}"] if stuck else []
        said += [f"docker does not say that it is gone: {box}" for box in boxes]
        hint = (
            "they wait in the kernel or a driver: see dmesg, reset the device, ascend-v4 reap"
            if stuck
            else f"claims stay, and its removal is tried again, until it is: {removal_of(boxes)}"
        )
        return AscendV4Error(
            ExitCode.NOT_CLEANED_UP, "not-cleaned-up", "\n  also ".join(said), hint
        )

    def to_json(self) -> dict[str, Any]:
        """Return the outcome for the exit report."""
        return {
            "code": self.code,
            "stopped_by": signal_name(self.stopped_by) if self.stopped_by else None,
            "ready_s": round(self.ready_s, 3) if self.ready_s is not None else None,
            "failure": self.failure.to_json() if self.failure else None,
            "killed": self.killed,
            "left": self.left,
            "unconfirmed": self.unconfirmed,
        }


def how_ended(status: int) -> str:
    """Return ``exit code 3`` or ``signal SIGKILL`` for a subprocess status."""
    return f"signal {signal_name(-status)}" if status < 0 else f"exit code {status}"


def died(member: Member, *, ready: bool, alone: bool) -> Failure:
    """Return the failure of a member whose main process ended though nobody asked it to."""
    status = member.exit_status if member.exit_status is not None else -9
    cause = member.phases.cause()
    phase = member.phases.phase
    who = "the engine" if alone else f"{member.name}"
    when = "while it served" if ready else f"before it was ready (phase: {phase.text()})"
    code, kind = int(ExitCode.ENGINE_DIED), "engine-died"
    if cause is not None and cause.id and not ready:
        code, kind = cause.code, KINDS.get(ExitCode(cause.code), kind)
    message = f"the engine ended with {how_ended(status)} {when}"
    if not alone:
        message = message.replace("the engine", who, 1)
    if cause is not None:
        known = f"{cause.says}: " if cause.says else ""
        message += f"; first error: {known}{cause.line}"
    return Failure(
        code,
        kind,
        message,
        f"ascend-v4 logs {member.run_id} --member {member.name}",
        member.name,
        status,
        phase.text(),
        cause.line if cause else "",
        member.tail.text(),
    )


def late(name: str, member: Member | None, deadline_s: float, last: str, *, alone: bool) -> Failure:
    """Return the failure of a start that took longer than ``deadline_s``, with its phase.

    ``member`` is None where it was not started; ``last`` is what its probe saw last.
    """
    phase = member.phases.phase.text() if member else "not started"
    cause = member.phases.cause() if member else None
    return Failure(
        int(ExitCode.NOT_READY_IN_TIME),
        "not-ready",
        f"{'the server' if alone else name} generated no token before the "
        f"deadline of {deadline_s:g} s; phase: {phase}; last seen: {last}",
        "read the log; --deadline SECONDS allows more time",
        name,
        None,
        phase,
        cause.line if cause else "",
        member.tail.text() if member else [],
    )


def hangs(member: Member, failed: int, *, healthy: bool) -> Failure:
    """Return the failure of a server that generates nothing: dead where its log says so.

    vLLM can take long to end after its engine core died; until then it refuses requests.
    """
    name, cause = member.name, member.phases.cause()
    hint = f"ascend-v4 logs {member.run_id} --member {name}"
    if member.phases.lost:
        said = f"; first error: {cause.line}" if cause else ""
        text = f"the engine of {name} lost a part and does not end by itself{said}"
        code, kind = ExitCode.ENGINE_DIED, "engine-died"
    else:
        says = "says 200" if healthy else "does not answer either"
        text = (
            f"{name} hangs: {failed} one-token probes failed and no counter moved; /health {says}"
        )
        code, kind = ExitCode.HUNG, "hung"
    first = cause.line if cause and member.phases.lost else ""
    return Failure(int(code), kind, text, hint, name, cause=first, tail=member.tail.text())
