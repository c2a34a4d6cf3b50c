"""The layouts that N devices allow, ranked, and the nearest launch that fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .fit import Sizing, size
from .inputs import SizingInput

__all__ = ["nearest", "ranked_layouts", "sweep", "token_cost"]

ORDER = ("fits", "unsure", "does not fit")
BATCHED = (512, 1024, 2048, 4096, 8192, 16384)
CONTEXTS = (32768, 131072, 262144, 524288, 1048576)


def totals(sizing: Sizing) -> tuple[float, float]:
    """Return the requests at once over all replicas, at the low and the high end."""
    low, high = sizing.low, sizing.high
    if low is None or high is None:
        return 0.0, 0.0
    return low.max_concurrency * sizing.input.dp, high.max_concurrency * sizing.input.dp


def rank(sizing: Sizing) -> tuple[int, float, int]:
    """Return what layouts are ranked by: the verdict, then the requests that they hold.

    Where a fit isn't certain, what counts is the room of one replica: the most likely first.
    """
    certain = sizing.verdict == "fits"
    room = sizing.high.max_concurrency if sizing.high else 0.0
    held = totals(sizing)[0] if certain else room
    return ORDER.index(sizing.verdict), -held, sizing.input.tp


def splits(sizing: SizingInput) -> Iterator[tuple[int, int]]:
    """Yield tensor and data parallel sizes that use every device and divide the heads."""
    devices = sizing.devices // sizing.pp
    groups = sizing.model.get("o_groups") or sizing.model.get("kv_heads") or devices
    tp = 1
    while tp <= devices:
        if devices % tp == 0 and int(groups) % tp == 0:
            yield tp, devices // tp
        tp *= 2


def ranked_layouts(sizing: SizingInput) -> list[dict[str, Any]]:
    """Return the layouts of the devices, best first, each with its reason."""
    sized = [size(replace(sizing, tp=tp, dp=dp)) for tp, dp in splits(sizing)]
    sized.sort(key=rank)
    return [layout_row(item) for item in sized]


def layout_row(sizing: Sizing) -> dict[str, Any]:
    """Return a layout as a row: sizes, verdict, requests at once, reason."""
    tp, dp = sizing.input.tp, sizing.input.dp
    low, high = totals(sizing)
    pools = f"{dp} pools, one a replica" if dp > 1 else "one pool"
    copies = f", each stored whole on {tp} ranks" if tp > 1 else ", nothing stored twice"
    why = pools + copies
    return {
        "tensor_parallel_size": tp,
        "data_parallel_size": dp,
        "expert_parallel_size": tp * dp if sizing.input.model["kind"] == "v4" else None,
        "verdict": sizing.verdict,
        "concurrency": [round(low, 2), round(high, 2)],
        "reason": why if sizing.verdict != "does not fit" else sizing.reason,
    }


def tries(sizing: SizingInput, sized: Sizing) -> Iterator[tuple[str, SizingInput]]:
    """Yield changed launches with what to type for them, the mildest change first."""
    for tokens in sorted((n for n in BATCHED if n < sizing.batched_tokens), reverse=True):
        yield f"--max-num-batched-tokens {tokens}", replace(sizing, batched_tokens=tokens)
    longest = sized.longest("low")
    # A tenth of what was asked is another job, not a change.
    if sizing.context // 10 < longest < sizing.context:
        yield f"--context {longest}", replace(sizing, context=longest)
    if sizing.concurrency and sized.low and sized.low.starts:
        held = max(1, int(sized.low.max_concurrency) * sizing.dp)
        yield f"--concurrency {held}", replace(sizing, concurrency=held)
    for row in ranked_layouts(sizing):
        tp, dp = row["tensor_parallel_size"], row["data_parallel_size"]
        words = f"--tensor-parallel-size {tp} --data-parallel-size {dp}"
        yield words, replace(sizing, tp=tp, dp=dp)
    if sizing.available is None:
        yield from more_devices(sizing)


def more_devices(sizing: SizingInput) -> Iterator[tuple[str, SizingInput]]:
    """Yield the launch on more devices, each time twice as many, in every layout."""
    from ascend_v4.catalog.load import catalog

    chip = catalog().chip(sizing.chip)
    devices = sizing.devices
    for _ in range(6):
        devices *= 2
        wider = replace(sizing, devices=devices)
        nodes = -(-devices // int(chip["devices_per_node"])) if chip["profile"] != "cpu" else 1
        count = f"--devices {devices}" + (f" --nodes {nodes}" if nodes > 1 else "")
        for tp, dp in sorted(splits(wider), reverse=True):
            words = f"{count} --tensor-parallel-size {tp} --data-parallel-size {dp}"
            yield words, replace(wider, tp=tp, dp=dp)


def nearest(sizing: SizingInput, sized: Sizing, count: int = 3) -> list[dict[str, str]]:
    """Return up to ``count`` changes, each alone enough to fit; of one kind only the mildest."""
    found: list[dict[str, str]] = []
    kinds = set()
    for words, changed in tries(sizing, sized):
        kind = words.split()[0]
        if kind in kinds:
            continue
        result = size(changed)
        if result.verdict == "fits":
            kinds.add(kind)
            found.append({"change": words, "reason": result.reason})
        if len(found) == count:
            break
    return found


def token_cost(sized: Sizing) -> float:
    """Return the tokens of context that one token of max_num_batched_tokens costs a request."""
    if sized.pool is None:
        return 0.0
    sizing, step = sized.input, 1 << 14
    # Far from both ends, so that neither the window nor the rounding shows.
    base, far = 1 << 14, 1 << 24
    flying = sizing.in_flight / sizing.batched_tokens
    blocks = sized.pool.blocks
    batched = blocks(far, int((base + step) * flying)) - blocks(far, int(base * flying))
    context = blocks(far + step * 64, base) - blocks(far, base)
    return batched / context * 64


def sweep(sizing: SizingInput) -> list[dict[str, Any]]:
    """Return the requests at once, over all replicas, by tokens of a step and by context.

    Each row has ``max_num_batched_tokens`` and, by context, the low and high end.
    """
    rows = []
    limit = int(sizing.model.get("max_context") or CONTEXTS[-1])
    for tokens in BATCHED:
        cells: dict[str, list[float]] = {}
        for context in (c for c in CONTEXTS if c <= limit):
            one = size(replace(sizing, batched_tokens=tokens, context=context))
            if one.low is None or one.high is None:
                continue
            held = [r.max_concurrency * sizing.dp if r.starts else 0.0 for r in (one.low, one.high)]
            cells[str(context)] = [round(value, 2) for value in held]
        rows.append({"max_num_batched_tokens": tokens, "concurrency": cells})
    return rows
