"""Two real vLLM nodes in network namespaces, one data-parallel rank on each.

More nodes and all kinds of failure: python -m tests.figures.cluster.
"""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from ascend_v4.rehearsal.build import build_rehearsal

from .deployment import gone
from .netns import network, why_not
from .real import RealNodes

pytestmark = [pytest.mark.real_engine, pytest.mark.skipif(bool(why_not()), reason=why_not())]

GROUPS = [
    {"name": "server", "nodes": ["n0", "n1"], "data_parallel_size": 2, "tensor_parallel_size": 1}
]
#: Quick to see a hang; the engine's own check is asked by other tests.
OPTIONS = ("--no-check-engine", "--probe-interval", 3, "--probe-timeout", 4)
ASKED = 16


@pytest.fixture
def real(cpu_engine, tmp_path):
    """Two nodes that serve; whatever a test does, nothing stays on either."""
    build_rehearsal(tmp_path / "models" / "rehearsal")
    with network(2) as net:
        nodes = RealNodes(tmp_path, net, GROUPS)
        try:
            nodes.deployment.up(*OPTIONS).ready()
            yield nodes
        finally:
            nodes.deployment.close()
            left = gone([pid for node in (0, 1) for pid in net.pids(node)], 8.0)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        assert left == []


def on_nodes(nodes):
    """Return every process on each node."""
    return [nodes.net.pids(node) for node in (0, 1)]


def test_requests_spread_and_a_dead_rank_ends_all(real):
    """The rank without an API is killed: its node says 9, and nothing is left on either.

    vLLM's own headless process exits 0 then, and the head goes on taking requests.
    """
    body = json.dumps({"model": "rehearsal", "prompt": "Hello", "max_tokens": 4})
    before = real.finished()
    with ThreadPoolExecutor(ASKED) as pool:
        replies = list(pool.map(lambda _: real.ask("/v1/completions", body), range(ASKED)))
    assert [json.loads(reply)["usage"]["completion_tokens"] for reply in replies] == [4] * ASKED
    done = {rank: count - before.get(rank, 0) for rank, count in real.finished().items()}
    assert set(done) == {"0", "1"}
    assert sum(done.values()) >= ASKED
    assert min(done.values()) >= ASKED // 4

    os.kill(real.named(1, "VLLM::EngineCore"), signal.SIGKILL)
    assert real.deployment.end() == 9
    error = real.deployment.error()
    assert (error["kind"], error["message"].split(":")[0]) == ("engine-died", "node n1")
    assert on_nodes(real) == [[], []]


def test_killed_head_ends_all(real):
    os.kill(real.named(0, "VLLM::EngineCore"), signal.SIGKILL)
    assert real.deployment.end() == 9
    error = real.deployment.error()
    assert (error["kind"], error["message"].split(":")[0]) == ("engine-died", "node n0")
    assert on_nodes(real) == [[], []]


def test_cut_link_is_noticed_by_the_node_without_an_api(real):
    """The head goes on serving with its own rank, /health says 200: the other node tells."""
    real.net.cut(1)
    assert real.deployment.end(timeout_s=90) == 17
    error = real.deployment.error()
    head = f"http://{real.net.address(0)}:8000"
    assert (error["kind"], error["message"]) == (
        "peer-lost",
        f"node n1: server-0-1 lost the server at {head}: 3 questions had no answer",
    )
    assert on_nodes(real) == [[], []]
