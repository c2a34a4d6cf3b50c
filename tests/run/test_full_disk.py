"""A disk without space or inodes: runs are found, waited for and stopped all the same."""

import contextlib
import os
import signal
import subprocess
import time

import pytest

from ascend_v4.run.state import RunDir
from tests.support.fake_tree_run import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")


@pytest.fixture
def small(tmp_path):
    """Mount small file systems for the state of a run; ``how`` are options of tmpfs."""
    made = []

    def make(how):
        place = tmp_path / f"small{len(made)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(place)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("no right to mount here")
        made.append(place)
        return place

    yield make
    for place in made:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place):
    with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)
    assert os.statvfs(place).f_bavail == 0


def loading(trees, small, **script):
    """Fill the disk of a run's state while its engine loads; return the tree and the server."""
    tree = trees(load_s=0.4, **script)
    tree.state = small("size=256k")
    serving = tree.serve("--drain-timeout", "3")
    until(lambda: tree.read("state").get("state") == "starting")
    fill(tree.state)
    return tree, serving


def test_16_ready_is_told_on_a_full_disk(trees, small):
    tree, serving = loading(trees, small)
    done = tree.run("wait", "--timeout", "30")
    assert (done.returncode, done.stdout) == (0, f"http://127.0.0.1:{tree.port}/v1\n")
    assert tree.read("state")["state"] == "ready"
    serving.ready()
    assert serving.end(signal.SIGTERM) == 143
    assert tree.read("state")["state"] == "stopped"


@pytest.mark.parametrize("inodes", [True, False], ids=["no-space", "no-inodes"])
def test_16_two_stops_on_a_full_disk_are_one_drain(trees, small, inodes):
    tree, serving = loading(trees, small, ignore_term=["api"])
    serving.ready()
    if not inodes:
        # What can't be made is like what there is no inode for.
        (tree.run_dirs()[0] / "stop.asked").symlink_to("/proc/none/such")
    began = time.monotonic()
    stops = [
        subprocess.Popen(tree.command("stop"), env=tree.env(), stderr=subprocess.PIPE, text=True)
    ]
    until(lambda: tree.read("state").get("state") == "draining")
    stops.append(
        subprocess.Popen(tree.command("stop"), env=tree.env(), stderr=subprocess.PIPE, text=True)
    )
    said = [stop.communicate(timeout=30)[1] for stop in stops]
    assert [stop.returncode for stop in stops] == [0, 0], said
    assert time.monotonic() - began > 5.5
    assert serving.end() == 143


@pytest.mark.parametrize("how", ["size=256k", "nr_inodes=4", "nr_inodes=5", "nr_inodes=6"])
def test_16_a_launch_without_room_for_its_state_is_refused(tree, small, how):
    """Nobody could find such a run; nothing of it is left."""
    tree.state = small(how)
    if how.startswith("size"):
        fill(tree.state)
    done = tree.run(*tree.serve_words())
    assert (done.returncode, "Traceback" in done.stderr) == (6, False), done.stderr
    assert "can't be written: No space left on device" in done.stderr
    assert "next:  make room there, or set XDG_STATE_HOME" in done.stderr
    assert (tree.run_dirs(), tree.pids()) == ([], [])


def test_a_state_is_overwritten_only_where_it_fits(small):
    run = RunDir(small("size=64k"))
    assert run.write("state", {"state": "starting"})
    fill(run.path)
    assert run.write("state", {"state": "ready"})
    assert run.read("state") == {"state": "ready"}
    assert not run.write("state", {"state": "x" * 20_000})
    assert run.read("state") == {"state": "ready"}
    assert not run.write("exit", {"code": 0})
