"""Shapes: each starts a file that can be planned and keeps every refusing rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.core.finding import refusing
from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.topology.check import Checked, check_topology
from ascend_v4.topology.init import Start, start_text
from ascend_v4.topology.read import parse_topology

SHAPES = catalog().table("shapes")
MUST = {"a2-dp", "a3-dp", "a3-dp4tp4", "a3-1p1d", "cuda-dp-ep", "cuda-pd"}
THEN = {"a3-2p1d", "a3-4p1d", "a2-4p4d", "a3-1m", "pro", "pro-a2", "dspark", "kv-pool",
        "kv-pool-pd"}  # fmt: skip


def checked(start: Start) -> Checked:
    text = start_text(start, catalog())
    return check_topology(parse_topology(text, "t.yaml"), catalog())


def test_the_shapes_that_operators_ask_for_are_there() -> None:
    names = {name for row in SHAPES for name in (row["id"], *row.get("aliases", []))}
    assert names >= MUST | THEN


@pytest.mark.parametrize("row", SHAPES, ids=lambda row: str(row["id"]))
def test_shape_is_planned_and_breaks_nothing(row: dict) -> None:
    found = checked(Start(row["id"], LaunchRequest(allow_unvalidated=True), interface="enp67s0"))
    assert [note.message for note in refusing(found.findings)] == []
    assert found.deployment is not None
    chips = catalog().chip(row["chip"])["devices_per_node"]
    used = {
        (node.name, device)
        for node, process in found.deployment.processes()
        for device in process.devices
    }
    # No die idle: a shape is a whole machine.
    assert len(used) == chips * len(found.deployment.topology.nodes)


@pytest.mark.parametrize("count", [2, 4])
def test_a2_dp_grows_with_its_nodes(count: int) -> None:
    found = checked(Start("a2-dp", LaunchRequest(allow_unvalidated=True), count=count))
    assert found.deployment is not None
    group = found.deployment.topology.groups[0]
    assert (len(group.nodes), group.data_parallel_size) == (count, count)
    assert [p.role for _, p in found.deployment.processes()] == [
        "mixed",
        *["headless"] * (count - 1),
    ]


@pytest.mark.parametrize("connector", ["NixlConnector", "MooncakeConnector"])
def test_cuda_pd_takes_both_connectors(connector: str) -> None:
    start = Start("cuda-pd", LaunchRequest(allow_unvalidated=True), connector=connector)
    found = checked(start)
    assert refusing(found.findings) == [] and found.deployment is not None
    router = found.deployment.router()
    assert router is not None and router[1].argv[0] == "vllm-router"
    assert f"connector: {connector}\n" in start_text(start, catalog())


def test_options_nodes_and_names_go_into_the_file() -> None:
    request = LaunchRequest(
        chip="a3", model_dir="/models/flash", max_num_seqs=32, port=9000, extra=("--seed", "7")
    )
    start = Start("a3-1p1d", request, "mine", (("left", "10.1.0.1"), ("right", "10.1.0.2")))
    text = start_text(replace(start, interface="enp67s0"), catalog())
    topology = parse_topology(text, "t.yaml").topology
    assert [(n.name, n.address, n.interface) for n in topology.nodes] == [
        ("left", "10.1.0.1", "enp67s0"),
        ("right", "10.1.0.2", "enp67s0"),
    ]
    assert (topology.name, topology.router.port) == ("mine", 9000)
    assert topology.options == {"workload": "long-context", "max_num_seqs": 32}
    assert [group.extra for group in topology.groups] == [["--seed", "7"]] * 2
    assert "CHANGE" not in text
    assert start_text(replace(start, interface="enp67s0"), catalog()) == text


def test_what_yaml_could_misread_is_quoted() -> None:
    odd = LaunchRequest(model_dir="/m, {x}: #1", engine_version="0.23.0", served_model_name="yes")
    start = Start("a3-dp4tp4", odd, nodes=(("a", "10.0.0.1"),), interface="1e3")
    topology = parse_topology(start_text(start, catalog()), "t.yaml").topology
    assert (topology.model_dir, topology.engine_version) == ("/m, {x}: #1", "0.23.0")
    assert topology.options == {"served_model_name": "yes"}
    assert topology.nodes[0].interface == "1e3"


@pytest.mark.parametrize(
    ("start", "kind", "said"),
    [
        (Start("a3-1p1e", LaunchRequest()), "unknown-shape",
         "'a3-1p1e' is not a shape. did you mean a3-1p1d?"),
        (Start("a3-1p1d", LaunchRequest(chip="a2")), "shape-option",
         "shape a3-1p1d is for a3, not a2"),
        (Start("a3-1p1d", LaunchRequest(), count=3), "shape-nodes",
         "shape a3-1p1d has 2 nodes, not 3"),
        (Start("a3-1p1d", LaunchRequest(tensor_parallel_size=2)), "shape-option",
         "--tensor-parallel-size is what the shape decides; change it in the file"),
        (Start("a2-dp", LaunchRequest(), connector="NixlConnector"), "shape-option",
         "shape a2-dp has no choice of connector, not NixlConnector"),
        (Start("a2-dp", LaunchRequest(port=9)), "shape-option",
         "shape a2-dp has one server and no router; --port is its group's"),
    ],
)  # fmt: skip
def test_what_a_shape_does_not_take(start: Start, kind: str, said: str) -> None:
    with pytest.raises(AscendV4Error) as error:
        start_text(start, catalog())
    assert (error.value.code, error.value.kind) == (ExitCode.USAGE, kind)
    assert error.value.message == said


@pytest.mark.parametrize("shape", ["dspark", "kv-pool", "kv-pool-pd"])
def test_a_shape_as_it_is_has_nothing_to_warn_of(shape: str) -> None:
    """DSpark starts on a release without a known hang; a pool has the variables it needs."""
    nodes = (("p0", "10.0.0.1"), ("d0", "10.0.0.2"))
    found = checked(Start(shape, LaunchRequest(), nodes=nodes, interface="enp67s0"))
    assert [note.id for note in found.findings] == ["router-on-loopback"]


def test_the_file_of_a_pool_says_what_its_variables_are_for() -> None:
    text = start_text(Start("kv-pool", LaunchRequest()), catalog())
    topology = parse_topology(text, "t.yaml").topology
    assert topology.kv_pool is not None and topology.kv_pool.backend == "mooncake"
    assert topology.env == {
        "PYTHONHASHSEED": "0",
        "MOONCAKE_CONFIG_PATH": "/etc/mooncake.json",
        "ASCEND_ENABLE_USE_FABRIC_MEM": "1",
    }
    above = text.partition("MOONCAKE_CONFIG_PATH")[0]
    assert "master_server_address" in above and "kv_pool.md" in above


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (["p0=10.0.0.300", "d0=10.0.0.2"],
         "'10.0.0.300' of node p0 is no IP address or host name of a machine"),
        (["p0=0.0.0.0", "d0=a b"],
         "'0.0.0.0' of node p0 is no IP address or host name of a machine;"
         " 'a b' of node d0 is no IP address or host name of a machine"),
        (["p0=10.0.0.1", "p0=10.0.0.2"], "two nodes are called p0"),
        (["p0=fe80::1", "d0=FE80:0::1"], "node d0 has the address of node p0, FE80:0::1"),
        (["P0=10.0.0.1", "d0=10.0.0.2"],
         "'P0' is no name of a node: up to 42 lower-case letters, digits and inner dashes"),
    ],
)  # fmt: skip
def test_nodes_that_cannot_be(ascend, tmp_path, nodes: list[str], said: str) -> None:
    file = tmp_path / "t.yaml"
    named = [word for node in nodes for word in ("--node", node)]
    outcome = ascend("topology", "init", "--shape", "a3-1p1d", *named, "-o", str(file))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"error: {said}\nnext:  --node NAME=ADDRESS for each machine\n"
    assert not file.exists()
