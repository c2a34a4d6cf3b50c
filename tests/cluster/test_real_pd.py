"""Prefill and decode apart: two real vLLM nodes, the real NIXL, the real vllm-router.

The nodes are network namespaces; KV moves over TCP. The router runs on the prefill node.
"""

import json
import os
import re
import secrets
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ascend_v4.engine.addons import install_nixl, install_router
from ascend_v4.host.system import Host
from ascend_v4.paths import engine_dir
from ascend_v4.rehearsal.build import build_rehearsal

from .deployment import gone
from .netns import network, why_not
from .real import REAL_ENV, RealNodes

pytestmark = [pytest.mark.real_engine, pytest.mark.skipif(bool(why_not()), reason=why_not())]

GROUPS = [
    {"name": "prefill", "role": "prefill", "nodes": ["n0"]},
    {"name": "decode", "role": "decode", "nodes": ["n1"]},
]
OPTIONS = ("--no-check-engine", "--probe-interval", 3, "--probe-timeout", 8)
#: Longer than a KV block, so that there is a block to move.
PROMPT = "A prompt that is longer than one block of the KV cache. " * 12
ADDONS_ENV = {**REAL_ENV, "HOME": os.path.expanduser("~")}


@pytest.fixture(scope="module")
def addons(cpu_engine):
    """vllm-router and NIXL, installed as the documentation says."""
    host = Host(env=ADDONS_ENV)
    install_nixl(host, engine_dir(REAL_ENV, "cpu"), say=lambda _: None)
    install_router(host, engine_dir(REAL_ENV, "router"), say=lambda _: None)


@pytest.fixture
def real(addons, tmp_path):
    """A pair that serves; whatever a test does, nothing stays on either node."""
    build_rehearsal(tmp_path / "models" / "rehearsal")
    with network(2) as net:
        nodes = RealNodes(tmp_path, net, GROUPS, router={"node": "n0", "host": net.address(0)})
        try:
            nodes.deployment.up(*OPTIONS).ready()
            yield nodes
        finally:
            nodes.deployment.close()
            left = gone([pid for node in (0, 1) for pid in net.pids(node)], 8.0)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        assert left == []


def moved(nodes):
    """Return the bytes that the decode server has fetched, by its own counter."""
    text = nodes.ask("/metrics", node=1, port=7100)
    found = re.search(r"^vllm:nixl_bytes_transferred_sum\{.*\} ([\d.e+]+)", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def complete(nodes):
    # A prompt of its own: what the decode server has in its cache is not fetched again.
    prompt = f"{secrets.token_hex(8)} {PROMPT}"
    body = {"model": "rehearsal", "prompt": prompt, "max_tokens": 6, "temperature": 0}
    return json.loads(nodes.ask("/v1/completions", json.dumps(body)))


def ended(nodes, code, timeout_s=60.0):
    """Assert how it ended and that nothing is left; return the error."""
    assert nodes.deployment.end(timeout_s=timeout_s) == code
    assert [nodes.net.pids(node) for node in (0, 1)] == [[], []]
    return nodes.deployment.error()


def test_kv_moves_and_a_dead_decode_server_ends_all(real):
    before = moved(real)
    reply = complete(real)
    assert reply["usage"]["completion_tokens"] == 6
    assert "prefill_addr" in reply["id"]
    assert moved(real) > before

    os.kill(real.named(1, "VLLM::EngineCore"), signal.SIGKILL)
    error = ended(real, 9)
    assert (error["kind"], error["message"].split(":")[0]) == ("engine-died", "node n1")


def test_a_transfer_that_stalls_goes_on_and_one_that_never_comes_ends_all(real):
    complete(real)
    before = moved(real)
    # The servers and the router reach each other; only the KV cache has no way.
    real.net.hold_back(7000, 7100, 8000)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(complete, real)
        time.sleep(3)
        assert (waiting.done(), moved(real)) == (False, before)
        real.net.let_through()
        assert waiting.result(60)["usage"]["completion_tokens"] == 6
    assert moved(real) > before
    assert real.deployment.process.poll() is None

    real.net.hold_back(7000, 7100, 8000)
    # Three probes, each with its timeout, in turn with those of the servers.
    error = ended(real, 10, 150)
    assert (error["kind"], error["message"].split(": ")[0]) == ("no-kv-transfer", "node n0")
    assert "no KV cache came to a decode server" in error["message"]


def test_a_dead_prefill_server_ends_all(real):
    os.kill(real.named(0, "VLLM::EngineCore"), signal.SIGKILL)
    error = ended(real, 9)
    assert (error["kind"], error["message"].split(":")[0]) == ("engine-died", "node n0")


def test_a_dead_router_ends_all(real):
    os.kill(real.named(0, "vllm::router"), signal.SIGKILL)
    error = ended(real, 9)
    assert error["message"].split(":")[0] == "node n0"
    assert "router" in error["message"]
