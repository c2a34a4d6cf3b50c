"""Who gets a router, where it may listen, and whom it lets in."""

from __future__ import annotations

from typing import Any

import pytest

from ascend_v4.render.targets import RenderOptions
from ascend_v4.render.targets import notes as notes_of_target

from .small import PD, SEVERAL, broken, changed, checked

#: One API server on each of two nodes, or one for each of four ranks.
HYBRID = {"groups.0.load_balancing": "hybrid"}
EXTERNAL = {"groups.0.load_balancing": "external"}
GPUS = {
    "chip": "h200",
    "groups.0.tensor_parallel_size": 2,
    "groups.1.data_parallel_size": 8,
}
KEY = {"options.api_key_file": "/etc/key"}
OPEN = {"router.host": "10.0.0.1"}


def said(topology: dict[str, Any], *words: str) -> list[tuple[str, str]]:
    """Return the findings whose id names a word, with their severity."""
    found = checked(topology).findings
    return [(note.id, note.severity) for note in found if any(word in note.id for word in words)]


@pytest.mark.parametrize(
    ("base", "changes", "found"),
    [
        (PD, {}, []),
        (PD, OPEN, ["router-asks-no-key"]),
        (PD, {**OPEN, **KEY}, ["router-asks-no-key"]),
        (PD, {**GPUS, "connector": "NixlConnector", **OPEN, **KEY}, ["router-asks-no-key"]),
        (PD, {**GPUS, "connector": "MooncakeConnector", **OPEN, **KEY}, ["router-asks-no-key"]),
        (SEVERAL, {**HYBRID, **OPEN}, ["open-without-key"]),
        (SEVERAL, {**HYBRID, **OPEN, **KEY}, []),
        (PD, {"router.host": "0.0.0.0", **KEY}, ["router-asks-no-key"]),
        (PD, {"router.host": "127.0.0.2", **KEY}, []),
    ],
)
def test_a_router_that_lets_everyone_in_is_a_risk(
    base: dict[str, Any], changes: dict[str, Any], found: list[str]
) -> None:
    """Every router before prefill and decode sends the servers' key for a client without one."""
    made = changed(base, changes)
    assert said(made, "asks-no-key", "open-without") == [(ident, "risk") for ident in found]
    assert broken(made) == []


def test_kubernetes_is_told_as_well() -> None:
    keyed = RenderOptions(api_key_secret="key", privileged=True)
    for base, told in ((PD, ["router-asks-no-key"]), (changed(SEVERAL, HYBRID), [])):
        whole = checked(changed(base, KEY)).deployment
        assert whole is not None
        found = [note.id for note in notes_of_target("k8s-lws", whole, keyed)]
        assert [ident for ident in found if "key" in ident] == told


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("10.0.0.1", []),
        ("0.0.0.0", []),
        ("::1", []),
        ("localhost", []),
        ("10.0.0.2", [("router-host-elsewhere", "error")]),
        ("10.0.0.9", [("router-host-unknown", "warn")]),
        ("api.lan", [("router-host-unknown", "warn")]),
        ("10.0.0.300", [("bad-router-host", "error")]),
        ("[::1]", [("bad-router-host", "error")]),
    ],
)
def test_a_router_listens_on_an_address_of_its_node(
    host: str, found: list[tuple[str, str]]
) -> None:
    assert said(changed(PD, {"router.host": host}), "router-host") == found


def test_a_node_on_loopback_has_no_claim_on_the_routers_loopback() -> None:
    """Both nodes of a rehearsal are this machine."""
    here = {
        "profile": "cpu",
        "chip": None,
        "nodes.0.address": "127.0.0.2",
        "nodes.1.address": "127.0.0.1",
        "groups.0.data_parallel_size": 1,
        "groups.0.tensor_parallel_size": 1,
        "groups.1.data_parallel_size": 1,
    }
    assert said(changed(PD, here), "router-host") == []


def test_one_hybrid_replica_has_a_server_on_each_node_and_a_router() -> None:
    whole = checked(changed(SEVERAL, HYBRID)).deployment
    assert whole is not None and whole.router() is not None
    argv = whole.router()[1].argv  # type: ignore[index]
    at = argv.index("--worker-urls")
    assert argv[at + 1 : at + 3] == ("http://10.0.0.1:7100", "http://10.0.0.2:7100")
    assert whole.endpoint == "http://127.0.0.1:8000"
    bare = changed(SEVERAL, {**HYBRID, "router.kind": "none"})
    assert said(bare, "in-front") == [("nothing-in-front", "warn")]
    assert said(changed(SEVERAL, {"router.kind": "none"}), "in-front") == []


@pytest.mark.parametrize("connector", ["NixlConnector", "MooncakeConnector"])
def test_addresses_of_ipv6_are_bracketed_in_urls_and_nowhere_else(connector: str) -> None:
    six = {"nodes.0.address": "fd00::1", "nodes.1.address": "fd00::2", "connector": connector}
    whole = checked(changed(PD, {**GPUS, **six})).deployment
    assert whole is not None
    urls = {word.rpartition(":")[0] for word in whole.router()[1].argv if "http" in word}  # type: ignore[index]
    assert urls == {"http://[fd00::1]", "http://[fd00::2]"}
    hosts = {process.env["VLLM_HOST_IP"] for _, process in whole.processes() if process.env}
    assert hosts == {"fd00::1", "fd00::2"}
    spelt = changed(PD, {**GPUS, **six, "nodes.0.address": "[fd00::1]"})
    assert [note.id for note in broken(spelt)] == ["bad-address"]
