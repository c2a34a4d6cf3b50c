"""What the commands on a deployment say and do, whoever started it, and with what is left of it."""

import json
import shlex
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.support.fake_tree_run import runs, until

NO_CHECK = "--no-check-engine"


@pytest.fixture
def hanging(nodes, tmp_path):
    """Two nodes of which the second never answers; the pids of who asks it."""
    way = tmp_path / "way"
    way.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/asked\nsleep 300\n")
    way.chmod(0o755)
    two = nodes(2, connects={1: f"exec: {way}"})

    def asked():
        path = tmp_path / "asked"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    two.asked = asked
    return two


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_questions(hanging, tmp_path, number, code):
    """No answer is waited for, and whoever asks for it ends as well."""
    hanging.up()
    until(hanging.asked)
    began = time.monotonic()
    assert hanging.deployment.end(number) == code
    assert time.monotonic() - began < 8
    until(lambda: not any(map(runs, hanging.asked())), 5)
    assert list(tmp_path.glob("state/ascend-v4/runs/*")) == []


def test_a_signal_ends_a_start_in_the_background_that_still_asks(hanging, tmp_path):
    hanging.up("--detach")
    until(hanging.asked)
    assert hanging.deployment.end(signal.SIGINT) == 130
    until(lambda: not any(map(runs, hanging.asked())), 8)
    until(lambda: list(tmp_path.glob("state/ascend-v4/runs/*")) == [], 8)


def test_down_while_the_nodes_are_asked(hanging):
    """The deployment is claimed and seen from the first question on."""
    hanging.up()
    until(hanging.asked)
    assert hanging.deployment.status()["state"] == "preparing"
    second = hanging.run("up", "--json")
    assert (second.returncode, "deployment fake is in use by run" in second.stderr) == (7, True)
    done = hanging.run("down")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "fake is stopped")
    assert hanging.deployment.end() == 143
    assert hanging.alive() == {}


def test_down_of_somebody_elses_deployment(nodes, tmp_path):
    """Another user's is not said to be stopped while it runs."""
    two = nodes(2)
    two.deployment.env["LOGNAME"] = "somebody"
    run_id = two.up(NO_CHECK, "--skip-preflight").ready()["run_id"]
    two.deployment.env |= {"LOGNAME": "else", "XDG_STATE_HOME": str(tmp_path / "mine")}
    done = two.run("down", "--json")
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (done.returncode, error["next"]) == (7, f"ask somebody to type: ascend-v4 stop {run_id}")
    assert error["message"].startswith(f"deployment fake is in use by run {run_id} of somebody")
    assert two.deployment.end(signal.SIGTERM) == 143


def by_hand(two, node):
    words = ["serve", "--topology", two.deployment.file, "--node", f"n{node}", NO_CHECK, "--detach"]
    done = two.trees[node].run(*words)
    assert done.returncode == 0, done.stderr


def test_status_of_nodes_that_were_started_by_hand(nodes):
    """It is what the nodes are, not what an earlier coordinator came to."""
    two = nodes(2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", two.trees[0].port))
        taken.listen()
        assert two.up(NO_CHECK, "--skip-preflight").end() == 7
    assert two.deployment.status()["state"] == "failed"
    by_hand(two, 0)
    until(lambda: two.deployment.status()["nodes"][0]["state"] == "ready", 60)
    assert two.deployment.status()["state"] == "partial"
    by_hand(two, 1)
    until(lambda: two.deployment.status()["state"] == "ready", 60)
    seen = two.deployment.status()
    assert (seen["endpoint"], seen["run_id"], seen["exit"]) == (
        f"http://127.0.0.2:{two.trees[0].port}/v1",
        "",
        None,
    )
    assert two.run("down").returncode == 0
    assert two.deployment.status()["state"] == "failed"
    assert two.alive() == {}


def test_a_local_node_is_one_run_with_its_coordinator(nodes):
    """Both keep their state in one place, and commands that name no run mean the whole."""
    one = nodes(1, connects={0: "local"})
    tree = one.trees[0]
    one.deployment.env = tree.env()
    facts = one.up(NO_CHECK, "--skip-preflight").ready()
    assert len(tree.run_dirs()) == 2
    for words in (("status", "--json"), ("status", "last", "--json")):
        assert json.loads(tree.run(*words).stdout)["run_id"] == facts["run_id"]
    assert tree.run("wait").stdout == f"{facts['endpoint']}\n"
    assert "Application startup complete." in tree.run("logs").stdout
    said = tree.run("chat", "Hi")
    assert f"http://127.0.0.2:{tree.port}" in said.stderr
    assert tree.run("stop").returncode == 0
    assert one.deployment.end() == 143
    assert json.loads(tree.run("status", "--json").stdout)["run_id"] == facts["run_id"]


@pytest.mark.parametrize("broken", ["schema: 1\nnodes: [\n", None])
def test_down_without_its_file(nodes, broken):
    """The next step needs the file no more."""
    two = nodes(2)
    run_id = two.up(NO_CHECK, "--skip-preflight").ready()["run_id"]
    text = two.deployment.file.read_text()
    two.deployment.file.write_text(broken) if broken else two.deployment.file.unlink()
    done = two.run("down", "--json")
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (done.returncode, error["next"]) == (2, f"ascend-v4 stop {run_id}")
    two.deployment.process.kill()
    until(lambda: two.alive() == {}, 15)
    error = json.loads(two.run("down", "--json").stderr.splitlines()[-1])["error"]
    copy = Path(shlex.split(error["next"])[-1])
    assert error["next"] == f"with the copy of the run: ascend-v4 cluster down -f {copy}"
    assert json.loads(copy.read_text()) == json.loads(text)
    assert copy.parent.name == run_id
