"""The order in which members end when a run that serves is asked to stop.

On TERM vLLM takes nothing new and finishes what runs, but only in the engines that the
process with the API owns. With several API servers (vLLM's default for several replicas)
or with ranks on other nodes the connections are cut at once (measured 2026-11-29 with vLLM
0.32.0: four of four requests lost). So what takes requests ends first, and where vLLM
would cut them it gets its TERM when its own counters show that nothing runs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .http import request
from .member import Member
from .ready import ReadyProbe
from .spec import Spec

__all__ = ["Drain", "in_flight"]

#: Seconds between two questions; two answers in a row must say that nothing runs.
ASK_S = 0.25
QUIET = 2
#: After so many questions without a number nobody will know, and TERM is sent.
BLIND = 3
#: Seconds that one question may take.
TIMEOUT_S = 5.0

RUNNING = re.compile(rb"^vllm:num_requests_(?:running|waiting)(?:\{[^\n]*\})? (\S+)$", re.MULTILINE)


def in_flight(probe: ReadyProbe) -> float | None:
    """Return how many requests run or wait in a server, None where it doesn't say."""
    try:
        reply = request(probe.url, "/metrics", key=probe.key, timeout_s=TIMEOUT_S)
        counts = [float(value) for value in RUNNING.findall(reply.body)]
    except (OSError, ValueError):
        return None
    return sum(counts) if reply.status == 200 and counts else None


@dataclass
class Drain:
    """Who is asked to end, and when; ``seconds`` bounds the whole, ``number`` asks.

    Members before others (routers, the node of the endpoint) come first, the rest when
    those are gone. One that would cut requests is asked when nothing runs in it.
    """

    specs: Sequence[Spec]
    number: int
    seconds: float
    told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.until = time.monotonic() + self.seconds
        first = {spec.name for spec in self.specs if spec.fronts}
        self.first = first or {spec.name for spec in self.specs}
        self.quiet = {s.name: 0 for s in self.specs if s.cuts_requests and s.probe}
        self.blind = dict.fromkeys(self.quiet, 0)
        self.asked, self.next_ask = "", 0.0

    def due(self, members: Mapping[str, Member]) -> list[str]:
        """Return the members to ask now; each is returned once."""
        late = time.monotonic() >= self.until
        gone = all(ended(members.get(name)) for name in self.first)
        found = []
        for spec in self.specs:
            name = spec.name
            turn = late or gone or name in self.first
            idle = late or self.quiet.get(name, QUIET) >= QUIET or self.blind[name] >= BLIND
            if turn and idle and name not in self.told and name in members:
                found.append(name)
        self.told.update(found)
        return found

    def question(self) -> Callable[[], object] | None:
        """Return what is to be asked now, in a thread; its answer goes to :meth:`heard`."""
        now = time.monotonic()
        waiting = [s for s in self.specs if s.name in self.quiet and s.name not in self.told]
        if not waiting or now < self.next_ask:
            return None
        # One after the other: each waits for its own requests.
        spec = min(waiting, key=lambda s: s.name == self.asked)
        self.asked, self.next_ask = spec.name, now + ASK_S / len(waiting)
        probe = spec.probe
        return (lambda: (in_flight(probe),)) if probe else None

    def heard(self, answer: object) -> None:
        """Take the answer to the last question."""
        count = answer[0] if isinstance(answer, tuple) else None
        if count is None:
            self.blind[self.asked] += 1
        else:
            self.blind[self.asked] = 0
            self.quiet[self.asked] = 0 if count else self.quiet[self.asked] + 1


def ended(member: Member | None) -> bool:
    """Whether a member's main process has ended, or never began."""
    return member is None or member.over or member.exit_status is not None
