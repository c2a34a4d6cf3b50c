"""``python -m tests.figures.topology``: time and memory over 10, 100 and 1,000 nodes.

A3 nodes, half prefilling (four servers each), half decoding (sixteen). Processor time, so
that a busy machine doesn't change it; memory is the process's peak. Rendering is measured
where it is installed.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass

from ascend_v4.catalog.load import catalog
from ascend_v4.core.finding import refusing
from ascend_v4.topology.check import check_topology
from ascend_v4.topology.deployment import Deployment
from ascend_v4.topology.read import parse_topology
from tests.topology.small import many, text_of

SIZES = (10, 100, 1000)


@dataclass(frozen=True)
class Measured:
    """Seconds of processor time and the peak of memory, MiB, of one topology."""

    nodes: int
    processes: int
    errors: int
    read_s: float
    check_s: float
    render_s: float | None
    peak_mib: int


def measured(nodes: int, target: str = "") -> Measured:
    """Return what reading, checking and perhaps rendering a topology takes."""
    text = text_of(many(nodes))
    began = time.process_time()
    file = parse_topology(text, "many.yaml")
    read = time.process_time()
    checked = check_topology(file, catalog())
    done = time.process_time()
    assert checked.deployment is not None
    render_s = rendered(checked.deployment, target) if target else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return Measured(
        nodes,
        len(checked.deployment.processes()),
        len(refusing(checked.findings)),
        read - began,
        done - read,
        render_s,
        peak,
    )


def rendered(deployment: Deployment, target: str) -> float | None:
    """Return the seconds that rendering takes, None where there is no renderer yet."""
    try:
        from ascend_v4.render.targets import RenderOptions, render

        began = time.process_time()
        render(target, deployment, RenderOptions())
    except ImportError:
        return None
    return time.process_time() - began


def main() -> int:
    """Print a line for each size."""
    catalog()
    target = sys.argv[1] if len(sys.argv) > 1 else "bash"
    print(f"nodes  servers  read s  check s  render {target} s  peak MiB")
    for size in SIZES:
        m = measured(size, target)
        render = "-" if m.render_s is None else f"{m.render_s:.2f}"
        print(
            f"{m.nodes:5}  {m.processes:7}  {m.read_s:6.2f}  {m.check_s:7.2f}"
            f"  {render:>{len(target) + 9}}  {m.peak_mib:8}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
