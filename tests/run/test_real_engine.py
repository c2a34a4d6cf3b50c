"""Promise 2 on the real vLLM CPU server; the whole matrix: python -m tests.figures.supervisor."""

import os
import signal

import pytest

from tests.run.real import RealRun, named
from tests.support.fake_tree_run import until

pytestmark = pytest.mark.real_engine


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


def test_killed_engine_core_is_a_death_though_vllm_exits_with_0(cpu_engine, tmp_path):
    run = RealRun(tmp_path, 1, "--no-check-engine")
    tree = {}
    try:
        run.ready()
        tree = run.tree()
        os.kill(named(tree, "VLLM::EngineCore"), signal.SIGKILL)
        assert run.process.wait(60) == 9
        assert run.left(tree) == []
        assert run.read("exit")["failure"]["kind"] == "engine-died"
    finally:
        run.kill_all(tree)
