"""What else takes memory: an interval, narrower where somebody published a startup.

Activations, graph capture and the communication buffers can't be computed from outside.
A recorded startup with weights and KV memory tells what was left for them; a recorded
start with a context tells that its KV did fit. Without either for the chip and the
release's arithmetic the interval is marked not calibrated. Memory is GiB a device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ascend_v4.catalog.load import Row, catalog

from .facts import kv_caches, kv_model, kv_release
from .inputs import SizingInput, memory_of_chip
from .pool import GIB, in_flight_tokens, pool_of
from .weights import Interval, Weights, device_weights

__all__ = ["Budget", "budget_of", "datapoint_pool", "other_of_datapoint"]

#: GiB quoted for activations, graphs and buffers together, over all published startups.
UNCALIBRATED = Interval(1.4, 17.0)
#: How far a startup of the same chip and arithmetic may lie from another, GiB.
SPREAD = Interval(-1.0, 2.0)


@dataclass(frozen=True)
class Budget:
    """Memory of one device: what there is, what takes it, what is left for KV.

    ``anchor`` is the id of the datapoint that calibrates it, ``""`` if none does.
    """

    usable: float
    weights: Weights
    other: Interval
    available: Interval
    anchor: str = ""
    source: str = ""
    proven: bool = False

    @property
    def calibrated(self) -> bool:
        """Whether a published or local startup backs the figures."""
        return bool(self.anchor)


def checkpoint_kind(point: Mapping[str, Any]) -> dict[str, Any]:
    """Return a datapoint's checkpoint as device_weights reads it."""
    return {"kind": str(point["checkpoint"]).lower()}


def datapoint_pool(point: Mapping[str, Any]) -> tuple[Any, int]:
    """Return the pool of a datapoint and its tokens in flight."""
    release = kv_release(point["engine"], point["formula_version"])
    chip = point.get("chip") or ("a3" if point["engine"] == "vllm-ascend" else "h200")
    from .caches import Layout

    caches = kv_caches(point["engine"], chip)
    block = point.get("block_size") or caches["block_sizes"][0]
    spec, pp = point.get("spec", "none"), point.get("pp", 1)
    pool = pool_of(kv_model(point["model"]), Layout(caches, release, block), spec, pp)
    return pool, in_flight_tokens(release, point["batched_tokens"], True, pp, spec)


def other_of_datapoint(point: Mapping[str, Any]) -> float | None:
    """Return what a recorded startup left for everything but weights and KV, GiB."""
    memory = memory_of_chip(point["chip"]) if known_chip(point) else None
    kv, share = point.get("available_gib"), point.get("utilization")
    if memory is None or kv is None or share is None:
        return None
    weights = point.get("weights_gib")
    if weights is None:
        layout = (point.get("tp") or 1, point.get("dp") or 1, point.get("pp", 1))
        computed = device_weights(
            kv_model(point["model"]), checkpoint_kind(point), point.get("spec", "none"), layout
        )
        weights = computed.estimate
    return None if weights is None else memory * share - weights - kv


def known_chip(point: Mapping[str, Any]) -> bool:
    """Whether the catalog has the chip of a datapoint."""
    families = [row["id"] for row in catalog().table("chips")]
    return str(point.get("chip", "")).partition(":")[0] in families


def same_arithmetic(point: Mapping[str, Any], sizing: SizingInput) -> bool:
    """Whether a datapoint is of the model, the chip and the release's arithmetic.

    Activations are as wide as the model, so another model's start anchors nothing.
    """
    if point.get("engine") != sizing.engine or not point.get("formula_version"):
        return False
    if point["model"] != sizing.model.get("id"):
        return False
    if point.get("chip", "").partition(":")[0] != sizing.chip.partition(":")[0]:
        return False
    assert sizing.release is not None
    versions = [point["formula_version"], *point.get("versions", [])]
    return any(kv_release(sizing.engine, v)["id"] == sizing.release["id"] for v in versions)


def anchors(sizing: SizingInput) -> Iterator[tuple[Row, float]]:
    """Yield the datapoints of the chip and arithmetic with what they left for the rest."""
    for point in catalog().table("datapoints"):
        if sizing.release is not None and same_arithmetic(point, sizing):
            other = other_of_datapoint(point)
            if other is not None and other > 0:
                yield point, other


def other_memory(sizing: SizingInput) -> tuple[Interval, str, str]:
    """Return the interval for everything else, the anchor's id and its source."""
    found = list(anchors(sizing))
    if not found:
        return UNCALIBRATED, "", "no published startup of this chip and release: not calibrated"
    low = max(0.0, min(other for _, other in found) + SPREAD.low)
    tokens = max(point.get("batched_tokens") or 1 for point, _ in found)
    # Activations grow with the tokens of a step; only more of them widen the interval, and
    # not beyond what has ever been published for all of it.
    growth = max(1.0, sizing.batched_tokens / tokens)
    most = max(other for _, other in found)
    high = min(most * growth + SPREAD.high, max(UNCALIBRATED.high, most + SPREAD.high))
    point = found[0][0]
    return Interval(low, high), str(point["id"]), str(point["source"])


def proven_start(sizing: SizingInput) -> tuple[float, Row] | None:
    """Return the most KV memory that a published start of the same layout proves, GiB.

    A start with more of the device's memory proves that much less: what isn't KV doesn't
    depend on the share.
    """
    best: tuple[float, Row] | None = None
    for point in catalog().table("datapoints"):
        if not proves(point, sizing):
            continue
        pool, flying = datapoint_pool({**point, "formula_version": sizing.version})
        more = max(0.0, point["utilization"] - sizing.utilization) * (sizing.memory_gib or 0.0)
        proven = pool.need(point["context"], flying) / GIB - more
        if proven > 0 and (best is None or proven > best[0]):
            best = (proven, point)
    return best


def proves(point: Mapping[str, Any], sizing: SizingInput) -> bool:
    """Whether a published start is of the same launch as far as its other memory goes.

    The same chip, release, checkpoint, parallel sizes and drafts, no fewer tokens in a
    step, and graphs where the launch captures them.
    """
    if "start" not in point.get("compare", []):
        return False
    wanted = (sizing.checkpoint.get("id"), sizing.tp, sizing.dp, sizing.pp, sizing.spec)
    given = (point["checkpoint"], point["tp"], point["dp"], 1, point.get("spec", "none"))
    small = point["batched_tokens"] >= sizing.batched_tokens
    graphs = sizing.eager or not point.get("eager", False)
    same = point.get("chip") == sizing.chip and sizing.version in point.get("versions", [])
    return same and wanted == given and small and graphs


def budget_of(sizing: SizingInput) -> Budget | None:
    """Return the memory of one device, None where the chip's memory isn't known."""
    from .calibration import site_budget

    weights = device_weights(
        sizing.model,
        sizing.checkpoint,
        sizing.spec,
        (sizing.tp, sizing.dp, sizing.pp),
        sizing.indexed,
    )
    if sizing.memory_gib is None or not weights.bounds.high:
        return None
    usable = sizing.memory_gib * sizing.utilization
    local = site_budget(sizing, usable, weights)
    if local is not None:
        return local
    other, anchor, source = other_memory(sizing)
    low = max(0.0, usable - weights.bounds.high - other.high)
    high = max(0.0, usable - weights.bounds.low - other.low)
    proof = proven_start(sizing)
    if proof is not None and proof[0] > low:
        point = proof[1]
        return Budget(
            usable,
            weights,
            other,
            Interval(proof[0], max(proof[0], high)),
            str(point["id"]),
            str(point["source"]),
            proven=True,
        )
    return Budget(usable, weights, other, Interval(low, high), anchor, source)
