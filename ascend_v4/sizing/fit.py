"""The verdict: does the launch fit, with the figures that decide it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ascend_v4.errors import ExitCode

from .generic import generic_pool
from .inputs import SizingInput
from .memory import Budget, budget_of
from .pool import GIB, Pool, PoolResult, pool_of
from .weights import Interval

__all__ = ["Sizing", "size"]

Verdict = Literal["fits", "does not fit", "unsure"]
EXIT = {"fits": ExitCode.DONE, "does not fit": ExitCode.DOES_NOT_FIT, "unsure": ExitCode.UNSURE}


@dataclass(frozen=True)
class Sizing:
    """A sized launch. ``low`` and ``high`` are the pool at the ends of the available KV."""

    input: SizingInput
    verdict: Verdict
    reason: str
    budget: Budget | None
    available: Interval | None
    pool: Pool | None = None
    low: PoolResult | None = None
    high: PoolResult | None = None

    @property
    def exit_code(self) -> int:
        """Return the exit code of the verdict."""
        return int(EXIT[self.verdict])

    @property
    def exact(self) -> bool:
        """Whether the KV memory was given, so that every KV figure is one number."""
        return self.input.available is not None

    def longest(self, end: str = "low") -> int:
        """Return the longest context of one request at an end of the interval, tokens."""
        if self.pool is None or self.available is None:
            return 0
        gib = self.available.low if end == "low" else self.available.high
        limit = int(self.input.model.get("max_context") or 1048576)
        return self.pool.longest_context(int(gib * GIB), self.input.in_flight, limit)


def wanted_requests(sizing: SizingInput) -> int | None:
    """Return the requests each replica must hold for the asked concurrency, None if not asked."""
    return -(-sizing.concurrency // sizing.dp) if sizing.concurrency else None


def size(sizing: SizingInput) -> Sizing:
    """Return the verdict on a launch.

    Raises AscendV4Error for contradictory input and GroupingError where the engine's own
    grouping would stop.
    """
    if sizing.model["kind"] == "v4":
        return size_v4(sizing)
    return size_generic(sizing)


def available_of(sizing: SizingInput) -> tuple[Interval | None, Budget | None]:
    """Return the KV memory of a device in GiB, and the budget behind it."""
    budget = budget_of(sizing)
    if sizing.available is not None:
        return Interval(sizing.available / GIB, sizing.available / GIB), budget
    return (budget.available if budget else None), budget


def size_v4(sizing: SizingInput) -> Sizing:
    """Return the verdict on a DeepSeek-V4 launch."""
    available, budget = available_of(sizing)
    if sizing.release is None:
        return no_arithmetic(sizing, available, budget)
    pool = pool_of(sizing.model, sizing.layout, sizing.spec, sizing.pp)
    if available is None:
        reason = f"the memory of {sizing.chip} isn't known; give it with --available-kv-gib"
        return Sizing(sizing, "unsure", reason, budget, None, pool)
    exact = sizing.available
    ends = [exact if exact is not None else int(end * GIB) for end in available]
    low, high = (pool.result(end, sizing.context, sizing.in_flight) for end in ends)
    verdict, reason = judge(sizing, low, high)
    return Sizing(sizing, verdict, reason, budget, available, pool, low, high)


def no_arithmetic(sizing: SizingInput, available: Interval | None, budget: Budget | None) -> Sizing:
    """Return the verdict where the KV arithmetic isn't known: only weights can decide."""
    if available is not None and available.high <= 0:
        return Sizing(sizing, "does not fit", "the weights alone don't fit", budget, available)
    return Sizing(sizing, "unsure", sizing.unknown, budget, available)


def enough(result: PoolResult, requests: int | None) -> bool:
    """Whether a pool starts, and holds so many requests of the context at once."""
    return result.starts and (requests is None or result.max_concurrency >= requests)


def judge(sizing: SizingInput, low: PoolResult, high: PoolResult) -> tuple[Verdict, str]:
    """Return the verdict by the two ends of the available memory, and the deciding line."""
    requests = wanted_requests(sizing)
    need = max(low.startup_need, (requests or 0) * low.request_bytes) / GIB
    have = f"{low.available / GIB:.2f} GiB"
    if low.available != high.available:
        have = f"{low.available / GIB:.2f} to {high.available / GIB:.2f} GiB"
    many = f"{requests} requests a replica, each" if requests else "one request"
    says = f"{many} of {sizing.context:,} tokens: {need:.2f} GiB of KV; a device has {have}"
    if enough(low, requests):
        return "fits", says
    if not enough(high, requests):
        if high.available <= 0:
            return "does not fit", (
                f"the weights and what else the engine takes leave nothing for KV; {says}"
            )
        return "does not fit", says
    return "unsure", says


def size_generic(sizing: SizingInput) -> Sizing:
    """Return the verdict on another architecture, by general rules and marked as such."""
    block = sizing.block_size if sizing.engine == "vllm-ascend" else 16
    pool: Any = generic_pool(sizing.model, block, sizing.tp, sizing.pp)
    available, budget = available_of(sizing)
    if available is None:
        unknown = "weights of this model" if sizing.memory_gib else f"GiB of {sizing.chip}"
        reason = f"the {unknown} aren't known; give what is left for KV with --available-kv-gib"
        return Sizing(sizing, "unsure", reason, budget, None)
    exact = sizing.available
    ends = [exact if exact is not None else int(end * GIB) for end in available]
    low, high = (generic_result(pool, end, sizing.context) for end in ends)
    verdict, reason = judge(sizing, low, high)
    return Sizing(sizing, verdict, reason, budget, available, None, low, high)


def generic_result(pool: Any, available: int, context: int) -> PoolResult:
    """Return the reckoning of an even pool."""
    blocks, num = pool.blocks(context), pool.num_blocks(available)
    return PoolResult(
        available=available,
        bytes_per_block=pool.bytes_per_block,
        num_blocks=num,
        in_flight_tokens=0,
        blocks_per_request=blocks,
        request_bytes=blocks * pool.bytes_per_block,
        startup_need=blocks * pool.bytes_per_block,
        starts=0 < blocks <= num,
        max_concurrency=num / blocks,
        log_max_concurrency=num / blocks,
        log_kv_tokens=int(num / blocks * context),
    )


def with_context(sizing: SizingInput, **changes: Any) -> Sizing:
    """Return the verdict with some inputs changed."""
    return size(replace(sizing, **changes))
