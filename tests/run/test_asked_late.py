"""Asked to end at bad moments: during a teardown, between two parts, at the very end."""

import json
import signal
import time

import pytest

from tests.support.fake_tree_run import runs, until

#: The API process dies while it serves, and the rest has to be killed 2 s later.
DYING = {"tp": 2, "exit_after_s": 1.5, "code": 3, "ignore_term": ["core", "worker", "helper"]}


def failing(tree, *options):
    """Start a server that fails; return it while what is left of it is being ended."""
    serving = tree.serve("--restart", "on-failure", *options)
    serving.ready()
    api = tree.pids("api")[0]
    until(lambda: not runs(api))
    until(lambda: tree.read("state")["state"] != "ready", 1.8)
    return serving


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGQUIT"])
def test_asked_while_a_failure_is_torn_down(trees, name):
    """The failure came first and is what is told; nothing is started again."""
    tree = trees(**DYING)
    serving = failing(tree)
    began = time.monotonic()
    assert serving.end(getattr(signal, name)) == 9
    assert time.monotonic() - began < (1.5 if name == "SIGQUIT" else 4.0)
    end = tree.read("exit")
    assert (end["code"], end["stopped_by"], end["failure"]["engine_status"]) == (9, None, 3)
    assert [attempt["restart"] for attempt in end["attempts"]] == [
        f"{name} asked for the end while the failed start was ended"
    ]
    assert (tree.strays(), list(tree.locks.iterdir())) == ([], [])


def test_a_second_signal_stops_a_teardown_now(trees):
    tree = trees(**DYING)
    serving = failing(tree)
    serving.send(signal.SIGTERM)
    time.sleep(0.2)
    assert tree.alive() != []
    began = time.monotonic()
    assert serving.end(signal.SIGTERM) == 9
    assert time.monotonic() - began < 1.2


@pytest.mark.parametrize("how", [[], ["--now"]], ids=["drain", "now"])
def test_stop_while_a_failure_is_torn_down(trees, how):
    tree = trees(**DYING)
    serving = failing(tree)
    done = tree.run("stop", *how, "--timeout", "8")
    assert (done.returncode, serving.end()) == (0, 9)
    assert tree.strays() == []


def test_a_failure_is_told_before_the_rest_is_ended(trees):
    """Dead is not ready: no state, file or `wait` says so while processes are being killed."""
    tree = trees(**DYING)
    ready_file = tree.place / "ready.json"
    serving = failing(tree, "--ready-file", ready_file)
    assert tree.alive() != []
    assert tree.read("state")["state"] == "failing"
    assert not ready_file.exists()
    seen = json.loads(tree.run("status", "--json").stdout)
    assert (seen["state"], seen["ready_at"]) == ("failing", None)
    assert tree.run("wait", "--timeout", "0").returncode == 8
    assert serving.end(signal.SIGTERM) == 9


def test_a_hang_is_told_before_the_rest_is_ended(trees):
    tree = trees(hang_after_s=0.8, ignore_term=["api", "core", "worker", "helper"])
    ready_file = tree.place / "ready.json"
    options = ("--probe-interval", "0.5", "--probe-timeout", "0.5", "--ready-file", ready_file)
    serving = tree.serve(*options)
    serving.ready()
    until(lambda: tree.read("state")["state"] == "failing")
    assert (tree.alive() != [], ready_file.exists()) == (True, False)
    assert serving.end() == 10


def test_08_a_hang_is_restarted(trees):
    tree = trees(first={"hang_after_s": 0.8})
    options = ("--probe-interval", "0.5", "--probe-timeout", "0.5")
    serving = tree.serve("--restart", "on-failure", *options)
    assert serving.ready() == serving.ready()
    assert serving.end(signal.SIGINT) == 130
    assert [attempt["code"] for attempt in tree.read("exit")["attempts"]] == [10, 130]


def slow_npu_smi(tree, seconds=3):
    """Let the devices answer late, as npu-smi does; the baseline of a restart needs them."""
    tree.npus()
    path = tree.fake.bin / "npu-smi"
    path.rename(tree.fake.bin / "npu-smi-quick")
    tree.fake.program("npu-smi", f'#!/bin/sh\nsleep {seconds}\nexec "$0-quick" "$@"\n')
    return tree


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_asked_between_the_checks_and_the_start(tree, name):
    """The devices are being asked for their memory: nothing was started, all is given back."""
    serving = slow_npu_smi(tree).serve("--restart", "on-failure")
    until(lambda: tree.read("plan"))
    until(lambda: len(list(tree.locks.iterdir())) == 17)
    time.sleep(0.3)
    began, number = time.monotonic(), getattr(signal, name)
    assert serving.end(number) == 128 + number
    assert time.monotonic() - began < 2.0
    assert (tree.pids(), list(tree.locks.iterdir())) == ([], [])
    assert (tree.read("state")["state"], tree.read("exit")["stopped_by"]) == ("stopped", name)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize("after_s", [0.02, 0.1, 0.2, 0.3, 0.45])
def test_a_second_signal_at_the_end_changes_nothing(tree, name, after_s):
    serving = tree.serve()
    serving.ready()
    serving.send(signal.SIGTERM)
    time.sleep(after_s)
    assert serving.end(getattr(signal, name)) == 143
    assert (tree.strays(), list(tree.locks.iterdir())) == ([], [])
    assert tree.read("exit")["code"] == 143


def test_signals_are_ignored_from_the_end_of_the_loop_on(tree):
    """Told by the kernel: the report is there, and nothing that could kill the launcher is."""
    serving = tree.serve()
    serving.ready()
    status = f"/proc/{serving.process.pid}/status"
    serving.send(signal.SIGTERM)
    until(lambda: tree.read("exit"))
    seen = ignored(status)
    assert serving.end() == 143
    assert seen in (None, {"SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP"})


def ignored(status):
    """Return which of our signals a process ignores; None where it is gone."""
    try:
        with open(status) as file:
            mask = next(int(line.split()[1], 16) for line in file if line.startswith("SigIgn"))
    except (OSError, StopIteration):
        return None
    names = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP")
    return {name for name in names if mask >> (getattr(signal, name) - 1) & 1}
