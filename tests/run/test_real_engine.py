"""Promise 2 on the real vLLM CPU server; many runs of each: python -m tests.figures.supervisor."""

import os
import signal

import pytest

from tests.run.real import RealRun, one_kill
from tests.support.fake_tree_run import until

pytestmark = pytest.mark.real_engine

#: Who is killed, or which signal the launcher gets, and how the launcher ends.
ENDS = {"TERM": 143, "INT": 130, "launcher": -9, "api": 9, "core": 9, "worker": 9}


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


@pytest.mark.parametrize("dp", [1, 2])
@pytest.mark.parametrize(("kind", "expected"), ENDS.items())
def test_nothing_is_left_of_the_real_tree(cpu_engine, tmp_path, kind, expected, dp):
    """vLLM itself exits with 0 when its engine core is killed; that is a death here."""
    _, code, left, _, _ = one_kill(tmp_path, kind, dp)
    assert (code, left) == (expected, [])
