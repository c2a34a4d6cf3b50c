"""Every moved process is what compiling it by itself gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.topology.deploy import drafted, request_of
from ascend_v4.topology.model import Topology

from .small import PD, SEVERAL, changed, many

HYBRID = {"groups.0.load_balancing": "hybrid", "groups.0.data_parallel_size": 4,
          "groups.0.tensor_parallel_size": 8}  # fmt: skip


@pytest.mark.parametrize(
    "topology",
    [
        PD,
        SEVERAL,
        many(6),
        changed(SEVERAL, HYBRID),
        changed(SEVERAL, {**HYBRID, "groups.0.load_balancing": "external"}),
        changed(
            PD, {"groups.1.extra": ["--max-num-seqs", "4", "--kv-transfer-config.kv_port", "40000"]}
        ),
    ],
    ids=["pd", "several", "replicas", "hybrid", "external", "extra"],
)
def test_moving_a_process_is_compiling_it(topology: dict[str, Any]) -> None:
    made = Topology.model_validate(topology)
    draft = drafted(made, catalog())
    moved = 0
    for group in made.groups:
        facts = draft.facts[group.name]
        request = replace(
            request_of(made, group),
            data_parallel_size=facts["data_parallel_size"],
            tensor_parallel_size=facts["tensor_parallel_size"],
        )
        for placement, process in draft.placed[group.name]:
            alone = compile_plan(request, catalog(), "models", placement, {"connector": ""})
            assert alone.plan.processes[0] == process
            moved += 1
    assert moved == sum(len(processes) for processes in draft.placed.values()) > 1


def test_ports_follow_the_kv_port_of_extra() -> None:
    moved = changed(PD, {"groups.1.extra": ["--kv-transfer-config.kv_port", "40000"]})
    draft = drafted(Topology.model_validate(moved), catalog())
    first = [
        next(port.port for port in process.ports if port.use == "KV transfer")
        for _, process in draft.placed["decode"]
    ]
    assert first == list(range(40000, 40016))


def test_a_node_has_all_devices_unless_told() -> None:
    gpus = {"name": "gpus", "chip": "h200", "nodes": [{"name": "g", "address": "10.0.0.1"}],
            "groups": [{"name": "s", "nodes": ["g"], "data_parallel_size": 8,
                        "tensor_parallel_size": 1}]}  # fmt: skip
    draft = drafted(Topology.model_validate(gpus), catalog())
    assert draft.placed["s"][0][1].devices == tuple(range(8))
