"""What every file of a rendering repeats costs the same on ten nodes and on a hundred."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.render.common import flag_reason, header
from ascend_v4.topology.check import check_topology
from ascend_v4.topology.deployment import Deployment
from ascend_v4.topology.read import parse_topology
from tests.topology.small import many, text_of


def deployed(nodes: int) -> Deployment:
    """Return a checked deployment of so many A3 nodes."""
    found = check_topology(parse_topology(text_of(many(nodes)), "many.yaml"), catalog())
    assert found.deployment is not None
    return found.deployment


def steps(work: Callable[[], object]) -> int:
    """Return how many instructions of Python some work takes: no clock, the same anywhere."""
    counted = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal counted
        frame.f_trace_opcodes = True
        counted += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return counted


REPEATED: dict[str, Callable[[Deployment], object]] = {
    "header": lambda whole: header(whole, "bash"),
    "notes": lambda whole: whole.notes(),
    "router": lambda whole: whole.router(),
    "processes": lambda whole: whole.processes(),
    "reason": lambda whole: flag_reason(
        whole, whole.nodes[0].plan.processes[0], ["--max-num-seqs", "1"]
    ),
}


@pytest.mark.parametrize("name", REPEATED)
def test_no_file_looks_at_every_node_again(name: str) -> None:
    few, many_nodes = deployed(12), deployed(96)
    work = REPEATED[name]
    for each in (few, many_nodes):
        work(each)
    assert steps(lambda: work(many_nodes)) == steps(lambda: work(few))
