"""Resident weights of one device: arithmetic over the components, and how sure it is.

Memory is GiB a device. Tensor parallelism splits the large projections, tensor and data
parallelism together split the routed experts, the small ones are on every device.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Interval", "Weights", "device_weights", "index_bytes"]

BILLION_GIB = 1e9 / 2**30
#: Bytes of one routed-expert weight with its scales, by a word of the checkpoint's kind.
ROUTED_BYTES = {"nvfp4": 0.5625, "fp4": 0.53125, "w8a8": 1.0, "w4a8": 0.5, "fp8": 1.0}
#: cos and sin in fp32 for every position of two rope tables.
ROPE_GIB = 2 * 1048576 * 64 * 4 / 2**30
SPLIT = ("shared", "wq_b", "wo_a", "wo_b")
#: Measured loads lie 0.07 to 0.6 GiB above the arithmetic, one 1.1 (datapoints K10 to W07).
ABOVE = (0.0, 0.35, 1.2)
#: How far an Ascend load may lie above the arithmetic. Flash W8A8 was 13 % above it, Pro W4A8
#: 24 % (datapoint W16983); the load of K04, whose layout isn't known, would be 39 % with TP8 x DP4.
ASCEND_ABOVE = {"w8a8": 1.35, "w4a8": 1.4}


class Interval(NamedTuple):
    """A lower and an upper bound of a figure, in GiB."""

    low: float
    high: float


class Weights(NamedTuple):
    """Weights of a device: the bounds, the estimate where one is justified, and the source."""

    bounds: Interval
    estimate: float | None
    source: str


def index_bytes(directory: str) -> int | None:
    """Return the bytes of all tensors by a directory's safetensors index, None without one."""
    for path in sorted(Path(directory).glob("*.safetensors.index.json")):
        try:
            size = json.loads(path.read_text(encoding="utf-8"))["metadata"]["total_size"]
            return int(size)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def billions(
    model: Mapping[str, Any], spec: str, routed: float, dense: float, tp: int, dp: int
) -> float:
    """Return 10^9 bytes of a device; ``routed`` and ``dense`` are bytes of one weight."""
    parts, layers = model["parameters"], int(model["layers"])
    split = sum(parts[name] for name in SPLIT) * dense / tp
    whole = (parts["wq_a_kv"] + parts["index_wq_b"]) * dense
    whole += 2 * (parts["compressors"] + parts["index_small"] + parts["gate"]) + 4 * parts["hyper"]
    total = parts["routed"] * routed / (tp * dp) + split + whole + 2 * parts["embed"] / tp
    drafts = int(model.get("draft_layers", {}).get(spec, 0))
    rest = model["layer_billion"] - parts["routed"] / layers
    each = parts["routed"] / layers * routed / (tp * dp) + rest * dense / tp
    return float(total + drafts * each)


def routed_bytes(kind: str) -> float:
    """Return the bytes of a routed-expert weight in a checkpoint of this kind."""
    return next((size for word, size in ROUTED_BYTES.items() if word in kind), 0.53125)


def generic_weights(total: float, tp: int, pp: int, source: str) -> Weights:
    """Return the weights of a dense model: all of it is split evenly, the bound is 5 %."""
    share = total / 2**30 / (tp * pp)
    return Weights(Interval(share, share * 1.05), None, source)


def device_weights(
    model: Mapping[str, Any],
    checkpoint: Mapping[str, Any],
    spec: str,
    layout: tuple[int, int, int],
    indexed: int | None = None,
) -> Weights:
    """Return the weights of the fullest device; ``layout`` is tp, dp, pp.

    ``indexed`` is the tensors' bytes by the checkpoint's own index, which scales the
    arithmetic where it is known.
    """
    tp, dp, pp = layout
    if model["kind"] != "v4" or "parameters" not in model:
        total = indexed or model.get("bytes") or (model.get("total_billion") or 0) * 2e9
        return generic_weights(total, tp, pp, "all weights split evenly over the devices")
    kind = str(checkpoint.get("kind", "fp4"))
    routed = routed_bytes(kind)
    above = next((share for word, share in ASCEND_ABOVE.items() if word in kind), None)
    scale = index_scale(model, checkpoint, routed, indexed)
    # A pipeline rank has its share of the layers, and the first and last an embedding more.
    share = -(-int(model["layers"]) // pp) / int(model["layers"]) * scale * BILLION_GIB
    low = billions(model, spec, routed, 1.0, tp, dp) * share + ROPE_GIB
    source = index_source(indexed, model)
    if above is not None:
        # What isn't an expert may also have stayed at two bytes.
        high = billions(model, spec, routed, 2.0, tp, dp) * share + ROPE_GIB
        return Weights(Interval(low, max(high, low * above)), None, source)
    estimate = low + ABOVE[1] if "nvfp4" not in kind else None
    return Weights(Interval(low + ABOVE[0], low + ABOVE[2]), estimate, source)


def index_source(indexed: int | None, model: Mapping[str, Any]) -> str:
    """Return where the weights' figure comes from, for people."""
    if indexed:
        return "the safetensors index of the model directory"
    return f"components of {model['title']} ({model['source']})"


def index_scale(
    model: Mapping[str, Any], checkpoint: Mapping[str, Any], routed: float, indexed: int | None
) -> float:
    """Return how much more the index holds than the components say, 1.0 without an index."""
    if not indexed:
        return 1.0
    draft = "dspark" if "dspark" in checkpoint.get("spec", []) else "mtp"
    whole = billions(model, draft, routed, 1.0, 1, 1) * 1e9
    # An index of another size class isn't this model's; the arithmetic stands then.
    ratio = indexed / whole
    return ratio if 0.9 < ratio < 1.6 else 1.0
