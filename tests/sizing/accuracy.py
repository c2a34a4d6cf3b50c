"""Prediction against every published figure: ``python -m tests.sizing.accuracy``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from ascend_v4.catalog.load import Row, catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.request import LaunchRequest
from ascend_v4.sizing.facts import kv_model
from ascend_v4.sizing.fit import size
from ascend_v4.sizing.inputs import inputs_of
from ascend_v4.sizing.memory import checkpoint_kind, datapoint_pool, known_chip
from ascend_v4.sizing.pool import GIB
from ascend_v4.sizing.weights import ROPE_GIB, device_weights


@dataclass(frozen=True)
class Compared:
    """One figure: predicted, published, and the error as a share of the published."""

    point: str
    partition: str
    what: str
    predicted: float
    published: float

    @property
    def error(self) -> float:
        return self.predicted / self.published - 1


def compared() -> list[Compared]:
    """Return every figure that the datapoints allow to compare."""
    return [item for point in catalog().table("datapoints") for item in figures(point)]


def figures(point: Row) -> Iterator[Compared]:
    """Yield the compared figures of one datapoint."""
    where = f"{point['engine']} {point.get('chip') or 'any'}"
    asked = point.get("compare", [])
    if "weight" in asked:
        layout = (point["tp"], point.get("dp") or 1, point.get("pp", 1))
        model, spec = kv_model(point["model"]), point.get("spec", "none")
        found = device_weights(model, checkpoint_kind(point), spec, layout)
        yield Compared(
            point["id"], where + " weights", "weight", found.estimate, point["weights_gib"]
        )
    if "ckpt" in asked:
        model = kv_model(point["model"])
        found = device_weights(model, {"kind": "fp4"}, point.get("spec", "none"), (1, 1, 1))
        whole = found.bounds.low - ROPE_GIB
        yield Compared(point["id"], "checkpoint files", "ckpt", whole, point["weights_gib"])
    if not {"need", "est", "tokens", "conc"} & set(asked):
        return
    pool, flying = datapoint_pool(point)
    context = point["context"]
    memory = point.get("available_bytes") or int(point["available_gib"] * GIB)
    result = pool.result(memory, context, flying)
    pairs = {
        "need": (result.startup_need / GIB, point.get("need_gib")),
        "est": (pool.longest_context(memory, flying, context), point.get("longest")),
        "tokens": (result.log_kv_tokens, point.get("tokens")),
        "conc": (result.log_max_concurrency, point.get("concurrency")),
    }
    for what, (predicted, published) in pairs.items():
        if what in asked and published is not None:
            yield Compared(point["id"], where + " KV", what, predicted, published)


def false_fits() -> list[str]:
    """Return the refused datapoints of known hardware that a plan would call fitting."""
    wrong = []
    for point in catalog().table("datapoints"):
        if point.get("outcome") == "refused" and verdict(point) == "fits":
            wrong.append(point["id"])
    return wrong


def refused_points() -> list[Row]:
    """Return the datapoints that were refused."""
    return [p for p in catalog().table("datapoints") if p.get("outcome") == "refused"]


def verdict(point: Row) -> str:
    """Return what a plan says about the launch of a datapoint."""
    version = point.get("formula_version")
    chip = point["chip"] if known_chip(point) else None
    engine = point["engine"]
    request = LaunchRequest(
        profile="ascend" if engine == "vllm-ascend" else "cuda",
        chip=chip,
        engine_version=version,
        model=checkpoint_of(point),
        devices=point.get("devices"),
        # A machine that was observed may have more cards than the usual node.
        origins={"devices": "host"},
        tensor_parallel_size=point.get("tp"),
        data_parallel_size=point.get("dp"),
        context=point.get("context"),
        max_num_batched_tokens=point.get("batched_tokens"),
        gpu_memory_utilization=point.get("utilization"),
        spec=point.get("spec", "none"),
        allow_unvalidated=True,
    )
    gib = point.get("available_gib")
    return size(inputs_of(compile_plan(request, catalog()), available_gib=gib)).verdict


def checkpoint_of(point: Row) -> str:
    """Return the catalog's checkpoint of a datapoint."""
    if point["engine"] == "vllm-ascend":
        return "pro-w4a8-mtp" if point["model"] == "pro" else "flash-w8a8-mtp"
    if point["model"] == "pro":
        return "pro-fp4"
    return "flash-0731-fp4" if point.get("spec") == "dspark" else "flash-fp4"


def partitions(items: list[Compared]) -> dict[str, dict[str, float]]:
    """Return figures, median and worst error in percent by partition."""
    found: dict[str, list[float]] = {}
    for item in items:
        found.setdefault(item.partition, []).append(abs(item.error) * 100)
    return {
        name: {"count": len(e), "median": round(median(e), 3), "worst": round(max(e), 3)}
        for name, e in sorted(found.items())
    }


def table() -> str:
    """Return the error of every row, the partitions and the false fits, as text."""
    items = compared()
    lines = [
        f"{i.point:6} {i.partition:32} {i.what:7} {i.predicted:14,.3f} "
        f"{i.published:14,.3f} {i.error:+8.3%}"
        for i in items
    ]
    lines += [f"{name}: {value}" for name, value in partitions(items).items()]
    kv = [abs(item.error) for item in items if item.partition.endswith("KV")]
    weights = [abs(item.error) for item in items if item.partition.endswith("weights")]
    lines.append(f"KV: median {median(kv):.3%}, worst {max(kv):.3%}, {len(kv)} figures")
    lines.append(
        f"weights: median {median(weights):.3%}, worst {max(weights):.3%}, {len(weights)} figures"
    )
    lines.append(f"false fits: {len(false_fits())} of {len(refused_points())} refused starts")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
