"""Users of one host, none of them root: each has his own runs, and only those."""

import json
import os
import shutil
import signal
import subprocess
import sysconfig
from pathlib import Path

import pytest

from ascend_v4.run.claims import Claims, busy
from ascend_v4.run.procs import boot_id, start_of
from ascend_v4.run.state import prune
from tests.support.fake_tree_run import ROOT, Tree, until

ALICE, BOB = 40001, 40002
PYTHON = "/usr/bin/python3"


class OfUser(Tree):
    """A fake host that a user who isn't root works on; the locks are everybody's."""

    def __init__(self, place, uid, locks, **script):
        super().__init__(place, **script)
        self.who = {"user": uid, "group": uid, "extra_groups": []}
        self.locks = locks
        vllm = self.fake.bin / "vllm"
        vllm.write_text(f"#!{PYTHON} -IS\n" + vllm.read_text().split("\n", 1)[1])
        for path in (place, *place.rglob("*")):
            os.chown(path, uid, uid)

    def command(self, *words):
        return [PYTHON, "-m", "ascend_v4", *map(str, words)]

    def env(self, **more):
        ours = f"{ROOT}:{sysconfig.get_path('purelib')}"
        return super().env(PYTHONPATH=ours, PYTHONDONTWRITEBYTECODE="1", **more)

    def serve(self, *options, **how):
        return super().serve(*options, **self.who, **how)

    def run(self, *words, **env):
        return subprocess.run(
            self.command(*words),
            env=self.env(**env),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **self.who,
        )


@pytest.fixture
def users(open_place):
    """Make the hosts of Alice and Bob; whatever a test leaves is ended."""
    if os.geteuid() != 0:
        pytest.skip("drops root")
    made = [
        OfUser(open_place / name, uid, open_place / "locks")
        for name, uid in (("alice", ALICE), ("bob", BOB))
    ]
    if made[0].run("profiles").returncode:
        pytest.skip("users who aren't root can't run any Python with our libraries here")
    yield made
    left = [pid for tree in made for pid in tree.strays()]
    for tree in made:
        tree.kill_all()
    assert left == []


def forged(tree, of):
    """Give a user a run whose record names the processes of another user's run."""
    path = tree.state / "ascend-v4" / "runs" / of.run_dirs()[-1].name
    (path / "logs").mkdir(parents=True)
    procs = [{"pid": pid, "start": start_of(pid)} for pid in of.alive()]
    launcher = of.read("state")["launcher"]
    state = {
        "boot_id": boot_id(),
        "state": "ready",
        "launcher": launcher,
        "members": [{"name": "server", "main": launcher, "processes": procs}],
    }
    (path / "state.json").write_text(json.dumps(state))
    for entry in (tree.state, *tree.state.rglob("*")):
        os.chown(entry, BOB, BOB)


def test_no_user_touches_the_run_of_another(users):
    alice, bob = users
    serving = alice.serve()
    serving.ready()
    run_id, pids = alice.run_dirs()[-1].name, alice.alive()
    # By name, by her state directory, and by a record that was copied by hand.
    for state in ({}, {"XDG_STATE_HOME": str(alice.state)}):
        assert json.loads(bob.run("ps", "--all", "--json", **state).stdout) == []
        for words in (("stop", run_id), ("stop", run_id, "--now"), ("logs", run_id)):
            done = bob.run(*words, **state)
            assert (done.returncode, "this user has no run" in done.stderr) == (2, True)
        done = bob.run("reap", "--yes", **state)
        assert (done.returncode, done.stderr) == (0, "no strays\n")
    forged(bob, alice)
    for words in (("stop", run_id, "--now"), ("stop", run_id), ("reap", run_id, "--yes")):
        done = bob.run(*words)
        assert (done.returncode, "Traceback" in done.stderr) == (12, False), done.stderr
    assert (alice.alive(), serving.process.poll()) == (pids, None)
    assert json.loads(alice.run("status", "--json").stdout)["state"] == "ready"
    assert alice.run("stop", run_id).returncode == 0
    assert serving.end() == 143


def test_18_the_second_user_is_told_whom_to_ask(users):
    alice, bob = users
    serving = alice.serve()
    serving.ready()
    run_id = alice.run_dirs()[-1].name
    done = bob.run(*bob.serve_words())
    assert done.returncode == 7
    assert f"npu 0 is in use by run {run_id} of {ALICE} (pid {serving.process.pid})" in done.stderr
    assert f"next:  ask {ALICE} to type: ascend-v4 stop {run_id}\n" in done.stderr
    assert (bob.run_dirs(), alice.alive() != []) == ([], True)
    assert serving.end(signal.SIGTERM) == 143
    # What she claimed is free for him.
    again = bob.serve()
    again.ready()
    assert again.end(signal.SIGTERM) == 143


def test_18_a_claim_that_says_nonsense_is_a_claim(tmp_path):
    """Every user may write into a lock's file."""
    for text in ('{"run_id": 1, "left": [1, {}]}', '{"run_id": [], "left": 5}', "[]", "\0"):
        first = Claims(tmp_path, {"run_id": "one", "user": "a"})
        first.take(["npu-0"])
        (tmp_path / "npu-0.lock").write_text(text)
        with pytest.raises(Exception, match="npu 0 is in use by") as caught:
            Claims(tmp_path, {"run_id": "two", "user": "b"}).take(["npu-0"])
        assert caught.value.code == 7
        first.release()


def test_only_the_owner_is_told_to_stop_a_run():
    holder = {"run_id": "r", "user": "alice", "pid": 7}
    steps = [busy("npu-0", holder, user).next for user in ("alice", "bob")]
    assert steps == ["ascend-v4 stop r", "ask alice to type: ascend-v4 stop r"]


def test_a_lost_run_is_kept_while_a_process_of_it_lives(tree):
    """Else nobody could tell what the stray is of, nor end it by the run's name."""
    stray = subprocess.Popen(["sleep", "60"], env={"ASCEND_V4_RUN_ID": "20200101-000000-aaaa"})
    runs = tree.state / "ascend-v4" / "runs"
    for name in ("20200101-000000-aaaa", "20200101-000000-bbbb", "20200101-000000-cccc"):
        (runs / name / "logs").mkdir(parents=True)
    until(lambda: b"ASCEND" in Path(f"/proc/{stray.pid}/environ").read_bytes())
    prune(tree.env(), keep=1)
    assert [path.name[-4:] for path in tree.run_dirs()] == ["aaaa", "cccc"]
    stray.kill()
    stray.wait()
    prune(tree.env(), keep=1)
    assert [path.name[-4:] for path in tree.run_dirs()] == ["cccc"]
    shutil.rmtree(runs)
