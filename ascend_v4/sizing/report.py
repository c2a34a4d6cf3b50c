"""A sized launch as JSON, as text and as its terms, each with its source."""

from __future__ import annotations

from typing import Any

from .fit import Sizing
from .layouts import nearest, ranked_layouts, token_cost
from .memory import Budget
from .pool import GIB, PoolResult
from .throughput import interpolated, prefill_decode
from .weights import Interval, device_weights

__all__ = ["bar", "kv_json", "sizing_json", "terms"]

BAR = 50


def pair(values: Interval) -> list[float]:
    """Return an interval's two ends for JSON."""
    return [round(values.low, 3), round(values.high, 3)]


def ends(sized: Sizing, name: str) -> Any:
    """Return a figure of the pool: one number where the memory was given, else both ends."""
    assert sized.low is not None and sized.high is not None
    low, high = getattr(sized.low, name), getattr(sized.high, name)
    return low if sized.exact else [low, high]


def kv_json(sized: Sizing) -> dict[str, Any] | None:
    """Return the KV part as JSON, None where nothing is known of it.

    ``gib_per_request`` is what a request takes of the pool; ``startup_need_gib`` what the
    release's own check asks, which up to 0.28 counts a little differently.
    """
    low = sized.low
    if low is None or sized.available is None:
        return None
    sizing = sized.input
    given = sizing.available is not None
    pool = sized.pool
    return {
        "available_gib": sized.available.low if given else pair(sized.available),
        "bytes_per_block": low.bytes_per_block,
        "num_blocks": ends(sized, "num_blocks"),
        "in_flight_tokens": low.in_flight_tokens,
        "blocks_per_request": low.blocks_per_request,
        "gib_per_request": low.request_bytes / GIB,
        "fixed_gib_per_request": fixed_bytes(sized) / GIB,
        "bytes_per_token": round(token_bytes(sized), 1),
        "startup_need_gib": low.startup_need / GIB,
        "starts": ends(sized, "starts"),
        "max_concurrency": ends(sized, "max_concurrency"),
        "log_max_concurrency": ends(sized, "log_max_concurrency"),
        "log_kv_tokens": ends(sized, "log_kv_tokens"),
        "groups": [len(group) for group in pool.groups] if pool else [int(sizing.model["layers"])],
        "replicas": sizing.dp,
        "formula": "release" if pool else "generic",
        "source": (sizing.release or {}).get("source"),
    }


def token_bytes(sized: Sizing) -> float:
    """Return the bytes that one more token of context costs, far from the window."""
    low = sized.low
    assert low is not None
    if sized.pool is None:
        return low.request_bytes / max(1, sized.input.context)
    far, step = 1 << 24, 1 << 20
    blocks = sized.pool.blocks(far + step, 1) - sized.pool.blocks(far, 1)
    return blocks * low.bytes_per_block / step


def fixed_bytes(sized: Sizing) -> float:
    """Return what a request takes beside its tokens: windows, states and tokens in flight."""
    low = sized.low
    assert low is not None
    return max(0.0, low.request_bytes - token_bytes(sized) * sized.input.context)


def budget_json(budget: Budget | None) -> dict[str, Any]:
    """Return the memory of a device as JSON."""
    if budget is None:
        return {"weights_gib_per_device": None, "calibrated": False, "anchor": None}
    weights = budget.weights
    return {
        "weights_gib_per_device": round(weights.estimate, 3)
        if weights.estimate is not None
        else pair(weights.bounds),
        "weights_gib_interval": pair(weights.bounds),
        "weights_source": weights.source,
        "usable_gib_per_device": round(budget.usable, 3),
        "other_gib_per_device": pair(budget.other),
        "calibrated": budget.calibrated,
        "anchor": budget.anchor or None,
        "anchor_source": budget.source,
    }


def sizing_json(sized: Sizing, findings: list[Any], flags: list[str]) -> dict[str, Any]:
    """Return the whole answer of ``plan --json``."""
    sizing = sized.input
    longest = [sized.longest("low"), sized.longest("high")]
    return {
        "verdict": sized.verdict,
        "reason": sized.reason,
        "model": {"id": sizing.model.get("id"), "checkpoint": sizing.checkpoint.get("id")},
        "engine": {"name": sizing.engine, "version": sizing.version},
        "chip": sizing.chip,
        "layout": {
            "devices": sizing.devices,
            "tensor_parallel_size": sizing.tp,
            "data_parallel_size": sizing.dp,
            "pipeline_parallel_size": sizing.pp,
            "expert_parallel_size": sizing.tp * sizing.dp if sizing.model["kind"] == "v4" else None,
        },
        "context": sizing.context,
        "concurrency_asked": sizing.concurrency,
        "spec": sizing.spec,
        "max_num_batched_tokens": sizing.batched_tokens,
        "asynchronous": sizing.asynchronous,
        "gpu_memory_utilization": sizing.utilization,
        **budget_json(sized.budget),
        "draft_weights_gib_per_device": round(draft_gib(sized), 3),
        "communication_buffers": buffers(sized),
        "kv": kv_json(sized),
        "longest_context": longest[0] if sized.exact else longest,
        "tokens_of_context_per_batched_token": round(token_cost(sized), 1),
        "layouts": ranked_layouts(sizing),
        "prefill_decode": prefill_decode(sizing),
        "nearest": [] if sized.verdict == "fits" else nearest(sizing, sized),
        "throughput": interpolated(sizing),
        "flags": flags,
        "findings": [finding.to_json() for finding in findings],
    }


#: HCCL_BUFFSIZE is MB; a communicator takes it twice, to send and to receive.
HCCL = (
    "https://www.hiascend.com/document/detail/en/canncommercial/850/commlib/hcclug/"
    "hcclug_000076.html"
)


def buffers(sized: Sizing) -> dict[str, Any] | None:
    """Return the communicators with more than one rank, and their buffers where a size is set.

    The groups of vLLM itself are counted; vllm-ascend may open more for fused operators.
    """
    sizing, size = sized.input, sized.input.comm_buffer_mb
    if sizing.devices <= 1 or sizing.model["kind"] != "v4":
        return None
    named = {"tensor": sizing.tp, "data": sizing.dp, "expert": sizing.tp * sizing.dp}
    named["pipeline"] = sizing.pp
    used = [name for name, ranks in named.items() if ranks > 1]
    library = "HCCL" if sizing.engine == "vllm-ascend" else "NCCL"
    said: dict[str, Any] = {"library": library, "count": len(used), "of": used}
    if size is None:
        note = "within other_gib_per_device; the launch states no size"
        return {**said, "mb_each": None, "gib": None, "note": note}
    return {
        **said,
        "mb_each": 2 * size,
        "gib": round(2 * size * len(used) / 1024, 2),
        "note": "taken once a communicator is used, within other_gib_per_device",
        "source": HCCL,
    }


def draft_gib(sized: Sizing) -> float:
    """Return the GiB of a device that the draft layers' weights take, by the arithmetic."""
    sizing = sized.input
    layout = (sizing.tp, sizing.dp, sizing.pp)
    with_drafts, without = (
        device_weights(sizing.model, sizing.checkpoint, spec, layout).bounds.low
        for spec in (sizing.spec, "none")
    )
    return with_drafts - without


def bar(sized: Sizing) -> str:
    """Return the memory of a device as one line: weights W, other o, KV k, unused a dot."""
    budget, sizing = sized.budget, sized.input
    if budget is None or sizing.memory_gib is None:
        return ""
    scale = BAR / sizing.memory_gib
    weights = min(BAR, round(budget.weights.bounds.low * scale))
    other = min(BAR - weights, round(budget.other.low * scale))
    doubt = round((budget.available.high - budget.available.low) * scale)
    kv = min(BAR - weights - other, round(budget.available.low * scale))
    doubt = max(0, min(BAR - weights - other - kv, doubt))
    free = BAR - weights - other - kv - doubt
    line = "W" * weights + "o" * other + "?" * doubt + "k" * kv + "." * free
    return f"[{line}] {sizing.memory_gib:g} GiB"


def terms(sized: Sizing) -> list[tuple[str, str, str]]:
    """Return every term as (name, value, source), in the order of the arithmetic."""
    sizing, budget, low = sized.input, sized.budget, sized.low
    rows: list[tuple[str, str, str]] = []
    kernel = str((sizing.release or {}).get("source", ""))
    pages = str((sizing.caches or {}).get("source", ""))
    if budget is not None:
        rows += [
            ("device memory", f"{sizing.memory_gib:g} GiB", "catalog, chips"),
            ("usable", f"{budget.usable:.2f} GiB", "memory x --gpu-memory-utilization"),
            ("weights", span(budget.weights.bounds), budget.weights.source),
            ("everything else", span(budget.other), budget.source),
        ]
    if sized.available is not None:
        rows.append(("available for KV", span(sized.available), "usable - weights - else"))
    if sized.pool is not None and low is not None:
        for number, group in enumerate(sized.pool.groups):
            first = group[0]
            what = f"window {first.window}" if first.window else f"{first.covers} tokens a block"
            size = sum(cache.page for cache in group)
            rows.append((f"group {number}", f"{len(group)} caches, {what}, {size:,} B", pages))
        rows += pool_terms(sized, low, kernel)
    return rows


def pool_terms(sized: Sizing, low: PoolResult, source: str) -> list[tuple[str, str, str]]:
    """Return the terms of the pool itself."""
    sizing = sized.input
    high = sized.high or low
    many = f"{low.num_blocks:,}" if sized.exact else f"{low.num_blocks:,} to {high.num_blocks:,}"
    flying = f"{low.in_flight_tokens // sizing.batched_tokens} x {sizing.batched_tokens}"
    return [
        ("bytes per block", f"{low.bytes_per_block:,}", source),
        ("blocks", many, "available // bytes per block"),
        ("tokens in flight", f"{low.in_flight_tokens:,} ({flying})", source),
        (
            "blocks per request",
            f"{low.blocks_per_request:,}",
            "sum over the groups: ceil(tokens / block), a window also holds what is in flight + 1",
        ),
        ("start-up check", f"{low.startup_need / GIB:.3f} GiB", source),
    ]


def span(values: Interval) -> str:
    """Return an interval for people."""
    if values.low == values.high:
        return f"{values.low:.2f} GiB"
    return f"{values.low:.2f} to {values.high:.2f} GiB"
