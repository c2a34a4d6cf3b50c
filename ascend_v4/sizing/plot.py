"""A picture of a plan: the context against concurrency frontier, and a device's memory."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ascend_v4.errors import AscendV4Error, ExitCode

from .fit import Sizing
from .pool import GIB

__all__ = ["draw", "frontier"]

POINTS = tuple(4096 << n for n in range(9))


def frontier(sized: Sizing, end: str) -> list[tuple[int, float]]:
    """Return (context, requests at once over all replicas) at an end of the interval."""
    if sized.pool is None or sized.available is None:
        return []
    gib = sized.available.low if end == "low" else sized.available.high
    limit = int(sized.input.model.get("max_context") or POINTS[-1])
    found = []
    for context in (c for c in POINTS if c <= limit):
        result = sized.pool.result(int(gib * GIB), context, sized.input.in_flight)
        if result.starts:
            found.append((context, result.max_concurrency * sized.input.dp))
    return found


def draw(sized: Sizing, path: str) -> None:
    """Write the picture as the file's ending says (png, svg).

    Raises AscendV4Error (usage) for another ending, where matplotlib isn't installed or
    where the file can't be written.
    """
    if not path.lower().endswith((".png", ".svg")):
        raise AscendV4Error(
            ExitCode.USAGE, "bad-picture", f"{path} must end in .png or .svg", "--plot plan.svg"
        )
    try:
        # By name: an optional extra, without which this module must still type-check.
        import_module("matplotlib").use("Agg")
        pyplot: Any = import_module("matplotlib.pyplot")
    except ImportError as error:
        raise AscendV4Error(
            ExitCode.USAGE,
            "no-matplotlib",
            "drawing needs matplotlib, which is not installed",
            "pip install 'ascend-v4[plot]'",
        ) from error
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    draw_frontier(sized, left)
    draw_memory(sized, right)
    sizing = sized.input
    figure.suptitle(
        f"{sizing.model.get('title')} on {sizing.devices} x {sizing.chip}, "
        f"{sizing.engine} {sizing.version}, TP{sizing.tp} x DP{sizing.dp}: {sized.verdict}"
    )
    try:
        figure.savefig(path)
    except OSError as error:
        raise AscendV4Error(
            ExitCode.USAGE,
            "bad-picture",
            f"{path} can't be written: {error.strerror or error}",
            "--plot plan.svg",
        ) from error
    pyplot.close(figure)


def draw_frontier(sized: Sizing, axes: Any) -> None:
    """Draw how many requests fit at each context, between the two ends."""
    low, high = dict(frontier(sized, "low")), dict(frontier(sized, "high"))
    both = sorted(low.keys() | high.keys())
    floor = [low.get(context, 0.0) for context in both]
    ceiling = [high.get(context, 0.0) for context in both]
    axes.fill_between(both, floor, ceiling, alpha=0.25, label="in doubt")
    axes.plot(both, floor, marker="o", label="at least")
    axes.axvline(sized.input.context, linestyle=":", label="asked context")
    axes.set_xscale("log", base=2)
    if any(value > 0 for value in ceiling):
        axes.set_yscale("log")
    axes.set_xlabel("context, tokens")
    axes.set_ylabel("requests at once, all replicas")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()


def draw_memory(sized: Sizing, axes: Any) -> None:
    """Draw what takes the memory of one device, the doubt between two pieces."""
    budget, memory = sized.budget, sized.input.memory_gib
    if budget is None or memory is None:
        axes.set_axis_off()
        return
    weights, other, kv = budget.weights.bounds.low, budget.other.low, budget.available.low
    doubt = max(0.0, budget.usable - weights - other - kv)
    parts = {"weights": weights, "other": other, "in doubt": doubt, "KV": kv}
    parts["unused"] = max(0.0, memory - sum(parts.values()))
    bottom = 0.0
    for name, value in parts.items():
        axes.bar(["one device"], [value], bottom=[bottom], label=f"{name} {value:.1f} GiB")
        bottom += value
    axes.set_ylabel("GiB")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
