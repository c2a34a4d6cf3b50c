"""A deployment of fake nodes: ready as a whole, first failure wins, nothing is left."""

import json
import os
import shutil
import signal
import socket
import time

import psutil
import pytest

from ascend_v4 import __version__
from tests.support.fake_tree_run import until

from .conftest import installed
from .deployment import connect, feeder, gone

NO_CHECK = "--no-check-engine"


def test_ready_as_a_whole_and_drained_everywhere(nodes):
    """The head serves, the other has loaded, a token came through the endpoint."""
    two = nodes(2)
    facts = two.up().ready()
    head = two.trees[0].port
    assert facts["endpoint"] == f"http://127.0.0.2:{head}/v1"
    assert facts["nodes"] == ["n0", "n1"]
    seen = two.deployment.status()
    shown = {key: seen[key] for key in ("deployment", "state", "endpoint", "run_id")}
    assert shown == {
        "deployment": "fake",
        "state": "ready",
        "endpoint": facts["endpoint"],
        "run_id": facts["run_id"],
    }
    runs = [tree.read("state")["run_id"] for tree in two.trees]
    assert seen["nodes"] == [
        {"name": f"n{node}", "state": "ready", "run_id": runs[node]} for node in (0, 1)
    ]
    assert '{"ascend-v4": "generated", "ok": true' in two.run("logs", "--node", "n0").stdout
    assert two.deployment.end(signal.SIGTERM) == 143
    assert two.alive() == {}
    assert two.exits() == [143, 143]
    after = two.deployment.status()
    assert (after["state"], [node["state"] for node in after["nodes"]]) == (
        "stopped",
        ["down", "down"],
    )


def test_first_failure_wins_with_its_code(nodes):
    """Node 1's API process is killed: 9, and the other node is stopped at once, not drained."""
    two = nodes(2)
    two.up(NO_CHECK, "--drain-timeout", 60).ready()
    began = time.monotonic()
    os.kill(two.trees[1].pids("api")[0], signal.SIGKILL)
    assert two.deployment.end() == 9
    assert time.monotonic() - began < 15
    error = two.deployment.error()
    assert (error["code"], error["kind"]) == (9, "engine-died")
    assert error["message"].startswith(
        "node n1: the engine ended with signal SIGKILL while it served"
    )
    assert two.alive() == {}
    assert two.exits() == [143, 9]
    assert "last lines of n1:" in two.deployment.said()


def test_failed_start_takes_down_what_it_started(nodes):
    """Node 1 runs out of memory while node 0 still loads: the cause's own code."""
    two = nodes(2, load_s=0.5)
    two.trees[1].script(
        die_phase="profiling",
        stderr=["(Worker pid=1) ERROR 11-23 20:51:12 [x.py:1] torch.OutOfMemoryError: NPU out of"
                " memory. Tried to allocate 2.00 GiB"],
    )  # fmt: skip
    assert two.up(NO_CHECK).end() == 5
    assert two.deployment.error()["message"].startswith("node n1: the engine ended with exit code")
    assert two.alive() == {}


def test_refused_on_one_node_before_its_engine_starts(nodes):
    """A port that is taken there: its code and words, and the other node is stopped."""
    two = nodes(2, load_s=0.5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", two.trees[0].port))
        taken.listen()
        assert two.up(NO_CHECK).end() == 7
    error = two.deployment.error()
    assert error["kind"] == "port-in-use"
    assert error["message"].startswith(f"node n0: port {two.trees[0].port} ")
    assert two.alive() == {}


def test_coordinator_killed(nodes):
    """No process of any node lives 5 s after SIGKILL of the coordinator."""
    two = nodes(2)
    two.up(NO_CHECK).ready()
    everyone = [pid for tree in two.trees for pid in tree.strays()]
    assert len(everyone) > 10
    two.deployment.end(signal.SIGKILL)
    assert gone(everyone, 5.0) == []


def test_lease_is_lost_when_the_feeder_stands_still(nodes):
    """A feeder that says nothing is as good as a cut link: 17 on both ends, nothing left."""
    two = nodes(2)
    two.up(NO_CHECK, "--lease", 3).ready()
    os.kill(feeder(two, 1), signal.SIGSTOP)
    until(lambda: two.trees[1].read("exit").get("code") == 17, 15)
    assert two.trees[1].read("exit")["failure"]["kind"] == "lease-lost"
    assert two.trees[1].alive() == []
    os.kill(feeder(two, 1), signal.SIGCONT)
    assert two.deployment.end() == 17
    assert two.deployment.error()["message"] == (
        "node n1: the lease on this run is lost: no line came for 3 s"
    )
    assert two.alive() == {}


def test_launcher_of_a_node_killed(nodes):
    """SIGKILL of a node's own launcher: 9, as its guardian cleans up there."""
    two = nodes(2)
    two.up(NO_CHECK).ready()
    os.kill(two.launcher(1), signal.SIGKILL)
    assert two.deployment.end() == 9
    message = "node n1: its launcher was killed there by SIGKILL"
    assert two.deployment.error()["message"] == message
    assert two.alive() == {}


def test_way_to_a_node_killed(nodes, tmp_path):
    """The attendant there is what a prefix runs: killed, it is the way that is lost."""
    two = nodes(2)
    two.up(NO_CHECK, "--lease", 6).ready()
    (way,) = psutil.Process(feeder(two, 1)).children()
    way.kill()
    assert two.deployment.end() == 17
    assert two.deployment.error()["kind"] == "node-lost"
    report = json.loads((two.deployment.newest() / "exit.json").read_text())
    assert report["unconfirmed"] == [{"node": "n1", "within_s": 6}]
    until(lambda: two.alive() == {}, 10)


def test_an_error_in_an_engines_log_is_not_the_nodes(nodes):
    """A line of the engine that looks like our error object changes nothing."""
    fake = '{"error": {"code": 5, "kind": "x", "message": "not ours", "next": "nothing"}}'
    two = nodes(2, stderr=[fake])
    two.up(NO_CHECK).ready()
    os.kill(two.launcher(1), signal.SIGKILL)
    assert two.deployment.end() == 9
    assert two.deployment.error()["kind"] == "node-killed"
    assert two.alive() == {}


def test_one_error_line_of_one_node(nodes):
    """The node's own line is marked as its log, so that ours is the only one."""
    one = nodes(1)
    one.trees[0].script(die_phase="weights", code=3)
    assert one.up(NO_CHECK).end() == 9
    lines = one.deployment.said().splitlines()
    assert sum(line.startswith('{"error"') for line in lines) == 1


def test_second_signal_stops_now(nodes):
    """TERM drains a request that takes long; a second TERM doesn't wait for it."""
    two = nodes(2, ignore_term=["api"])
    two.up(NO_CHECK, "--drain-timeout", 60).ready()
    two.deployment.process.send_signal(signal.SIGTERM)
    until(lambda: two.trees[0].read("state").get("state") == "draining")
    began = time.monotonic()
    assert two.deployment.end(signal.SIGTERM) == 143
    assert time.monotonic() - began < 10
    assert two.alive() == {}


def test_stopped_on_the_node_itself(nodes):
    two = nodes(2)
    two.up(NO_CHECK).ready()
    assert two.trees[1].run("stop", "--deployment", "fake").returncode == 0
    assert two.deployment.end() == 9
    assert two.deployment.error()["kind"] == "node-stopped"
    assert two.alive() == {}


def test_down_twice_and_detached(nodes):
    two = nodes(2)
    facts = json.loads(two.run("up", "--detach", "--json", NO_CHECK).stdout)
    until(lambda: two.deployment.status()["state"] == "ready", 60)
    second = two.run("up", "--json", NO_CHECK, "--skip-preflight")
    assert second.returncode == 7
    assert facts["run_id"] in json.loads(second.stderr.splitlines()[-1])["error"]["message"]
    for _ in range(2):
        done = two.run("down", "--json")
        assert (done.returncode, json.loads(done.stdout)) == (
            0,
            {"deployment": "fake", "stopped": True},
        )
        assert two.alive() == {}


def test_down_without_a_coordinator(nodes):
    """Nodes that were started by hand, each on its own."""
    one = nodes(1)
    tree = one.trees[0]
    words = ["serve", "--topology", one.deployment.file, "--node", "n0", NO_CHECK, "--detach"]
    assert tree.run(*words).returncode == 0
    until(lambda: one.deployment.status()["nodes"][0]["state"] == "ready", 60)
    assert one.run("down").returncode == 0
    assert one.alive() == {}
    assert one.exits() == [143]


@pytest.mark.parametrize("when", ["starting", "ready"])
def test_hang_up_and_interrupt(nodes, when):
    two = nodes(2, load_s=0.02 if when == "ready" else 2.0)
    two.up(NO_CHECK, "--drain-timeout", 1)
    if when == "ready":
        two.deployment.ready()
        assert two.deployment.end(signal.SIGHUP) == 129
    else:
        until(lambda: two.trees[1].pids("api"), 60)
        assert two.deployment.end(signal.SIGINT) == 130
    assert two.alive() == {}


def test_older_version_on_a_node(nodes, tmp_path):
    """It knows no `cluster facts`: both versions are said, with the line, nothing starts."""
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\ncase "$*" in *--version) echo "ascend-v4, version 0.0.1";;'
                   " *) echo Error: No such command >&2; exit 2;; esac\n")  # fmt: skip
    old.chmod(0o755)
    two = nodes(2, connects={1: f"exec: {old}"})
    assert two.up().end() == 6
    error = two.deployment.error()
    assert (error["kind"], error["next"]) == (
        "versions-differ",
        f"pip install ascend-v4=={__version__} on n1",
    )
    line = two.deployment.line('"n1"') - 1
    assert error["message"] == (
        f"{two.deployment.file}:{line}: node n1 has ascend-v4 0.0.1, this machine {__version__}"
    )
    assert [tree.pids() for tree in two.trees] == [[], []]


def test_no_program_on_the_nodes_is_one_fault_each(nodes):
    two = nodes(2)
    two.deployment.program = "/opt/nowhere/ascend-v4"
    assert two.up().end() == 6
    error = two.deployment.error()
    assert error["kind"] == "no-program"
    assert error["message"].count("/opt/nowhere/ascend-v4 can't be run there") == 2


def test_other_weights_on_one_node(nodes, tmp_path):
    """Each node has its own place for weights, and one of them holds another copy."""
    two = nodes(2)
    topology = two.deployment.topology
    place = topology.pop("model_dir")
    for node, tree in enumerate(two.trees):
        copied = tree.place / "models" / "rehearsal"
        shutil.copytree(place, copied)
        env = {**tree.env(), "ASCEND_V4_MODELS": str(copied.parent)}
        topology["nodes"][node]["connect"] = connect([], env)
    config = two.trees[1].place / "models/rehearsal/tokenizer_config.json"
    config.write_text(config.read_text() + "\n")
    two.deployment.write(topology)
    assert two.up().end() == 13
    error = two.deployment.error()
    assert error["kind"] == "weights-differ"
    assert "node n1 has weights v1 " in error["message"]
    assert [tree.pids() for tree in two.trees] == [[], []]


def test_engine_of_another_release(nodes):
    """All nodes have the same one, and it is not the plan's; told where nobody asked before."""
    two = nodes(2)
    for tree in two.trees:
        installed(tree.place, "0.20.0+cpu")
    assert two.up(NO_CHECK).end() == 6
    error = two.deployment.error()
    text = "vllm 0.20.0+cpu, this launch is for 0.32.0"
    assert (error["kind"], error["message"].count(text)) == ("other-release", 2)
    two.up(NO_CHECK, "--skip-preflight").ready()
    assert f"n1 | risk: installed is {text} [other-release]" in two.deployment.said()
    assert two.deployment.end(signal.SIGTERM) == 143


def test_three_nodes_and_the_one_in_the_middle(nodes):
    three = nodes(3)
    three.up(NO_CHECK).ready()
    os.kill(three.trees[1].pids("core")[0], signal.SIGKILL)
    assert three.deployment.end() == 9
    assert three.deployment.error()["message"].startswith("node n1: ")
    assert three.exits() == [143, 9, 143]
    assert three.alive() == {}
