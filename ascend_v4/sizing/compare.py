"""The same launch under another release, and the same hardware with another model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ascend_v4.catalog.load import catalog
from ascend_v4.errors import AscendV4Error

from .facts import kv_release
from .fit import Sizing, size
from .inputs import SizingInput, default_batched_tokens
from .layouts import ranked_layouts

__all__ = ["compare_models", "compare_releases"]

#: Which checkpoint of each family the models' comparison takes, by engine.
CHECKPOINT = {
    ("flash", "vllm-ascend"): "flash-w8a8-mtp",
    ("flash", "vllm"): "flash-fp4",
    ("pro", "vllm-ascend"): "pro-w4a8-mtp",
    ("pro", "vllm"): "pro-fp4",
}


def under(sizing: SizingInput, version: str, default_tokens: bool) -> Sizing:
    """Return the launch sized under another release of its engine."""
    name = str(catalog().release(sizing.engine, version)["version"])
    row = kv_release(sizing.engine, name)
    tokens = sizing.batched_tokens
    if default_tokens:
        tokens = default_batched_tokens(sizing.engine, name, sizing.memory_gib)
    return size(replace(sizing, version=name, release=row, unknown="", batched_tokens=tokens))


def compare_releases(
    sizing: SizingInput, first: str, second: str, default_tokens: bool = False
) -> dict[str, Any]:
    """Return what changes between two releases for one launch.

    Both get the same available memory: what the first has. ``default_tokens`` lets each
    release take its own default of max_num_batched_tokens. Raises AscendV4Error for an
    unknown release or one whose arithmetic isn't known.
    """
    before = under(sizing, first, default_tokens)
    after = under(sizing, second, default_tokens)
    rows = [release_row(before), release_row(after)]
    ratio = None
    if before.high and after.high and before.high.blocks_per_request:
        # At the same memory: the first's, so that only the arithmetic differs.
        memory = before.high.available
        assert before.pool is not None
        assert after.pool is not None
        one, two = before.input, after.input
        held = before.pool.result(memory, one.context, one.in_flight).max_concurrency
        then = after.pool.result(memory, two.context, two.in_flight).max_concurrency
        ratio = then / held if held else None
    return {
        "releases": rows,
        "concurrency_ratio": ratio,
        "says": sentence(ratio, rows),
        "context": sizing.context,
    }


def release_row(sized: Sizing) -> dict[str, Any]:
    """Return a release's figures for a launch."""
    low = sized.low
    return {
        "version": sized.input.version,
        "verdict": sized.verdict,
        "max_num_batched_tokens": sized.input.batched_tokens,
        "in_flight_tokens": low.in_flight_tokens if low else None,
        "bytes_per_block": low.bytes_per_block if low else None,
        "blocks_per_request": low.blocks_per_request if low else None,
        "gib_per_request": low.request_bytes / 2**30 if low else None,
        "max_concurrency": [low.max_concurrency, sized.high.max_concurrency]
        if low and sized.high
        else None,
        "log_max_concurrency": [low.log_max_concurrency, sized.high.log_max_concurrency]
        if low and sized.high
        else None,
        "source": (sized.input.release or {}).get("source"),
    }


def sentence(ratio: float | None, rows: list[dict[str, Any]]) -> str:
    """Return the comparison in one sentence."""
    first, second = rows[0]["version"], rows[1]["version"]
    if ratio is None:
        return "one of the two holds nothing at all, so there is no ratio"
    if abs(ratio - 1) < 0.005:
        return f"{second} holds as many requests as {first}"
    change = f"{abs(1 - ratio):.0%} {'fewer' if ratio < 1 else 'more'} requests at once"
    why = ""
    if rows[1]["in_flight_tokens"] != rows[0]["in_flight_tokens"]:
        why = (
            f", because {rows[1]['in_flight_tokens']:,} tokens may be in flight, "
            f"not {rows[0]['in_flight_tokens']:,}"
        )
    return f"from {first} to {second}: {change} of the same memory{why}"


def compare_models(sizing: SizingInput) -> list[dict[str, Any]]:
    """Return each model that people weigh on the hardware of a launch, in its best layout."""
    return [model_row(sizing, row) for row in catalog().table("kv_models")]


def model_row(sizing: SizingInput, model: dict[str, Any]) -> dict[str, Any]:
    """Return one model's line; ``verdict`` is unknown where no configuration is public."""
    said: dict[str, Any] = {
        "model": model["id"],
        "title": model["title"],
        "total_billion": model.get("total_billion"),
        "active_billion": model.get("active_billion"),
        "licence": model.get("licence", "unknown"),
        "source": model["source"],
    }
    if model["kind"] == "unknown":
        return {**said, "verdict": "unknown"}
    context = min(sizing.context, int(model["max_context"]))
    checkpoint = catalog().checkpoint(CHECKPOINT.get((model["id"], sizing.engine), "")) or {}
    spec = sizing.spec if sizing.spec in checkpoint.get("spec", []) else "none"
    other = replace(
        sizing, model=model, checkpoint=checkpoint, context=context, spec=spec, indexed=None
    )
    if not model.get("ratios"):
        other = replace(other, spec="none")
    try:
        layouts = ranked_layouts(other)
    except AscendV4Error as error:
        return {**said, "verdict": "unknown", "reason": error.message}
    best = layouts[0]
    return {
        **said,
        "verdict": best["verdict"],
        "context": context,
        "tensor_parallel_size": best["tensor_parallel_size"],
        "data_parallel_size": best["data_parallel_size"],
        "concurrency": best["concurrency"],
        "formula": "release" if model["kind"] == "v4" else "generic",
    }
