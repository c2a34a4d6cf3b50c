"""Whole-deployment rules: each is broken by its example and kept by a published launch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ascend_v4.catalog.build import read_rows
from ascend_v4.catalog.load import catalog
from ascend_v4.catalog.schema_topology import TOPOLOGY_TABLES
from ascend_v4.core.finding import Evidence
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.topology.check import check_topology, planned
from ascend_v4.topology.read import TopologyError, parse_topology

from .small import PD, SEVERAL, broken, changed, checked, text_of

RULES = {row["id"]: row for row in catalog().table("deployment_rules")}
D0 = {"name": "d0", "address": "10.0.0.2", "interface": "eth0"}
KV = "--kv-transfer-config"


def kv(**keys: Any) -> list[str]:
    return [KV, json.dumps(keys)]


def sizes(**sides: Any) -> list[str]:
    return kv(kv_connector_extra_config=sides)


CUDA = {
    "chip": "h200",
    "nodes": [{"name": "g0", "address": "10.0.0.1"}],
    "groups.0.nodes": ["g0"],
    "groups.1.nodes": ["g0"],
    "groups.0.tensor_parallel_size": 1,
    "groups.0.devices": 4,
    "groups.1.data_parallel_size": 4,
    "groups.1.devices": 4,
    "groups.1.first_device": 4,
}
#: A server for each rank, so a router before them.
EXTERNAL = {"groups.0.load_balancing": "external", "groups.0.data_parallel_size": 4,
            "groups.0.tensor_parallel_size": 8}  # fmt: skip
#: Rule -> (base, changes, texts of the lines shown).
EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "duplicate-node": (PD, {"nodes.2": {**D0, "address": "10.0.0.3"}}, ("- name: d0",)),
    "duplicate-address": (PD, {"nodes.1.address": "10.0.0.1"}, ("address: 10.0.0.1",)),
    "duplicate-group": (PD, {"groups.1.name": "prefill"}, ("- name: prefill",)),
    "unknown-node": (PD, {"groups.1.nodes": ["d00"]}, ("- d00",)),
    "repeated-node": (PD, {"groups.1.nodes": ["d0", "d0"]}, ("- d0",)),
    "group-in-group": (PD, {"groups.1.name": "prefill-0"}, ("- name: prefill-0",)),
    "group-called-router": (PD, {"groups.0.name": "router"}, ("- name: router",)),
    "router-unknown-node": (PD, {"router.node": "r0"}, ("node: r0",)),
    "bad-address": (PD, {"nodes.1.address": "10.0.0.300"}, ("address: 10.0.0.300",)),
    "any-address": (PD, {"nodes.1.address": "0.0.0.0"}, ("address: 0.0.0.0",)),
    "loopback-address": (PD, {"nodes.1.address": "127.0.0.1"}, ("address: 127.0.0.1",)),
    "placeholder-address": (PD, {"nodes.1.address": "192.0.2.7"}, ("address: 192.0.2.7",)),
    "address-is-a-name": (PD, {"nodes.1.address": "d0.lan"}, ("address: d0.lan",)),
    "interface-missing": (PD, {"nodes.1.interface": None}, ("- name: d0",)),
    "unused-node": (PD, {"nodes.2": {**D0, "name": "x", "address": "10.0.0.3"}}, ("- name: x",)),
    "too-many-devices": (PD, {"nodes.1.devices": 17}, ("devices: 17",)),
    "chip-of-another-profile": (PD, {"profile": "cuda"}, ("- name: p0", "- name: d0")),
    "mixed-chips": (SEVERAL, {"nodes.1.chip": "a2"}, ("nodes:",)),
    "uneven-nodes": (SEVERAL, {"nodes.1.devices": 8}, ("nodes:",)),
    "devices-beyond": (PD, {"groups.1.first_device": 8, "groups.1.devices": 16}, ("devices: 16",)),
    "replicas-nodes": (SEVERAL, {"groups.0.replicas": 3}, ("replicas: 3",)),
    "replicas-devices": (
        SEVERAL,
        {"model": "flash", "engine_version": "0.23.0.post1", "groups.0.nodes": ["n0"],
         "nodes.1": None, "groups.0.replicas": 3, "groups.0.data_parallel_size": 1,
         "groups.0.tensor_parallel_size": 4},
        ("replicas: 3",),
    ),
    "overlapping-devices": (PD, {"groups.1.nodes": ["p0"], "nodes.1": None}, ("nodes:", "nodes:")),
    "tp-spans-nodes": (
        SEVERAL,
        {"groups.0.data_parallel_size": 1, "groups.0.tensor_parallel_size": 32},
        ("tensor_parallel_size: 32",),
    ),
    "dp-nodes": (
        SEVERAL,
        {"groups.0.data_parallel_size": 3, "groups.0.tensor_parallel_size": 8},
        ("data_parallel_size: 3",),
    ),
    "too-many-ranks": (SEVERAL, {"groups.0.data_parallel_size": 4}, ("data_parallel_size: 4",)),
    "idle-devices": (SEVERAL, {"groups.0.tensor_parallel_size": 8}, ("data_parallel_size: 2",)),
    "placed-flag": (PD, {"groups.1.extra": ["--port", "9000"]}, ("- --port",)),
    "sized-flag": (PD, {"groups.1.extra": ["-tp", "2"]}, ("- -tp",)),
    "key-in-extra": (PD, {"groups.1.extra": ["--api-key", "k"]}, ("- --api-key",)),
    "unknown-connector": (PD, {"connector": "MooncakeConector"}, ("connector: MooncakeConector",)),
    "secret-variable": (PD, {"env.HF_TOKEN": "hf_0123"}, ("HF_TOKEN: …",)),
    "placed-variable": (
        PD, {"groups.1.env.HCCL_IF_IP": "10.0.0.2"}, ("HCCL_IF_IP: 10.0.0.2",)
    ),
    "pool-on-ascend-only": (
        changed(PD, CUDA), {"kv_pool.backend": "mooncake"}, ("kv_pool:",)
    ),
    "pool-hash-seeds": (
        PD,
        {"kv_pool.backend": "mooncake", "env.PYTHONHASHSEED": 0, "groups.1.env.PYTHONHASHSEED": 1},
        ("PYTHONHASHSEED: 1", "PYTHONHASHSEED: 0"),
    ),
    "port-taken": (PD, {"groups.0.port": 8000, "router.port": 8000}, ("port: 8000", "port: 8000")),
    "port-collision": (
        PD,
        {"nodes.1": None, "groups.0.nodes": ["p0"], "groups.1.nodes": ["p0"],
         "groups.0.devices": 8, "groups.0.tensor_parallel_size": 2, "groups.1.devices": 8,
         "groups.1.first_device": 8, "groups.1.data_parallel_size": 8,
         "groups.1.extra": kv(kv_port=36002)},
        ("- --kv-transfer-config", "- name: prefill"),
    ),
    "port-too-high": (PD, {"groups.1.extra": kv(kv_port=65530)}, ("- --kv-transfer-config",)),
    "kv-port-range": (PD, {"groups.1.extra": kv(kv_port="30100")}, ("- --kv-transfer-config",)),
    "port-of-hccl": (PD, {"router.port": 60000}, ("port: 60000",)),
    "port-of-hccl-device": (PD, {"router.port": 16666}, ("port: 16666",)),
    "prefill-without-decode": (PD, {"groups.1": None}, ("- name: prefill",)),
    "decode-without-prefill": (PD, {"groups.0": None}, ("- name: decode",)),
    "mixed-beside-pd": (
        PD,
        {"nodes.2": {**D0, "name": "m0", "address": "10.0.0.3"},
         "groups.2": {"name": "both", "nodes": ["m0"]}},
        ("- name: both",),
    ),
    "pd-release": (PD, {"nodes.1.chip": "h200", "groups.1.data_parallel_size": 8},
                   ("nodes:", "nodes:")),
    "pd-chips": (PD, {"nodes.1.chip": "a2", "groups.1.data_parallel_size": 8},
                 ("nodes:", "nodes:")),
    "pd-block-size": (PD, {"groups.1.options.block_size": 32},
                      ("block_size: 32", "- name: prefill")),
    "pd-connector": (PD, {"groups.1.extra": kv(kv_connector="MooncakeConnectorV1")},
                     ("- --kv-transfer-config", "- name: prefill")),
    "pd-kv-dtype": (PD, {"groups.1.extra": ["--kv-cache-dtype", "fp8"]},
                    ("- --kv-cache-dtype", "- name: prefill")),
    "pd-tells-decode-tp": (PD, {"groups.0.extra": sizes(decode={"tp_size": 2})},
                           ("- --kv-transfer-config", "tensor_parallel_size: 1")),
    "pd-tells-decode-dp": (PD, {"groups.0.extra": sizes(decode={"dp_size": 8})},
                           ("- --kv-transfer-config", "data_parallel_size: 16")),
    "pd-tells-prefill-tp": (PD, {"groups.1.extra": sizes(prefill={"tp_size": 8})},
                            ("- --kv-transfer-config", "tensor_parallel_size: 4")),
    "pd-tells-prefill-dp": (PD, {"groups.1.extra": sizes(prefill={"dp_size": 8})},
                            ("- --kv-transfer-config", "data_parallel_size: 4")),
    "pd-spec": (PD, {"groups.1.options.spec": "none"}, ("spec: none", "- name: prefill")),
    "pd-dspark-tokens": (
        PD,
        {"model": "flash-0731-w8a8", "engine_version": "0.26.0rc1",
         "groups.1.extra": ["--speculative-config.num_speculative_tokens", "6"]},
        ("- --speculative-config.num_speculative_tokens", "- name: prefill"),
    ),
    "pd-mtp-tokens": (
        PD,
        {"groups.0.extra": ["--speculative-config.num_speculative_tokens", "3"],
         "groups.1.extra": ["--speculative-config.num_speculative_tokens", "1"]},
        ("- --speculative-config.num_speculative_tokens",) * 2,
    ),
    "pd-context": (PD, {"groups.1.options.context": 65536}, ("context: 65536", "- name: prefill")),
    "pd-served-name": (PD, {"groups.1.options.served_model_name": "other"},
                       ("served_model_name: other", "- name: prefill")),
    "engine-id-twice": (PD, {"groups.0.extra": kv(engine_id="1")},
                        ("extra:", "- name: decode")),
    "connector-of-another-engine": (
        PD, {"connector": "NixlConnector"}, ("connector: NixlConnector",)
    ),
    "no-router": (PD, {"router.kind": "vllm-router"}, ("kind: vllm-router",)),
    "nothing-in-front": (PD, {"router.kind": "none"}, ("kind: none",)),
    "open-without-key": (SEVERAL, {**EXTERNAL, "router.host": "10.0.0.1"}, ("host: 10.0.0.1",)),
    "router-asks-no-key": (
        PD, {"options.api_key_file": "/etc/key", "router.host": "10.0.0.1"}, ("host: 10.0.0.1",)
    ),
    "bad-router-host": (PD, {"router.host": "[fd00::1]"}, ("host: '[fd00::1]'",)),
    "router-host-elsewhere": (PD, {"router.host": "10.0.0.2"}, ("host: 10.0.0.2",)),
    "router-host-unknown": (PD, {"router.host": "10.0.0.9"}, ("host: 10.0.0.9",)),
    "relative-path": (PD, {"model_dir": "models/flash"}, ("model_dir: models/flash",)),
    "path-with-colon": (PD, {"model_dir": "/models/a:b"}, ("model_dir: /models/a:b",)),
    "router-on-loopback": (PD, {"router.port": 8001}, ("router:",)),
    "hccl-buffers": (PD, {"groups.0.options.gpu_memory_utilization": 0.5}, ("- name: prefill",)),
    "hccl-buffers-large": (PD, {"groups.0.options.gpu_memory_utilization": 0.56},
                           ("- name: prefill",)),
}  # fmt: skip
NEVER = {"router-on-loopback"}


def test_every_rule_has_an_example() -> None:
    assert sorted(EXAMPLES) == sorted(RULES)


@pytest.mark.parametrize("base", [PD, SEVERAL], ids=["pd", "several"])
def test_published_launches_keep_every_rule(base: dict[str, Any]) -> None:
    found = checked(base)
    assert {note.id for note in found.findings} & set(RULES) <= NEVER
    assert found.deployment is not None and broken(base) == []


@pytest.mark.parametrize("ident", EXAMPLES)
def test_example_breaks_the_rule(ident: str) -> None:
    base, changes, texts = EXAMPLES[ident]
    findings = [note for note in checked(changed(base, changes)).findings if note.id == ident]
    assert len(findings) == 1, [(n.id, n.message) for n in checked(changed(base, changes)).findings]
    found = findings[0]
    assert (found.severity, found.source) == (RULES[ident]["severity"], RULES[ident]["source"])
    assert "{" not in found.message + found.fix
    shown = tuple(place.text for place in found.evidence)
    assert shown == texts
    assert all(place.file == "t.yaml" and place.line for place in found.evidence)


@pytest.mark.parametrize(
    ("chip", "release", "connector", "home"),
    [
        ("a3", "0.23.0.post1", "MooncakeConnector", "vllm has it"),
        ("a3", "0.23.0.post1", "MooncakePullConnector", "vllm-ascend 0.28.0rc1 and later has it"),
        ("a3", "0.13.0rc3", "MooncakeHybridConnector", "vllm-ascend deepseekv4 and later has it"),
        ("h200", "0.32.0", "MooncakeHybridConnector", "vllm-ascend deepseekv4 and later has it"),
        ("h200", "0.32.0", "MooncakeConnectorV1", "vllm-ascend has it"),
    ],
)  # fmt: skip
def test_a_connector_that_the_engine_does_not_have_is_refused_at_its_line(
    chip: str, release: str, connector: str, home: str
) -> None:
    engine = "vllm-ascend" if chip == "a3" else "vllm"
    made = {**CUDA, "connector": connector} if chip == "h200" else {"connector": connector}
    found = broken(changed(PD, {**made, "engine_version": release}))
    assert [(note.id, note.message) for note in found] == [
        ("connector-of-another-engine", f"{engine} {release} has no {connector}; {home}")
    ]
    assert [at.text for at in found[0].evidence] == [f"connector: {connector}"]


@pytest.mark.parametrize("connector", ["MooncakeHybridConnector", "MooncakeConnectorV1"])
def test_the_connectors_of_an_engine_pass(connector: str) -> None:
    assert broken(changed(PD, {"connector": connector})) == []


@pytest.mark.parametrize(
    "config",
    [
        {"kv_connector": "NixlConnector"},
        {"kv_connector": "MultiConnector",
         "kv_connector_extra_config": {"connectors": [{"kv_connector": "NixlConnector"}]}},
    ],
)  # fmt: skip
def test_a_connector_of_another_engine_in_extra_is_refused_there(config: dict[str, Any]) -> None:
    found = broken(changed(SEVERAL, {"groups.0.extra": kv(**config, kv_role="kv_both")}))
    assert [note.id for note in found] == ["connector-of-another-engine"]
    assert [at.text for at in found[0].evidence] == ["- --kv-transfer-config"]
    own = {**config, "kv_connector_module_path": "ours.nixl", "kv_connector": "NixlConnector"}
    own.pop("kv_connector_extra_config", None)
    assert broken(changed(SEVERAL, {"groups.0.extra": kv(**own, kv_role="kv_both")})) == []


def test_a_connector_without_a_router_shows_its_own_line() -> None:
    found = broken(changed(PD, {"connector": "MooncakeLayerwiseConnector"}))
    assert [note.id for note in found] == ["no-router"]
    assert [at.text for at in found[0].evidence] == ["connector: MooncakeLayerwiseConnector"]


@pytest.mark.parametrize(
    ("changes", "ident", "shown"),
    [
        ({"groups.0.options.block_size": 32}, "pd-block-size",
         ("block_size: 32", "- name: decode")),
        ({"groups.0.options.spec": "none"}, "pd-spec", ("spec: none", "- name: decode")),
        ({"groups.1.options.served_model_name": "b", "options.served_model_name": "a"},
         "pd-served-name", ("served_model_name: a", "served_model_name: b")),
        ({"groups.1.port": 60005}, "port-of-hccl", ("port: 60005",)),
        ({"groups.1.port": 60005, "groups.1.extra": kv(kv_port=30000)}, "kv-port-range",
         ("- --kv-transfer-config",)),
    ],
)  # fmt: skip
def test_the_line_is_that_of_the_cause(
    changes: dict[str, Any], ident: str, shown: tuple[str, ...]
) -> None:
    (found,) = [note for note in broken(changed(PD, changes)) if note.id == ident]
    assert sorted(place.text for place in found.evidence) == sorted(shown)


@pytest.mark.parametrize(
    ("value", "ident"), [("mooncake.json", "relative-path"), ("/etc/a:b", "path-with-colon")]
)
def test_files_that_variables_name_are_paths_too(value: str, ident: str) -> None:
    (found,) = broken(changed(PD, {"groups.1.env.MOONCAKE_CONFIG_PATH": value}))
    assert found.id == ident
    assert [at.text for at in found.evidence] == [f"MOONCAKE_CONFIG_PATH: {value}"]


def test_more_drafts_than_a_decode_step_holds_are_told_where_they_stand() -> None:
    tokens = "--speculative-config.num_speculative_tokens"
    found = {note.id: note for note in checked(
        changed(PD, {"groups.1.extra": [tokens, "3", "--max-num-batched-tokens", "64"],
                     "groups.1.options.max_num_seqs": 30})
    ).findings}["decode-step-too-small"]  # fmt: skip
    assert "64 tokens does not hold 30 requests with 3 draft tokens each (120)" in found.message
    assert f"- {tokens}" in [at.text for at in found.evidence]


#: The bad input that the issue names, and the only errors it may give.
BAD_INPUT = {
    "duplicate addresses": (PD, {"nodes.1.address": "10.0.0.1"}, ["duplicate-address"]),
    "two spellings of an address": (
        changed(PD, {"nodes.0.address": "2001:0:0::1"}),
        {"nodes.1.address": "2001::1"},
        ["duplicate-address"],
    ),
    "ports that collide": (PD, {"groups.0.port": 8000}, ["port-taken"]),
    "a port in Mooncake's range": (PD, {"groups.1.extra": kv(kv_port=30000)}, ["kv-port-range"]),
    "17 dies on a 16-die node": (PD, {"nodes.0.devices": 17}, ["too-many-devices"]),
    "mixed chips in one TP group": (SEVERAL, {"nodes.0.chip": "a2"}, ["mixed-chips"]),
    "P and D of different engines": (PD, EXAMPLES["pd-release"][1], ["pd-release"]),
    "another number of ranks": (SEVERAL, {"groups.0.data_parallel_size": 4}, ["too-many-ranks"]),
    "DP 17 on 16 dies": (
        PD, {"allow_unvalidated": False, "groups.1.data_parallel_size": 17}, ["too-many-ranks"]
    ),
    "TP 32 on 16 dies": (
        PD, {"allow_unvalidated": False, "groups.1.tensor_parallel_size": 32}, ["tp-spans-nodes"]
    ),
    "TP 3": (
        PD,
        {"allow_unvalidated": False, "groups.1.tensor_parallel_size": 3,
         "groups.1.data_parallel_size": 5},
        ["tp-divides-o-groups"],
    ),
    "drafts on one side": (
        PD, {"allow_unvalidated": False, "groups.1.options.spec": "none"}, ["pd-spec"]
    ),
    "two engines, neither published": (
        PD,
        {"allow_unvalidated": False, "nodes.1.chip": "h200", "groups.1.data_parallel_size": 8},
        ["pd-release"],
    ),
    "Pro on one A3 node each": (
        PD, {"allow_unvalidated": False, "model": "pro"}, ["pro-needs-nodes"]
    ),
    "three replicas on one node": (
        PD, {"allow_unvalidated": False, "groups.1.replicas": 3}, ["replicas-devices"]
    ),
    "a hundred replicas on one node": (
        PD, {"allow_unvalidated": False, "groups.1.replicas": 100}, ["replicas-devices"]
    ),
    "a TP group over two nodes": (SEVERAL, EXAMPLES["tp-spans-nodes"][1], ["tp-spans-nodes"]),
    "a misspelt node": (PD, {"groups.0.nodes": ["po"]}, ["unknown-node"]),
    "decode groups of two sizes": (
        PD,
        {"nodes.2": {**D0, "name": "d1", "address": "10.0.0.3"},
         "groups.2": {**PD["groups"][1], "name": "decode2", "nodes": ["d1"],
                      "data_parallel_size": 8, "tensor_parallel_size": 2}},
        ["pd-tells-decode-tp", "pd-tells-decode-dp"],
    ),
}  # fmt: skip


def test_one_finding_of_a_kv_port_and_of_a_model_too_large() -> None:
    """Not a risk of the single launch beside it, nor buffers that a smaller model leaves room."""
    said = {
        note.id for note in checked(changed(PD, {"groups.1.extra": kv(kv_port=30000)})).findings
    }
    assert "kv-port-range" in said and "kv-port-in-range-a3" not in said
    said = {note.id for note in checked(changed(PD, {"model": "pro"})).findings}
    assert "pro-needs-nodes" in said and not {"hccl-buffers", "hccl-buffers-large"} & said


def test_what_is_covered_is_covered_in_its_own_groups_alone() -> None:
    """A layout that nobody published in a third group is another cause."""
    third = {"name": "wide", "role": "decode", "nodes": ["d1"], "data_parallel_size": 8,
             "tensor_parallel_size": 2}  # fmt: skip
    made = changed(
        PD,
        {"allow_unvalidated": False, "groups.1.tensor_parallel_size": 3,
         "groups.1.data_parallel_size": 5, "groups.2": third,
         "nodes.2": {**D0, "name": "d1", "address": "10.0.0.3"}},
    )  # fmt: skip
    found = [note for note in broken(made) if note.id == "unvalidated"]
    assert [at.text for note in found for at in note.evidence] == ["- name: wide"]


@pytest.mark.parametrize("what", BAD_INPUT)
def test_one_error_for_each_cause(what: str) -> None:
    base, changes, ids = BAD_INPUT[what]
    assert [note.id for note in broken(changed(base, changes))] == ids


def test_kv_ports_above_the_range_of_eight_npus_are_fine_on_a2() -> None:
    """28000 is above the range of 8 NPUs and inside that of 16 dies."""
    a2 = {"chip": "a2", "groups.0.data_parallel_size": 2, "groups.1.data_parallel_size": 8}
    extra = {"groups.1.extra": kv(kv_port=28000)}
    assert broken(changed(PD, a2 | extra)) == []
    assert [note.id for note in broken(changed(PD, extra))] == ["kv-port-range"]


def test_published_draft_tokens_of_both_sides_are_fine() -> None:
    """The nightly of 0.23.0 has 1 on prefill and 3 on decode."""
    three = {"groups.1.extra": ["--speculative-config.num_speculative_tokens", "3"]}
    assert "pd-mtp-tokens" not in {note.id for note in checked(changed(PD, three)).findings}


def test_what_a_process_breaks_shows_the_line_that_causes_it() -> None:
    odd = {"groups.1.extra": ["--additional-config", '{"enable_balance_scheduling": true}']}
    found = broken(changed(PD, odd))
    assert [(note.id, note.evidence[0].text) for note in found] == [
        ("balance-with-pd", "- --additional-config")
    ]


def test_rules_of_single_launches_see_the_whole_replica() -> None:
    """Fused MC2 runs with at most 32 expert-parallel ranks, on however many nodes."""
    wide = {
        "model": "flash",
        "engine_version": "0.23.0.post1",
        "options.fused_mc2": True,
        "groups.0.data_parallel_size": 16,
        "groups.0.tensor_parallel_size": 4,
        **{f"nodes.{n}": {"name": f"n{n}", "address": f"10.0.0.{n + 1}", "interface": "eth0"}
           for n in (2, 3)},
        "groups.0.nodes": ["n0", "n1", "n2", "n3"],
    }  # fmt: skip
    found = {note.id: note for note in checked(changed(SEVERAL, wide)).findings}
    assert "64" in found["fused-mc2-ep-limit"].message
    assert found["fused-mc2-ep-limit"].evidence[0].text == "fused_mc2: true"


def test_the_recompute_scheduler_is_for_decode_only() -> None:
    on = ["--additional-config", '{"recompute_scheduler_enable": true}']
    for group, ids in ((0, ["recompute-on-prefill"]), (1, [])):
        found = checked(changed(PD, {f"groups.{group}.extra": on})).findings
        assert [note.id for note in found if note.id.startswith("recompute")] == ids


@pytest.mark.parametrize("table", TOPOLOGY_TABLES)
def test_rows_keep_the_schema(table: str) -> None:
    assert read_rows(table) == catalog().table(table)


def test_rules_cover_rules_that_exist() -> None:
    launches = catalog().table("rules")
    known = {"unvalidated", *RULES, *(row["id"] for row in launches)}
    every = [*RULES.values(), *launches]
    assert {name for row in every for name in row.get("covers", ())} <= known


def test_planned_refuses_with_every_line() -> None:
    text = text_of(changed(PD, {"nodes.1.address": "10.0.0.1", "groups.0.port": 8000}))
    with pytest.raises(AscendV4Error) as refused:
        planned(parse_topology(text, "t.yaml"), catalog())
    assert refused.value.code == ExitCode.REFUSED
    assert refused.value.kind == "duplicate-address"
    assert refused.value.message.splitlines() == [
        "t.yaml:11: node d0 has the address of node p0, 10.0.0.1 [duplicate-address]",
        "  also t.yaml:20: port 8000 of node p0, asked for by group prefill, is that of the"
        " router (OpenAI-compatible API) [port-taken]",
    ]


def test_planned_returns_the_deployment_with_its_findings() -> None:
    made = planned(parse_topology(text_of(PD), "t.yaml"), catalog())
    assert [process.role for _, process in made.processes()].count("decode") == 16
    assert made.findings == checked(PD).findings
    assert len({(n.id, n.message) for n in made.notes()}) == len(made.notes())


@pytest.mark.parametrize(
    ("changes", "kind", "line"),
    [
        ({"chip": "a33"}, "unknown-chip", "chip: a33"),
        ({"nodes.1.chip": "a33"}, "unknown-chip", "chip: a33"),
        ({"engine_version": "0.23"}, "unknown-release", "engine_version: '0.23'"),
        ({"model": "flush"}, "unknown-model", "model: flush"),
        ({"groups.1.extra": ["stray"]}, "stray-argument", "extra:"),
    ],
)
def test_unknown_words_are_usage_errors_with_their_line(
    changes: dict[str, Any], kind: str, line: str
) -> None:
    with pytest.raises(TopologyError) as error:
        checked(changed(PD, changes))
    assert error.value.code == ExitCode.USAGE
    assert [(f.id, f.evidence[0].text) for f in error.value.findings] == [(kind, line)]


def test_flow_style_shows_the_line_of_the_item() -> None:
    text = (
        "schema: 1\nname: flow\nchip: a3\nallow_unvalidated: true\nnodes:\n"
        "- {name: a, address: 10.0.0.1, interface: e}\n"
        "- {name: b, address: 10.0.0.1, interface: e}\n"
        "groups: [{name: g, nodes: [a, b], tensor_parallel_size: 4, data_parallel_size: 8}]\n"
    )
    found = check_topology(parse_topology(text, "f.yaml"), catalog()).findings
    assert found[0].evidence == (
        Evidence("f.yaml", 7, "- {name: b, address: 10.0.0.1, interface: e}"),
    )


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"model_dir": "~/flash"}, ["model_dir: ~/flash"]),
        ({"options.api_key_file": "key"}, ["api_key_file: key"]),
        (
            {"model_dir": "flash", "groups.1.options.api_key_file": "./key"},
            ["model_dir: flash", "api_key_file: ./key"],
        ),
        ({"options.api_key_file": "/etc/key"}, []),
    ],
)
def test_paths_of_the_file_are_absolute(changes: dict[str, Any], lines: list[str]) -> None:
    found = [note for note in broken(changed(PD, changes)) if note.id == "relative-path"]
    assert [place.text for note in found for place in note.evidence] == lines


def test_a_rehearsal_may_have_relative_paths() -> None:
    rehearsal = {"schema": 1, "name": "r", "profile": "cpu", "model_dir": "tiny",
                 "nodes": [{"name": "n", "address": "127.0.0.1"}],
                 "groups": [{"name": "s", "nodes": ["n"]}]}  # fmt: skip
    assert broken(rehearsal) == []


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("p", "p-0"), ["group-in-group"]),
        (("p-12", "p"), ["group-in-group"]),
        (("p", "p-0-x"), ["group-in-group"]),
        (("p", "p-x"), []),
        (("p", "p0"), []),
        (("router", "d"), ["group-called-router"]),
    ],
)
def test_names_of_groups_are_told_apart(names: tuple[str, str], found: list[str]) -> None:
    made = changed(PD, {"groups.0.name": names[0], "groups.1.name": names[1]})
    assert [note.id for note in broken(made)] == found
