"""Reading a real startup: what the engine said of its memory, and how near the plan was."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ascend_v4.errors import AscendV4Error, ExitCode

from .fit import Sizing
from .pool import GIB

__all__ = ["Startup", "calibration_row", "comparison", "options_of", "read_startup"]

NUMBER = r"([\d.,]+)"
#: What is read, and the line that says it; a figure of several workers is said several times.
LINES = {
    "weights_gib": rf"Model loading took {NUMBER} Gi?B",
    "available_gib": rf"Available KV cache memory: {NUMBER} GiB",
    "tokens": rf"KV cache size: {NUMBER} tokens",
    "concurrency": rf"Maximum concurrency for [\d,]+ tokens per request: {NUMBER}x",
    "context": r"Maximum concurrency for ([\d,]+) tokens per request",
    "graph_gib": rf"(?:capturing finished in [\d.]+ secs?, took|graph memory:) {NUMBER} GiB",
    "num_blocks": rf"num_gpu_blocks(?: is|=|:) *{NUMBER}",
}
VERSION = re.compile(r"(?:engine \(v|API server version )(\d+\.\d+\.\d+\w*)")
PLUGIN = re.compile(r"vllm[-_]ascend[^\n]{0,20}?version[ :=]+v?(\d+\.\d+\.\d+[\w.]*)", re.I)
ARGUMENTS = re.compile(r"non-default args: (\{.*\})")
#: The engine's argument -> our launch option.
OPTIONS = {
    "max_model_len": "context",
    "tensor_parallel_size": "tensor_parallel_size",
    "data_parallel_size": "data_parallel_size",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "max_num_seqs": "max_num_seqs",
    "block_size": "block_size",
    "gpu_memory_utilization": "gpu_memory_utilization",
}


@dataclass(frozen=True)
class Startup:
    """What a startup log says; memory is GiB a device, None where the log is silent."""

    figures: dict[str, float] = field(default_factory=dict)
    version: str | None = None
    plugin: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


def read_startup(text: str) -> Startup:
    """Return the figures of a startup log; the fullest device decides each.

    Raises AscendV4Error (nothing recognised) where it holds no figure at all.
    """
    figures: dict[str, float] = {}
    for name, pattern in LINES.items():
        values = [float(v.replace(",", "").rstrip(".")) for v in re.findall(pattern, text)]
        if values:
            fullest = name in ("weights_gib", "graph_gib", "context")
            figures[name] = max(values) if fullest else min(values)
    if not figures.keys() & {"weights_gib", "available_gib", "tokens", "concurrency"}:
        raise AscendV4Error(
            ExitCode.NOTHING_RECOGNISED,
            "not-a-startup",
            "the log holds no line about weights or KV memory of a vLLM startup",
            "give the whole log of `vllm serve`, from its first line on",
        )
    version, plugin = VERSION.search(text), PLUGIN.search(text)
    return Startup(
        figures,
        version.group(1) if version else None,
        plugin.group(1) if plugin else None,
        arguments_of(text),
    )


def arguments_of(text: str) -> dict[str, Any]:
    """Return the non-default arguments that vLLM logs, empty where it doesn't."""
    match = ARGUMENTS.search(text)
    try:
        value = ast.literal_eval(match.group(1)) if match else {}
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def options_of(startup: Startup) -> dict[str, Any]:
    """Return the launch options that the log states, by our names."""
    found = {
        ours: startup.arguments[theirs]
        for theirs, ours in OPTIONS.items()
        if isinstance(startup.arguments.get(theirs), (int, float))
    }
    if "context" in startup.figures:
        found.setdefault("context", int(startup.figures["context"]))
    config = startup.arguments.get("speculative_config")
    if startup.arguments:
        method = str(config.get("method", "")) if isinstance(config, dict) else ""
        found["spec"] = (
            "dspark" if method == "dspark" else "mtp" if method.endswith("mtp") else "none"
        )
    return found


def comparison(startup: Startup, sized: Sizing) -> list[dict[str, Any]]:
    """Return prediction against log, line by line.

    The KV lines are predicted from the log's own available memory, so that they judge
    the arithmetic alone; ``error`` is a share, None where the prediction is an interval.
    """
    figures, rows = startup.figures, []
    budget = sized.budget
    if budget is not None:
        bounds = budget.weights.bounds
        rows.append(
            line("weights GiB", bounds, budget.weights.estimate, figures.get("weights_gib"))
        )
        rows.append(line("available KV GiB", budget.available, None, figures.get("available_gib")))
    if sized.pool is not None and "available_gib" in figures:
        sizing = sized.input
        again = sized.pool.result(
            int(figures["available_gib"] * GIB), sizing.context, sizing.in_flight
        )
        for name, value in (
            ("num_blocks", again.num_blocks),
            ("concurrency", again.log_max_concurrency),
            ("tokens", again.log_kv_tokens),
        ):
            rows.append(line(name, (value, value), float(value), figures.get(name)))
    return rows


def line(
    name: str, bounds: tuple[float, float], estimate: float | None, logged: float | None
) -> dict[str, Any]:
    """Return one compared line."""
    error = None
    if estimate is not None and logged:
        error = round(estimate / logged - 1, 5)
    inside = None if logged is None else bounds[0] <= logged <= bounds[1]
    return {
        "what": name,
        "predicted": [round(float(bounds[0]), 3), round(float(bounds[1]), 3)],
        "estimate": estimate,
        "log": logged,
        "error": error,
        "inside": inside,
    }


def calibration_row(
    startup: Startup, sized: Sizing, log: str, date: str
) -> Mapping[str, Any] | None:
    """Return the row to save, None where the log lacks what a calibration needs."""
    sizing, figures = sized.input, startup.figures
    if sizing.memory_gib is None or sizing.release is None or "available_gib" not in figures:
        return None
    budget = sized.budget
    weights = figures.get("weights_gib")
    if weights is None and budget is not None:
        weights = budget.weights.estimate
    if weights is None:
        return None
    usable = sizing.memory_gib * sizing.utilization
    return {
        "chip": sizing.chip,
        "engine": sizing.engine,
        "release": sizing.release["id"],
        "version": sizing.version,
        "checkpoint": sizing.checkpoint.get("id"),
        "tp": sizing.tp,
        "dp": sizing.dp,
        "pp": sizing.pp,
        "spec": sizing.spec,
        "batched_tokens": sizing.batched_tokens,
        "utilization": sizing.utilization,
        "weights_gib": weights,
        "available_gib": figures["available_gib"],
        "other_gib": round(usable - weights - figures["available_gib"], 4),
        "log": log,
        "date": date,
    }
