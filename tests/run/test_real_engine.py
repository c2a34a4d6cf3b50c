"""Promise 2 on the real vLLM CPU server; many runs of each: python -m tests.figures.supervisor."""

import os
import re
import signal
import threading

import httpx
import pytest

from tests.run.real import RealRun, one_kill
from tests.support.fake_tree_run import until

pytestmark = pytest.mark.real_engine

#: Who is killed, or which signal the launcher gets, and how the launcher ends.
ENDS = {"TERM": 143, "INT": 130, "launcher": -9, "api": 9, "core": 9, "worker": 9}
#: What CI has time for; TERM to two replicas is the test of the drain.
KILLS = [*((1, kind) for kind in ENDS if kind != "INT"), (2, "launcher"), (2, "worker")]


def test_two_replicas_and_a_killed_launcher_and_guardian(cpu_engine, tmp_path):
    """Ten processes, renamed and in part without a parent: none is left after 5 s."""
    run = RealRun(tmp_path, 2, "--no-check-engine")
    tree = {}
    try:
        run.ready()
        tree = run.tree()
        assert len(tree) >= 10
        assert run.unmarked(tree) == []
        os.kill(run.process.pid, signal.SIGSTOP)
        os.kill(run.keepers()[1], signal.SIGKILL)
        os.kill(run.process.pid, signal.SIGKILL)
        until(lambda: run.left(tree) == [], 5.0)
    finally:
        run.kill_all(tree)


def test_a_drain_answers_what_runs_in_both_replicas(cpu_engine, tmp_path):
    """vLLM itself cuts the connections: it has an API server for each replica."""
    run = RealRun(tmp_path, 2, "--no-check-engine", "--drain-timeout", "120")
    tree, codes = {}, []
    try:
        endpoint = run.ready()["endpoint"]
        tree = run.tree()

        def ask():
            body = {"model": "rehearsal", "prompt": "Hello", "max_tokens": 4000, "ignore_eos": True}
            reply = httpx.post(f"{endpoint}/completions", json=body, timeout=120)
            codes.append((reply.status_code, reply.json()["usage"]["completion_tokens"]))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        page = endpoint.replace("/v1", "/metrics")
        until(lambda: counted(httpx.get(page, timeout=30).text, "num_requests_running") > 0, 60)
        run.process.terminate()
        assert run.process.wait(150) == 143
        for thread in threads:
            thread.join()
        assert codes == [(200, 4000)] * 4
        assert run.left(tree) == []
    finally:
        run.kill_all(tree)


def counted(page, name):
    """Return a metric of all engines together."""
    rows = re.findall(rf"^vllm:{name}\{{.*\}} (\S+)$", page, re.MULTILINE)
    return sum(map(float, rows))


@pytest.mark.parametrize(("dp", "kind"), KILLS)
def test_nothing_is_left_of_the_real_tree(cpu_engine, tmp_path, kind, dp):
    """vLLM itself exits with 0 when its engine core is killed; that is a death here."""
    _, code, left, _, _ = one_kill(tmp_path, kind, dp)
    assert (code, left) == (ENDS[kind], [])
