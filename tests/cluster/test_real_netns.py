"""Two and three real vLLM nodes in network namespaces, one data-parallel rank on each.

All kinds of failure on any number of nodes: python -m tests.figures.cluster.
"""

import contextlib
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from ascend_v4.rehearsal.build import build_rehearsal
from tests.support.fake_tree_run import until

from .deployment import gone
from .netns import network, why_not
from .real import RealNodes

pytestmark = [pytest.mark.real_engine, pytest.mark.skipif(bool(why_not()), reason=why_not())]

#: Quick to see a hang; the engine's own check is asked by other tests.
OPTIONS = ("--no-check-engine", "--probe-interval", 3, "--probe-timeout", 4, "--drain-timeout", 120)
ASKED = 16


@contextlib.contextmanager
def serving(place, count):
    """Nodes that serve; whatever a test does, nothing stays on any."""
    build_rehearsal(place / "models" / "rehearsal")
    names = [f"n{node}" for node in range(count)]
    group = {"name": "server", "nodes": names, "data_parallel_size": count}
    with network(count) as net:
        nodes = RealNodes(place, net, [{**group, "tensor_parallel_size": 1}])
        try:
            nodes.deployment.up(*OPTIONS).ready()
            yield nodes
        finally:
            nodes.deployment.close()
            left = gone([pid for pids in on_nodes(nodes) for pid in pids], 8.0)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        assert left == []


@pytest.fixture
def real(cpu_engine, tmp_path):
    with serving(tmp_path, 2) as nodes:
        yield nodes


@pytest.fixture
def three(cpu_engine, tmp_path):
    with serving(tmp_path, 3) as nodes:
        yield nodes


def on_nodes(nodes):
    """Return every process on each node."""
    return [nodes.net.pids(node) for node in range(nodes.net.count)]


def assert_spread(nodes):
    """Ask many at once: each rank finishes its part, by the engine's own counters."""
    body = json.dumps({"model": "rehearsal", "prompt": "Hello", "max_tokens": 4})
    before = nodes.finished()
    with ThreadPoolExecutor(ASKED) as pool:
        replies = list(pool.map(lambda _: nodes.ask("/v1/completions", body), range(ASKED)))
    assert [json.loads(reply)["usage"]["completion_tokens"] for reply in replies] == [4] * ASKED
    done = {rank: count - before.get(rank, 0) for rank, count in nodes.finished().items()}
    assert set(done) == {str(rank) for rank in range(nodes.net.count)}
    assert sum(done.values()) >= ASKED
    assert min(done.values()) >= ASKED // (2 * nodes.net.count)


def assert_ended_by(nodes, node):
    """The engine of a node has died: all ends with its code, and nothing is left anywhere."""
    assert nodes.deployment.end() == 9
    error = nodes.deployment.error()
    assert (error["kind"], error["message"].split(":")[0]) == ("engine-died", f"node n{node}")
    assert on_nodes(nodes) == [[]] * nodes.net.count


def test_requests_spread_and_a_dead_rank_ends_all(real):
    """The rank without an API is killed: its node says 9, and nothing is left on either.

    vLLM's own headless process exits 0 then, and the head goes on taking requests.
    """
    assert_spread(real)
    os.kill(real.named(1, "VLLM::EngineCore"), signal.SIGKILL)
    assert_ended_by(real, 1)


def test_a_drain_answers_what_runs_on_both_nodes(real):
    """The ranks without an API are asked to end when the head has given its last answer."""
    body = {"model": "rehearsal", "prompt": "Hello", "max_tokens": 4000, "ignore_eos": True}
    with ThreadPoolExecutor(4) as pool:
        replies = [pool.submit(real.ask, "/v1/completions", json.dumps(body)) for _ in range(4)]
        until(lambda: min(real.running().values(), default=0) > 0, 60)
        assert real.deployment.end(signal.SIGTERM, timeout_s=150) == 143
        usage = [json.loads(reply.result())["usage"]["completion_tokens"] for reply in replies]
    assert usage == [4000] * 4
    assert on_nodes(real) == [[], []]


def test_three_nodes_and_a_dead_rank_of_the_last(three):
    assert_spread(three)
    os.kill(three.named(2, "VLLM::EngineCore"), signal.SIGKILL)
    assert_ended_by(three, 2)


def test_killed_head_ends_all(real):
    os.kill(real.named(0, "VLLM::EngineCore"), signal.SIGKILL)
    assert_ended_by(real, 0)


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
