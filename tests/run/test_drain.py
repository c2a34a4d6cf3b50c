"""Who is asked to end first, and when: on a fake clock with members that only say they live."""

import threading
import time
import urllib.request

import pytest

from ascend_v4.core.plan import Process, Ready
from ascend_v4.run import drain as module
from ascend_v4.run.drain import Drain
from ascend_v4.run.ready import ReadyProbe
from ascend_v4.run.remote import Remote
from ascend_v4.run.spec import Spec
from tests.support.fake_tree_run import until


class Lives:
    """A member that has ended or not."""

    def __init__(self):
        self.exit_status = None
        self.over = False


def spec(name, role="mixed", **more):
    return Spec(name, ("x",), {}, ReadyProbe("http://127.0.0.1:9", "m"), role=role, **more)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_the_router_ends_before_its_servers(clock):
    specs = [spec("p", "prefill"), spec("d", "decode"), spec("router", "router")]
    members = {one.name: Lives() for one in specs}
    drain = Drain(specs, 15, 60.0)
    assert (drain.due(members), drain.due(members)) == (["router"], [])
    members["router"].exit_status = 0
    assert (drain.due(members), drain.due(members)) == (["p", "d"], [])


def test_the_node_of_the_endpoint_ends_before_the_others(clock):
    specs = [spec("n0", "node", remote=Remote("n0")), spec("n1", "node", remote=Remote("n1", True))]
    members = {one.name: Lives() for one in specs}
    drain = Drain(specs, 15, 60.0)
    assert drain.due(members) == ["n1"]
    members["n1"].over = True
    assert drain.due(members) == ["n0"]


def test_time_is_over_for_all_at_once(clock):
    specs = [spec("d", "decode", cuts_requests=True), spec("router", "router")]
    members = {one.name: Lives() for one in specs}
    drain = Drain(specs, 15, 60.0)
    assert drain.due(members) == ["router"]
    clock[0] += 61
    assert drain.due(members) == ["d"]


def answers(drain, members, clock, counts):
    """Give one answer after the other; return after how many it was asked to end."""
    for number, count in enumerate(counts, 1):
        clock[0] += 1
        assert drain.question() is not None
        drain.heard((count,))
        if drain.due(members):
            return number
    return None


@pytest.mark.parametrize(
    ("counts", "after"),
    [
        ([0, 0], 2),
        ([3, 0, 0], 3),
        ([0, 1, 0, 2, 0, 0], 6),
        ([5] * 9, None),
        ([None, None, None], 3),
        ([None, 0, None, 0], 4),
    ],
)
def test_a_server_that_would_cut_requests_waits_until_nothing_runs(clock, counts, after):
    members = {"s": Lives()}
    drain = Drain([spec("s", cuts_requests=True)], 15, 60.0)
    assert drain.due(members) == []
    assert answers(drain, members, clock, counts) == after


def test_two_such_servers_are_asked_in_turn(clock):
    drain = Drain([spec("a", cuts_requests=True), spec("b", cuts_requests=True)], 15, 60.0)
    asked = []
    for _ in range(4):
        clock[0] += 1
        drain.question()
        asked.append(drain.asked)
    assert asked == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("words", "cuts"),
    [
        ("vllm serve m", False),
        ("vllm serve m --data-parallel-size 1", False),
        ("vllm serve m --data-parallel-size 2", True),
        ("vllm serve m --data-parallel-size 4 --data-parallel-hybrid-lb", True),
        ("vllm serve m --data-parallel-size 4 --data-parallel-rank 3", False),
        ("vllm serve m --data-parallel-size 4 --data-parallel-external-lb", False),
        ("vllm serve m --headless --data-parallel-size 4", False),
    ],
)
def test_which_servers_cut_requests(words, cuts):
    ready = None if "--headless" in words else Ready("http://127.0.0.1:8000", "generate")
    assert Process("s", "mixed", tuple(words.split()), {}, ready=ready).cuts_requests is cuts


def test_in_flight_counts_running_and_waiting(monkeypatch):
    page = (
        b'vllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_running{engine="1"} 1.0\n'
        b'vllm:num_requests_waiting{engine="0"} 4.0\nvllm:num_requests_waiting_by_reason{x="y"} 9\n'
    )
    replies = [module_reply(200, page), module_reply(200, b"# nothing\n"), module_reply(503, page)]
    monkeypatch.setattr(module, "request", lambda *_, **__: replies.pop(0))
    probe = ReadyProbe("http://127.0.0.1:9", "m")
    assert [module.in_flight(probe) for _ in range(3)] == [7.0, None, None]


def module_reply(status, body):
    from ascend_v4.run.http import Reply

    return Reply(status, body)


@pytest.mark.parametrize("seconds", [2, 6])
def test_20_requests_before_several_ranks_finish(trees, seconds):
    """The engine would cut them; one that fits the drain's time is answered, no other."""
    tree = trees(answer_s=seconds)
    drain = "--drain-timeout", "4", "--probe-interval", "0"
    serving = tree.serve(*drain, "--tensor-parallel-size", "4", "--", "--data-parallel-size", "4")
    url = serving.ready()
    codes = []

    def ask():
        request = urllib.request.Request(f"{url}/completions", b"{}")
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                codes.append(reply.status)
        except OSError:
            codes.append(0)

    thread = threading.Thread(target=ask)
    thread.start()
    metrics = url.replace("/v1", "/metrics")
    until(lambda: b'running{engine="0"} 1.0' in urllib.request.urlopen(metrics).read())
    began = time.monotonic()
    assert serving.end(15) == 143
    took = time.monotonic() - began
    thread.join()
    assert codes == [200 if seconds < 4 else 0]
    assert took < 9
