"""The parts that renderings are made of."""

from __future__ import annotations

import subprocess

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.conditions import look_up
from ascend_v4.core.launch import read_value
from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.render.common import argv_lines, flag_reason, reason, resource_name
from ascend_v4.render.k8s_pods import HEAD, OWN, fitted, line, pods_of
from ascend_v4.render.single import topology_of
from ascend_v4.render.targets import RenderOptions, render
from ascend_v4.render.yamltext import Noted, document, documents, plain
from ascend_v4.topology.deploy import deploy
from ascend_v4.topology.model import Topology

from .cases import deployment
from .test_odd_words import by_kubernetes

SCALARS = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_yaml_reads_back_as_it_was(value):
    """Whatever the data, PyYAML reads our text as that data."""
    loaded = yaml.safe_load(document(value)) or {}
    assert loaded == value


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(), VALUES, min_size=1, max_size=4), st.text())
def test_comments_are_comments(value, note):
    """A comment, whatever it says, changes nothing of the data."""
    noted = {key: Noted(item, note) for key, item in value.items()}
    listed = {"items": [Noted(item, ["why", note]) for item in value.values()]}
    assert yaml.safe_load(document(noted, ["header"])) == value == plain(noted)
    assert yaml.safe_load(document(listed)) == {"items": list(value.values())}


def test_documents_are_several():
    text = documents([{"a": 1}, {"b": ["x"]}], ["head"])
    assert list(yaml.safe_load_all(text)) == [{"a": 1}, {"b": ["x"]}]


def bash(word: str, **variables: str) -> str:
    """Return a shell word as bash expands it."""
    done = subprocess.run(
        ["bash", "-c", f"printf %s {word}"], env=variables, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return done.stdout


def test_a_line_over_both_indices():
    places = [(worker, index) for worker in range(1, 4) for index in range(3)]
    for base, by_worker, by_index in ((0, 16, 0), (7, 0, 2), (3, 4, 5), (0, 1, 1), (9, 0, 0)):
        values = {p: f"--x={base + by_worker * p[0] + by_index * p[1]}/y" for p in places}
        word = fitted(values, "g")
        for worker, index in places:
            told = bash(word, LWS_WORKER_INDEX=str(worker), LWS_GROUP_INDEX=str(index))
            assert told == values[worker, index]


def test_addresses_and_quotes():
    word = fitted({(0, 0): f'it\'s {OWN}:{HEAD} $(no) "x"'}, "g")
    told = bash(by_kubernetes(word, {"no": "yes"}), POD_IP="10.0.0.1", HEAD_IP="10.0.0.2")
    assert told == 'it\'s 10.0.0.1:10.0.0.2 $(no) "x"'


def test_what_follows_no_line_is_refused():
    assert line({(1, 0): 1, (2, 0): 2, (3, 0): 5}) is None
    with pytest.raises(AscendV4Error) as caught:
        fitted({(1, 0): "a1", (2, 0): "b2"}, "decode")
    assert caught.value.code == ExitCode.REFUSED
    assert "decode" in caught.value.message


def test_nodes_with_other_interfaces_share_no_template():
    topology = deployment("pro-2xa3").topology
    nodes = [topology.nodes[0], topology.nodes[1].model_copy(update={"interface": "eth9"})]
    other = Topology.model_validate(
        {**topology.model_dump(by_alias=True), "nodes": [n.model_dump() for n in nodes]}
    )
    with pytest.raises(AscendV4Error) as caught:
        render("k8s-lws", deploy(other, catalog()), RenderOptions())
    assert (caught.value.code, caught.value.kind) == (ExitCode.REFUSED, "not-a-template")


def test_pods_own_their_devices():
    """Two replicas of a node become pods that count their devices from 0 on."""
    (group,) = pods_of(deployment("shared-h200"), RenderOptions()).groups
    assert (group.size, group.devices, group.whole_node) == (1, 4, False)
    devices = {process.devices for found in group.processes.values() for process in found}
    assert devices == {(0, 1, 2, 3)}


def test_names_stay_short_and_apart():
    long = [resource_name("d" * 42, "g" * 42), resource_name("d" * 42, "g" * 41 + "h")]
    assert all(len(name) <= 50 for name in long)
    assert len(set(long)) == 2


@pytest.mark.parametrize(
    "request_of",
    [
        LaunchRequest(chip="a3"),
        LaunchRequest(chip="a2"),
        LaunchRequest(profile="cpu"),
        LaunchRequest(chip="h200", profile="cuda"),
        LaunchRequest(chip="a3", workload="long-context", engine_version="0.26.0rc1"),
        LaunchRequest(chip="a3", devices=8, port=9000, host="0.0.0.0", extra=("--seed", "1")),
        LaunchRequest(chip="a3", served_model_name="x", max_num_seqs=3, api_key_file="/k"),
    ],
)
def test_one_node_is_what_serve_runs(request_of):
    """A launch rendered is the launch that `serve` would start, its devices said aloud."""
    served = compile_plan(request_of, catalog(), "models").plan.processes[0]
    (node,) = deploy(topology_of(request_of), catalog(), "models").nodes
    (process,) = node.plan.processes
    shown = ("ASCEND_RT_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    env = {name: value for name, value in process.env.items() if name not in shown}
    assert (process.argv, env) == (served.argv, served.env)
    assert (process.secret_env, process.devices) == (served.secret_env, served.devices)


def test_several_nodes_need_their_addresses():
    with pytest.raises(AscendV4Error) as caught:
        topology_of(LaunchRequest(chip="a3", nodes=2))
    assert (caught.value.code, caught.value.kind) == (ExitCode.USAGE, "needs-topology")


@pytest.mark.parametrize("case", ["a3-1p1d", "pro-2xa3", "pd-h200"])
def test_reasons_are_of_keys_that_stand(case):
    """A row that takes a key away, such as graphs on prefill nodes, takes its reason along."""
    whole = deployment(case)
    for _, process in whole.processes():
        for words in argv_lines(process)[1:]:
            value = read_value(words[1]) if len(words) > 1 else None
            if isinstance(value, dict):
                lines = flag_reason(whole, process, words).splitlines()
                keys = [line.split(": ")[0] for line in lines]
                missing = [k for k in keys if " " not in k and look_up(value, k) is None]
                assert missing == [], (process.name, words[0])


def test_a_prefill_node_is_told_why_fused_mc2_is_off_there():
    whole = deployment("a3-1p1d")
    said = {
        process.role: reason(whole, process, "env.VLLM_ASCEND_ENABLE_FUSED_MC2")
        for _, process in whole.processes()
        if process.role != "router"
    }
    assert said["prefill"].startswith("off, as in the tutorials of the pair; their CI")
    assert said["decode"].startswith("off: it is published for prefill nodes of A3 alone")
