"""Throughput from published measurements only, and the nodes that a load needs by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ascend_v4.catalog.load import Row, catalog

from .inputs import SizingInput

__all__ = ["anchors_of", "interpolated", "prefill_decode", "scale"]

#: A CI baseline passes at this share of itself (thresholds of the configurations).
PASSES_AT = 0.95
#: How far a load's lengths may lie from a measurement's and still be read from it.
NEAR = 1.25


def anchors_of(model: str, chip: str, devices: int | None = None) -> list[Row]:
    """Return the measurements of a model on a chip, of so many devices where given."""
    family = chip.partition(":")[0]
    return [
        row
        for row in catalog().table("anchors")
        if row["model"] == model
        and row["chip"] == family
        and (devices is None or row["devices"] == devices)
    ]


def brief(row: Row) -> dict[str, Any]:
    """Return a measurement without what only the scaling reads."""
    return {key: value for key, value in row.items() if key not in ("model", "chip")}


def interpolated(sizing: SizingInput) -> dict[str, Any]:
    """Return what is published for the launch: measurements, and a value between two of them.

    ``status`` is ``anchor`` or ``no anchor``; never a figure without a measurement's id.
    """
    rows = [
        row
        for row in anchors_of(str(sizing.model.get("id")), sizing.chip, sizing.devices)
        if row["engine"] == sizing.engine and row.get("spec", sizing.spec) == sizing.spec
    ]
    if not rows:
        return {"status": "no anchor", "anchors": []}
    said: dict[str, Any] = {"status": "anchor", "anchors": [brief(row) for row in rows]}
    if sizing.concurrency:
        between = between_two(rows, sizing.concurrency)
        if between:
            said["interpolated"] = between
    return said


def prefill_decode(sizing: SizingInput) -> list[dict[str, Any]]:
    """Return the published splits into prefill and decode nodes of so many devices."""
    rows = anchors_of(str(sizing.model.get("id")), sizing.chip, sizing.devices)
    first = {
        (row["prefill_nodes"], row["decode_nodes"]): row
        for row in reversed(rows)
        if "prefill_nodes" in row
    }
    return [
        {"ratio": f"{prefill}:{decode}", "anchor": row["id"], "source": row["source"]}
        for (prefill, decode), row in first.items()
    ]


def between_two(rows: Sequence[Row], concurrency: int) -> dict[str, Any] | None:
    """Return TTFT and TPOT between two measurements that differ in their concurrency only."""
    for low in rows:
        for high in rows:
            same = all(
                low.get(key) == high.get(key)
                for key in ("input_tokens", "output_tokens", "devices", "tp", "dp", "topology")
            )
            ends = (low.get("concurrency", 0), high.get("concurrency", 0))
            if not same or not ends[0] <= concurrency <= ends[1] or ends[0] == ends[1]:
                continue
            part = (concurrency - ends[0]) / (ends[1] - ends[0])
            names = ("ttft_ms", "tpot_ms", "output_tokens_s")
            values = {
                name: round(low[name] + part * (high[name] - low[name]), 2)
                for name in names
                if name in low and name in high
            }
            if values:
                return {**values, "between": [low["id"], high["id"]]}
    return None


def near(asked: int, measured: int | None) -> bool:
    """Whether a length is within the range that a measurement speaks for."""
    return measured is not None and 1 / NEAR <= asked / measured <= NEAR


def scale(
    model: str,
    chip: str,
    rate: float,
    lengths: tuple[int, int],
    tpot_ms: float | None = None,
    prefix_percent: int = 0,
) -> dict[str, Any]:
    """Return the nodes for a load of ``rate`` requests a second, by measurements only.

    ``lengths`` are input and output tokens. Whole measured units are counted, prefill and
    decode nodes together; the uncertainty covers the share at which a baseline passes and
    one unit of imbalance. ``status`` is ``no anchor`` where nothing near was published.
    """
    rows = [
        row
        for row in anchors_of(model, chip)
        if "output_tokens_s" in row
        and near(lengths[0], row.get("input_tokens"))
        and near(lengths[1], row.get("output_tokens"))
        and row.get("prefix_percent", 0) <= prefix_percent
        and (tpot_ms is None or row.get("tpot_target_ms", math.inf) <= tpot_ms)
    ]
    per_node = int(catalog().chip(chip)["devices_per_node"])
    if not rows:
        return {"status": "no anchor", "known": [brief(row) for row in anchors_of(model, chip)]}
    options = [unit(row, rate, lengths[1], per_node) for row in rows]
    options.sort(key=lambda option: (option["nodes"][1], option["anchor"]))
    return {"status": "anchor", "options": options}


def unit(row: Row, rate: float, output: int, per_node: int) -> dict[str, Any]:
    """Return how many copies of one measured deployment serve a load."""
    needed = rate * output
    best = max(1, math.ceil(needed / row["output_tokens_s"]))
    safe = max(1, math.ceil(needed / (row["output_tokens_s"] * PASSES_AT)))
    nodes = max(1, -(-row["devices"] // per_node))
    ratio = None
    if "prefill_nodes" in row:
        ratio = f"{row['prefill_nodes']}:{row['decode_nodes']}"
    return {
        "anchor": row["id"],
        "source": row["source"],
        "units": [best, safe if safe > best else best + (1 if best > 1 else 0)],
        "nodes": [best * nodes, (safe if safe > best else best + (1 if best > 1 else 0)) * nodes],
        "prefill_to_decode": ratio,
        "unit_nodes": nodes,
        "measured_requests_s": round(row["output_tokens_s"] / row.get("output_tokens", output), 3),
        "concurrency": row.get("concurrency"),
        "tpot_target_ms": row.get("tpot_target_ms"),
    }
