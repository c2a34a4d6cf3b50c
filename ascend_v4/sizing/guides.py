"""What guides get wrong about these models, said with the arithmetic."""

from __future__ import annotations

from ascend_v4.core.finding import Finding

from .fit import Sizing

__all__ = ["guide_errors"]

GIB_CARD = 141e9 / 2**30


def guide_errors(sized: Sizing) -> list[Finding]:
    """Return what a guide would have told otherwise about this launch."""
    sizing = sized.input
    budget = sized.budget
    found = []
    source = str(sizing.checkpoint.get("source", "https://github.com/vllm-project/recipes"))
    if budget is None or sizing.memory_gib is None or sizing.model.get("kind") != "v4":
        return []
    total = sizing.memory_gib * sizing.devices
    size = (sizing.checkpoint.get("bytes") or 0) / 2**30
    if size and size > total:
        found.append(
            finding(
                "guide-one-card",
                f"the checkpoint is {size:.2f} GiB and {sizing.devices} x {sizing.chip} have "
                f"{total:.1f} GiB: a card's 141 GB, say, are {GIB_CARD:.1f} GiB, "
                "so no setting makes the weights fit",
                source,
            )
        )
    if sizing.chip == "a100":
        found.append(
            finding(
                "guide-a100",
                "upstream vLLM has no DeepSeek-V4 attention for sm80, and two 80 GB cards would "
                f"leave {max(0.0, budget.usable - budget.weights.bounds.low):.1f} GiB a device "
                f"after {budget.weights.bounds.low:.1f} GiB of weights, before activations and KV",
                "vllm 0.32.0, vllm/v1/attention/backends/mla/flashmla_sparse.py",
            )
        )
    low = sized.low
    if low is not None and sizing.context >= 1 << 20 and low.max_concurrency < 2:
        found.append(
            finding(
                "guide-million",
                f"a context of {sizing.context:,} tokens is possible, not free: one such request "
                f"takes {low.request_bytes / 2**30:.2f} GiB of KV on every rank, and tensor "
                "parallelism doesn't divide it",
                str((sizing.release or {}).get("source", source)),
            )
        )
    return found


def finding(ident: str, message: str, source: str) -> Finding:
    """Return a warning about a common claim."""
    return Finding(ident, "warn", message, "", source, "inferred")
