"""Variables and flags of the user's own: into every plan, judged, never a secret shown."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.render.targets import TARGETS, RenderOptions, render
from ascend_v4.topology.check import planned, refuse, verdict
from ascend_v4.topology.read import TopologyError, parse_topology
from ascend_v4.topology.variables import looks_secret

from .small import PD, SEVERAL, changed, checked, text_of

BOTH = {"env.HCCL_BUFFSIZE": 900, "env.MY_OWN": "a b", "groups.1.env.HCCL_BUFFSIZE": "700"}
FITS = {"options.gpu_memory_utilization": 0.3}


def shown(topology: dict[str, Any]) -> list[tuple[str, str, tuple[str, ...], str]]:
    """Return what a topology's check finds, but for the router: id, severity, lines, fix."""
    return [
        (note.id, note.severity, tuple(place.text for place in note.evidence), note.fix)
        for note in checked(topology).findings
        if note.id != "router-on-loopback"
    ]


def test_variables_reach_every_server_and_the_group_wins() -> None:
    made = planned(parse_topology(text_of(changed(PD, BOTH)), "t.yaml"), catalog())
    found = {
        (process.role, process.env.get("HCCL_BUFFSIZE"), process.env.get("MY_OWN"))
        for _, process in made.processes()
    }
    assert found == {("prefill", "900", "a b"), ("decode", "700", "a b"), ("router", None, None)}
    plan = made.node_plan("d0").plan
    assert plan.origins["env.HCCL_BUFFSIZE"] == "file"
    reasons = [
        (made.rows[group][f"env.{name}"]["reason"], made.rows[group][f"env.{name}"]["source"])
        for group, name in (("prefill", "HCCL_BUFFSIZE"), ("decode", "HCCL_BUFFSIZE"))
    ]
    assert reasons == [
        ("from env of the topology", "all groups"),
        ("from env of the topology", "group decode"),
    ]


def test_what_the_user_sets_is_not_unset() -> None:
    """``HCCL_ALGO`` is one that a plan takes out of the environment where it sets none."""
    before = planned(parse_topology(text_of(PD), "t.yaml"), catalog()).node_plan("d0").plan
    ring = changed(PD, {"env.HCCL_ALGO": "level0:ring"})
    after = planned(parse_topology(text_of(ring), "t.yaml"), catalog()).node_plan("d0").plan
    assert "HCCL_ALGO" in before.processes[0].unset
    for process in after.processes:
        assert "HCCL_ALGO" not in process.unset and process.env["HCCL_ALGO"] == "level0:ring"


@pytest.mark.parametrize("target", [t for t in TARGETS if t not in ("prometheus", "grafana")])
def test_every_rendering_has_them(target: str) -> None:
    topology = changed(PD, {**BOTH, "env.MY_OWN": "one-of-mine"})
    if target == "kthena":
        # One server a pod, so that its router finds each.
        topology = changed(topology, {"groups.0.load_balancing": "internal",
                                      "groups.1.load_balancing": "internal"})  # fmt: skip
    made = planned(parse_topology(text_of(topology), "t.yaml"), catalog())
    text = "\n".join(render(target, made, RenderOptions()).values())
    assert "MY_OWN" in text and "one-of-mine" in text
    assert "HCCL_BUFFSIZE=700" in text or "HCCL_BUFFSIZE: '700'" in text or '"700"' in text


def test_values_are_taken_as_they_are_written() -> None:
    text = text_of(PD) + "env: {A: 010, B: 1:30, C: 0x10, D: 1e3, E: '', F: 1_000, G: 0.90}\n"
    assert parse_topology(text, "t.yaml").topology.env == {
        "A": "010", "B": "1:30", "C": "0x10", "D": "1e3", "E": "", "F": "1_000", "G": "0.90",
    }  # fmt: skip


def test_what_is_no_variable_is_said_without_its_value() -> None:
    text = text_of(PD) + 'env: {A-B: x, C: true, D: [s3cret], E: "a\\nb"}\n'
    with pytest.raises(TopologyError) as error:
        parse_topology(text, "t.yaml")
    assert [note.message for note in error.value.findings] == [
        "env: 'A-B' is no name of a variable: letters, digits and underscores",
        "env: the value of C must be text or a number; true and false go in quotes",
        "env: the value of D must be text or a number; true and false go in quotes",
        "env: the value of E must be one line of text",
    ]
    assert "s3cret" not in error.value.message


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD"]
)
def test_a_secret_is_refused_and_never_shown(name: str) -> None:
    topology = changed(
        PD, {f"groups.0.env.{name}": "s3cret", "groups.0.env.HCCL_IF_IP": "10.0.0.9"}
    )
    findings = checked(topology).findings
    assert [(note.id, note.evidence[0].text) for note in findings] == [
        ("secret-variable", f"{name}: …"),
        ("placed-variable", "HCCL_IF_IP: 10.0.0.9"),
    ]
    assert "s3cret" not in json.dumps([note.to_json() for note in findings])


def test_names_that_only_sound_secret_pass() -> None:
    harmless = ("TOKENIZERS_PARALLELISM", "SSL_KEY_FILE", "VLLM_MAX_TOKENS_X", "KEYBOARD")
    assert [name for name in harmless if looks_secret(name)] == []


def test_a_variable_is_judged_as_lint_judges_it() -> None:
    wrong = {
        "env.VLLM_ASCEND_ENABLE_FLASHCOM1": 1,
        "groups.0.env.USE_MULTI_BLOCK_POOL": 1,
        "groups.1.env.VLLM_RPC_TIMEOUT": 10,
    }
    assert shown(changed(PD, wrong)) == [
        ("unknown-variable", "error", ("VLLM_ASCEND_ENABLE_FLASHCOM1: 1",),
         "did you mean VLLM_ASCEND_ENABLE_FLASHCOMM1?"),
        ("rpc-timeout-short", "warn", ("VLLM_RPC_TIMEOUT: 10",),
         "env: {VLLM_RPC_TIMEOUT: 3600000}"),
        ("multi-block-pool-inert", "info", ("USE_MULTI_BLOCK_POOL: 1",), "harmless; it may go"),
    ]  # fmt: skip


def test_the_memory_check_counts_the_users_buffer() -> None:
    found = shown(changed(PD, {"env.HCCL_BUFFSIZE": 10000, "groups.1.env.HCCL_BUFFSIZE": 300}))
    assert [(ident, lines) for ident, _, lines, _ in found] == [
        ("hccl-buffers", ("HCCL_BUFFSIZE: 10000",))
    ]


def test_unknown_flags_of_extra_are_found_with_their_line() -> None:
    extra = ["--max-num-sqs", "3", "--nosuch", "--max-num-seqs", "4"]
    assert shown(changed(PD, {"groups.0.extra": extra})) == [
        ("unknown-flag", "error", ("- --max-num-sqs",), "did you mean options.max_num_seqs?"),
        ("unknown-flag", "warn", ("- --nosuch",),
         "check `vllm serve --help=all` of the release"),
    ]  # fmt: skip


def test_our_own_leftovers_are_no_news() -> None:
    """``USE_MULTI_BLOCK_POOL`` is in the plan and reported only where the user states it."""
    made = planned(parse_topology(text_of(PD), "t.yaml"), catalog())
    assert made.node_plan("p0").plan.processes[0].env["USE_MULTI_BLOCK_POOL"] == "1"
    assert [note.id for note in made.notes()] == ["router-on-loopback"]
    alone = compile_plan(LaunchRequest(chip="a3"), catalog()).plan
    assert alone.processes[0].env["USE_MULTI_BLOCK_POOL"] == "1" and alone.notes == ()


def test_a_deployment_that_cannot_fit_exits_5() -> None:
    findings = checked(changed(PD, FITS)).findings
    assert {note.id for note in findings if note.severity == "error"} == {"does-not-fit"}
    assert verdict(findings) == ExitCode.DOES_NOT_FIT
    with pytest.raises(AscendV4Error) as error:
        refuse(findings)
    assert (error.value.code, error.value.kind) == (ExitCode.DOES_NOT_FIT, "does-not-fit")
    both = checked(changed(PD, {**FITS, "nodes.1.address": "10.0.0.1"})).findings
    assert verdict(both) == ExitCode.REFUSED
    assert verdict(checked(PD).findings) == ExitCode.DONE


@pytest.mark.parametrize(
    "words",
    [
        ("topology", "check", "FILE"),
        ("serve", "--topology", "FILE", "--node", "p0", "--dry-run"),
        ("cluster", "up", "-f", "FILE", "--dry-run"),
        ("render", "bash", "-f", "FILE"),
    ],
    ids=lambda words: words[0],
)
def test_every_command_exits_5(ascend, tmp_path, words: tuple[str, ...]) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(text_of(changed(PD, FITS)))
    assert ascend(*(str(file) if word == "FILE" else word for word in words)).code == 5


def kv_config(process: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(process.argv[process.argv.index("--kv-transfer-config") + 1])
    return found


def test_a_pool_beside_prefill_and_decode() -> None:
    pool = changed(PD, {"kv_pool.backend": "memcache"})
    made = planned(parse_topology(text_of(pool), "t.yaml"), catalog())
    sides = {"prefill": {"dp_size": 4, "tp_size": 4}, "decode": {"dp_size": 16, "tp_size": 1}}

    def side(role: str, ident: str) -> dict[str, Any]:
        store = {"backend": "memcache", "lookup_rpc_port": ident}
        return {
            "kv_connector": "MultiConnector",
            "kv_role": role,
            "kv_port": 36000,
            "engine_id": ident,
            "kv_connector_extra_config": {
                **sides,
                "connectors": [
                    {"kv_connector": "MooncakeHybridConnector", "kv_role": role,
                     "kv_port": 36000, "kv_connector_extra_config": sides},
                    {"kv_connector": "AscendStoreConnector", "kv_role": role,
                     "kv_connector_extra_config": store},
                ],
            },
        }  # fmt: skip

    for _, process in made.processes():
        if process.role == "prefill":
            assert kv_config(process) == side("kv_producer", "0")
        elif process.role == "decode":
            assert kv_config(process) == side("kv_consumer", "1")
    assert [(note.id, note.evidence[0].text) for note in checked(pool).findings][:2] == [
        ("pool-memcache-config", "kv_pool:"),
        ("pool-hash-seed", "kv_pool:"),
    ]


def test_replicas_of_a_pool_have_sockets_of_their_own() -> None:
    """Two replicas share a node: the pool's socket must not be the same."""
    one = {
        "model": "flash",
        "engine_version": "0.23.0.post1",
        "kv_pool.backend": "mooncake",
        "nodes.1": None,
        "groups.0": {**SEVERAL["groups"][0], "nodes": ["n0"], "replicas": 2,
                     "data_parallel_size": 2, "tensor_parallel_size": 4},
    }  # fmt: skip
    made = planned(parse_topology(text_of(changed(SEVERAL, one)), "t.yaml"), catalog())
    servers = [process for _, process in made.processes() if process.role == "mixed"]
    assert [kv_config(process) for process in servers] == [
        {
            "kv_connector": "AscendStoreConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"backend": "mooncake", "lookup_rpc_port": ident},
        }
        for ident in ("0", "1")
    ]


def test_pools_with_configurations_of_their_own_may_hash_otherwise() -> None:
    pools = {
        "kv_pool.backend": "mooncake",
        "groups.0.env": {"PYTHONHASHSEED": 0, "MOONCAKE_CONFIG_PATH": "/a.json"},
        "groups.1.env": {"PYTHONHASHSEED": 1, "MOONCAKE_CONFIG_PATH": "/b.json"},
    }
    assert shown(changed(PD, pools)) == []
    same = {**pools, "groups.1.env": {**pools["groups.1.env"], "MOONCAKE_CONFIG_PATH": "/a.json"}}
    assert [ident for ident, *_ in shown(changed(PD, same))] == ["pool-hash-seeds"]


def test_the_port_of_a_pools_transfer_is_the_inner_connectors() -> None:
    """A port around the connectors moves nothing, so the plan claims the one inside."""
    outer = {"kv_pool.backend": "mooncake",
             "groups.1.extra": ["--kv-transfer-config.kv_port", "40000"]}  # fmt: skip
    made = planned(parse_topology(text_of(changed(PD, outer)), "t.yaml"), catalog())
    ports = {
        port.port
        for _, process in made.processes()
        for port in process.ports
        if process.role == "decode" and port.use == "KV transfer"
    }
    assert ports == set(range(36000, 36016))


def test_odd_values_reach_the_server_as_they_stand() -> None:
    """No fact is filled in, on moved processes neither, and the shell changes nothing."""
    odd = "a \"b\" $HOME 'd' \\ %h `id` {node_address} #x"
    made = planned(parse_topology(text_of(changed(PD, {"env.MY_OWN": odd})), "t.yaml"), catalog())
    servers = [process for _, process in made.processes() if process.role != "router"]
    assert {process.env["MY_OWN"] for process in servers} == {odd}
    script = render("bash", made, RenderOptions())["d0.sh"]
    line = next(line for line in script.splitlines() if "export MY_OWN=" in line)
    said = subprocess.run(
        ["bash", "-c", f'{line}; printf %s "$MY_OWN"'], capture_output=True, text=True, check=True
    )
    assert said.stdout == odd
