"""Alive means progressing: probes and the engine's own counters, judged together.

A server is hung only when probes keep failing *and* no counter has moved since the first
of them failed. A long prefill moves counters or the KV cache's use; a server that shows
no counters is never called hung while ``/health`` answers, because then nobody knows.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .http import request
from .ready import ReadyProbe

__all__ = ["Liveness", "Prober", "Sample", "parse_progress"]

#: What moves when the engine works: token counters, steps, and the use of the KV cache.
PROGRESS = re.compile(
    rb"^vllm:(?:prompt_tokens_total|generation_tokens_total|iteration_tokens_total_(?:sum|count)"
    rb"|kv_cache_usage_perc|gpu_cache_usage_perc|request_success_total)(?:\{[^\n]*\})? (\S+)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Sample:
    """One look at the server: the probe, ``/health`` and what its counters showed.

    ``progress`` is a value that differs whenever the engine did something, ``b""`` if the
    server shows no counters.
    """

    generated: bool
    healthy: bool
    progress: bytes = b""


@dataclass
class Liveness:
    """The judgement; ``failures`` probes in a row without progress make a hang."""

    failures: int = 3
    failed: int = 0
    seen: bytes | None = None
    hung: bool = False

    def judge(self, sample: Sample) -> bool:
        """Take a sample; return whether the server is hung."""
        moved = self.seen is not None and sample.progress not in (b"", self.seen)
        if sample.progress:
            self.seen = sample.progress
        if sample.generated or moved:
            self.failed, self.hung = 0, False
            return False
        self.failed += 1
        # A page of counters that can't be read shows neither progress nor a standstill.
        blind = not sample.progress and sample.healthy
        self.hung = self.failed >= self.failures and not blind
        return self.hung


def parse_progress(metrics: bytes) -> bytes:
    """Return the values of the progress counters in a ``/metrics`` page, b"" if there are none."""
    return b" ".join(PROGRESS.findall(metrics))


def look(probe: ReadyProbe, timeout_s: float) -> Sample:
    """Return a sample of the server; never raises. Waits at most about three timeouts."""
    generated = probe.generated(timeout_s)
    healthy = generated or probe.healthy()
    if probe.transfers:
        return Sample(generated, healthy, probe.transfers.progress(timeout_s))
    try:
        reply = request(probe.url, "/metrics", key=probe.key, timeout_s=timeout_s)
        progress = parse_progress(reply.body) if reply.status == 200 else b""
    except OSError:
        progress = b""
    return Sample(generated, healthy, progress)


@dataclass
class Call:
    """One call under way, since ``since`` on the monotonic clock."""

    since: float
    done: bool = False
    result: object = None


class Prober:
    """Runs probes in a thread, so that a server that never answers holds up nothing of ours.

    ``wake`` is called from the thread when a result can be taken.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.call: Call | None = None

    @property
    def since(self) -> float:
        """When the call under way began, on the monotonic clock; 0 without one."""
        return self.call.since if self.call else 0.0

    @property
    def busy(self) -> bool:
        """Whether a probe is under way or its result was not taken yet."""
        return self.call is not None

    def ask(self, call: Callable[[], object]) -> None:
        """Begin one call; only when not busy."""
        self.call = Call(time.monotonic())
        threading.Thread(target=self._run, args=(self.call, call), daemon=True).start()

    def _run(self, slot: Call, call: Callable[[], object]) -> None:
        try:
            slot.result = call()
        except Exception as error:
            slot.result = error
        # Before the wake: the loop looks once, and then sleeps again.
        slot.done = True
        self.wake()

    def take(self) -> object:
        """Return the result of a finished call, else None."""
        if self.call is None or not self.call.done:
            return None
        slot, self.call = self.call, None
        return slot.result

    def drop(self) -> None:
        """Forget a call under way; its result goes nowhere."""
        self.call = None
