"""When a failed run is started again: the judgement only, no clock of its own.

The numbers are kubelet's back-off (10 s doubling to 300 s, reset after 10 minutes,
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/) with an end: five
starts within an hour.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ascend_v4.errors import ExitCode

__all__ = ["HOPELESS", "RestartPolicy", "Verdict"]

#: Restarting never helps: the same launch fails the same way, or harm would be done.
HOPELESS = frozenset(range(2, 8)) | frozenset(range(11, 17)) | {ExitCode.FAULT}


@dataclass(frozen=True)
class Verdict:
    """``delay_s`` seconds to wait before the next start, or None not to start, and why."""

    delay_s: float | None
    why: str


@dataclass
class RestartPolicy:
    """``enabled`` is ``--restart on-failure``; times are seconds of a monotonic clock."""

    enabled: bool
    first_s: float = 10.0
    longest_s: float = 300.0
    healthy_s: float = 600.0
    starts: int = 5
    window_s: float = 3600.0
    begun: deque[float] = field(default_factory=deque)
    delay_s: float = 0.0

    def started(self, now: float) -> None:
        """Note that the engine is being started."""
        self.begun.append(now)

    def judge(self, code: int, now: float, ready_at: float | None) -> Verdict:
        """Return what to do after a run ended with our exit ``code``.

        ``ready_at`` is when it became ready, None if it never did.
        """
        if not self.enabled:
            return Verdict(None, "restarts are off")
        if code == 0 or code >= 128:
            return Verdict(None, "it was stopped, or ended by itself without an error")
        if code in HOPELESS:
            return Verdict(None, f"exit code {code}: restarting doesn't help")
        while self.begun and now - self.begun[0] >= self.window_s:
            self.begun.popleft()
        if len(self.begun) >= self.starts:
            span = f"{len(self.begun)} starts within {self.window_s / 60:.0f} minutes"
            return Verdict(None, f"given up after {span}")
        healthy = ready_at is not None and now - ready_at >= self.healthy_s
        longer = self.first_s if healthy or not self.delay_s else self.delay_s * 2
        self.delay_s = min(longer, self.longest_s)
        return Verdict(self.delay_s, f"start {len(self.begun) + 1} in {self.delay_s:.0f} s")
