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


def host_addresses(topology: dict[str, Any]) -> set[tuple[str, str | None]]:
    """Return each server's node with the address that it gives the others."""
    draft = drafted(Topology.model_validate(topology), catalog())
    return {
        (process.node, process.env.get("VLLM_HOST_IP"))
        for placed in draft.placed.values()
        for _, process in placed
    }


@pytest.mark.parametrize("connector", ["", "NixlConnector", "MooncakeConnector"])
def test_servers_of_a_pair_state_the_address_that_peers_read_from(connector: str) -> None:
    gpus = {"chip": "h200", "connector": connector, "groups.0.tensor_parallel_size": 2,
            "groups.1.data_parallel_size": 8}  # fmt: skip
    pair = changed(PD, gpus if connector else {})
    assert host_addresses(pair) == {("p0", "10.0.0.1"), ("d0", "10.0.0.2")}


def test_servers_of_several_nodes_state_their_address_and_one_alone_does_not() -> None:
    assert host_addresses(SEVERAL) == {("n0", "10.0.0.1"), ("n1", "10.0.0.2")}
    alone = changed(SEVERAL, {"model": "flash", "nodes.1": None, "groups.0.nodes": ["n0"],
                              "groups.0.tensor_parallel_size": 8})  # fmt: skip
    assert host_addresses(alone) == {("n0", None)}


def ports_by_use(topology: dict[str, Any]) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """Return what each process listens on beside its API, by use, as (first, last)."""
    draft = drafted(Topology.model_validate(topology), catalog())
    found: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for placed in draft.placed.values():
        for _, process in placed:
            uses = found.setdefault(process.name, {})
            for port in process.ports:
                span = port.reserved_range or (port.port, port.port)
                if port.use != "OpenAI-compatible API":
                    uses.setdefault(port.use, []).append(span)
    return found


GPUS = {
    "chip": "h200",
    "groups.0.tensor_parallel_size": 2,
    "groups.1.data_parallel_size": 8,
    "groups.0.load_balancing": "internal",
    "groups.1.load_balancing": "internal",
}


@pytest.mark.parametrize(
    ("connector", "ports"),
    [
        (
            "NixlConnector",
            {
                "prefill-0-0": {"KV side channel": [(5600, 5603)]},
                "decode-0-0": {"KV side channel": [(5600, 5607)]},
            },
        ),
        (
            "MooncakeConnector",
            {
                "prefill-0-0": {"KV bootstrap": [(8998, 8998)]},
                "decode-0-0": {"KV bootstrap": [(8998, 8998)]},
            },
        ),
    ],
)
def test_a_gpu_pair_takes_the_ports_of_its_connector_alone(
    connector: str, ports: dict[str, Any]
) -> None:
    assert ports_by_use(changed(PD, {**GPUS, "connector": connector})) == ports


def test_a_mooncake_pair_on_one_node_has_a_bootstrap_port_for_each_side() -> None:
    """Either side may send (kv_both), so each starts a bootstrap server: never on one port."""
    made = changed(
        PD,
        {**GPUS, "connector": "MooncakeConnector", "nodes.1": None, "groups.1.nodes": ["p0"],
         "groups.0.data_parallel_size": 2, "groups.0.devices": 4, "groups.1.devices": 4,
         "groups.1.first_device": 4, "groups.1.data_parallel_size": 4},
    )  # fmt: skip
    draft = drafted(Topology.model_validate(made), catalog())
    told = {
        process.name: process.env.get("VLLM_MOONCAKE_BOOTSTRAP_PORT")
        for placed in draft.placed.values()
        for _, process in placed
    }
    assert told == {"prefill-0-0": "8998", "decode-0-0": "8999"}
    uses = {name: found["KV bootstrap"] for name, found in ports_by_use(made).items()}
    assert uses == {"prefill-0-0": [(8998, 8998)], "decode-0-0": [(8999, 8999)]}


def test_an_ascend_pair_takes_no_port_of_vllms_own_connectors() -> None:
    """A group on 9000, and a MinIO that holds it, are fine."""
    made = changed(PD, {"groups.1.port": 9000})
    found = ports_by_use(made)
    assert {use for uses in found.values() for use in uses} == {"KV transfer", "data-parallel RPC"}
    draft = drafted(Topology.model_validate(made), catalog())
    first = [process.ports[0].port for _, process in draft.placed["decode"]]
    assert first == list(range(9000, 9016))
    # Every rank is a server here, and all of a side meet at the first one's port.
    assert {name for name, uses in found.items() if "data-parallel RPC" in uses} == {
        "prefill-0-r0", "decode-0-r0",
    }  # fmt: skip


def test_a_replica_over_two_nodes_asks_the_bootstrap_of_its_head() -> None:
    """Rank 0 listens for all of them; another replica on the head moves its port."""
    nodes = [{"name": f"g{n}", "address": f"10.0.0.{n}", "interface": "eth0"} for n in (1, 2, 3)]
    prefill = {"name": "p", "role": "prefill", "load_balancing": "internal",
               "tensor_parallel_size": 2}  # fmt: skip
    groups = [
        {**prefill, "name": "one", "nodes": ["g1"], "devices": 4, "data_parallel_size": 2},
        {**prefill, "nodes": ["g1", "g2"], "devices": 4, "first_device": 4,
         "data_parallel_size": 4},
        {**prefill, "name": "d", "role": "decode", "nodes": ["g3"], "data_parallel_size": 4},
    ]  # fmt: skip
    made = {"name": "three", "chip": "h200", "connector": "MooncakeConnector",
            "allow_unvalidated": True, "nodes": nodes, "groups": groups}  # fmt: skip
    draft = drafted(Topology.model_validate(made), catalog())
    told = {
        process.name: process.env.get("VLLM_MOONCAKE_BOOTSTRAP_PORT")
        for placed in draft.placed.values()
        for _, process in placed
    }
    assert told == {"one-0-0": "8998", "p-0-0": "8999", "p-0-1": "8999", "d-0-0": "8998"}
    uses = ports_by_use(made)
    assert uses["p-0-0"]["KV bootstrap"] == [(8999, 8999)]
    assert "KV bootstrap" not in uses["p-0-1"]
