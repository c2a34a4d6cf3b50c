"""Promise 2 where the kernel does not let a process die: it is named, its claims are kept."""

import json
import signal

from tests.support.fake_tree_run import runs, until
from tests.support.unkillable import can_freeze, frozen, traced

#: A frozen process is what a driver makes of one; where it can't be had, a traced one.
HOLD, STATE = (frozen, "D") if can_freeze() else (traced, "t")


def test_what_cannot_be_killed_is_named_and_keeps_its_claims(trees):
    tree = trees(traceable=True)
    serving = tree.serve()
    serving.ready()
    run_id = tree.run_dirs()[-1].name
    stuck = tree.pids("worker")[0]
    with HOLD(stuck):
        assert serving.end(signal.SIGTERM, timeout_s=60) == 12
        left = tree.read("exit")["left"]
        assert [(row["pid"], row["state"]) for row in left] == [(stuck, STATE)]
        assert f"pid {stuck}" in serving.err()
        assert runs(stuck)
        again = tree.run(*tree.serve_words())
        assert again.returncode == 7
        assert f"what is left of run {run_id} of " in again.stderr
        assert f"can't be killed: pid {stuck} (" in again.stderr
        shown = json.loads(tree.run("status", run_id, "--json").stdout)
        assert [row["pid"] for row in shown["processes"]] == [stuck]
        assert tree.run("reap", run_id, "--yes").returncode == 12
    until(lambda: not tree.strays(), 5.0)
    until(lambda: not list(tree.locks.iterdir()), 5.0)
    serving = tree.serve()
    serving.ready()
    assert serving.end(signal.SIGTERM) == 143


def test_launcher_killed_and_a_worker_that_stays(trees):
    """Nobody is there to tell, but the claims stay with the process."""
    tree = trees(traceable=True)
    serving = tree.serve()
    serving.ready()
    stuck = tree.pids("worker")[0]
    with traced(stuck):
        serving.end(signal.SIGKILL)
        until(lambda: tree.alive() == [stuck], 5.0)
        until(lambda: any("left" in path.read_text() for path in tree.locks.iterdir()), 15.0)
        done = tree.run(*tree.serve_words())
        assert done.returncode == 7
        assert f"can't be killed: pid {stuck} (" in done.stderr
    until(lambda: not list(tree.locks.iterdir()), 5.0)
