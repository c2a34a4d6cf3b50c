"""Nodes behind a real sshd: reached, refused, cut off."""

import json
import os
import shutil
import signal
import time
from contextlib import ExitStack

import psutil
import pytest

from tests.support.fake_tree_run import free_port, until

from . import netns
from .deployment import feeder
from .sshd import Sshd, client, key, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
def served(nodes, tmp_path):
    """Make fake nodes behind an sshd each; ``net`` puts them into namespaces."""
    with ExitStack() as stack:

        def make(count=2, net=None, **script):
            made = nodes(count, **script)
            doors = []
            topology = made.deployment.topology
            for node, tree in enumerate(made.trees):
                address = net.address(node) if net else f"127.0.0.{node + 2}"
                words = net.words(node) if net else ()
                door = Sshd(tree.place / "ssh", tree.env(), address, words)
                stack.callback(door.close)
                doors.append(door)
                topology["nodes"][node] |= {"address": address, "connect": door.destination()}
            # All doors open to one key.
            for door in doors[1:]:
                shutil.copy(doors[0].place / "authorized_keys", door.place / "authorized_keys")
            made.deployment.write(topology)
            made.doors = doors
            known = "".join(door.known() for door in doors)
            ssh = client(tmp_path / "user", doors[0].user_key, known)
            made.deployment.env["ASCEND_V4_SSH"] = ssh
            return made

        yield make


def test_two_nodes_over_ssh(served):
    two = served()
    facts = two.up().ready()
    assert facts["endpoint"] == f"http://127.0.0.2:{two.trees[0].port}/v1"
    assert two.deployment.end(signal.SIGTERM) == 143
    assert two.exits() == [143, 143]
    assert two.alive() == {}


def test_coordinator_killed_leaves_nothing_behind_ssh(served):
    """The way closes with it: each node ends by a last `stop`, else by its lost lease."""
    two = served()
    two.up("--skip-preflight", "--no-check-engine").ready()
    two.deployment.end(signal.SIGKILL)
    until(lambda: two.alive() == {} and set(two.exits()) <= {17, 143}, 15)


def test_launcher_killed_behind_ssh(served):
    """ssh says 255 of a signal there, as of a lost link: the node's own last word decides."""
    two = served()
    two.up("--skip-preflight", "--no-check-engine").ready()
    os.kill(two.launcher(1), signal.SIGKILL)
    assert two.deployment.end() == 9
    error = two.deployment.error()
    assert (error["kind"], error["message"]) == (
        "node-killed",
        "node n1: its launcher was killed there by SIGKILL",
    )
    report = json.loads((two.deployment.newest() / "exit.json").read_text())
    assert report["unconfirmed"] == []
    assert '{"ascend-v4"' not in two.deployment.said()
    assert two.alive() == {}


def test_client_killed_here(served):
    """Nobody there was killed: 17, and that node's end is not confirmed."""
    two = served()
    two.up("--skip-preflight", "--no-check-engine", "--lease", 6).ready()
    (client_pid,) = [
        process.pid
        for process in psutil.Process(feeder(two, 1)).children(recursive=True)
        if process.name() == "ssh"
    ]
    os.kill(client_pid, signal.SIGKILL)
    assert two.deployment.end() == 17
    error = two.deployment.error()
    assert (error["kind"], error["message"]) == (
        "node-lost",
        "node n1: the way to it ended (exit code 137) before it told its end;"
        " what ran there ends within 6 s by its lease",
    )
    report = json.loads((two.deployment.newest() / "exit.json").read_text())
    assert report["unconfirmed"] == [{"node": "n1", "within_s": 6}]
    until(lambda: two.alive() == {}, 15)


def test_a_dead_way_that_stands_is_noticed(served):
    """ssh is told not to look, and the session is frozen: the node that is lost is named."""
    two = served()
    two.deployment.env["ASCEND_V4_SSH"] += " -o ServerAliveInterval=0"
    two.up("--skip-preflight", "--no-check-engine", "--lease", 6).ready()
    door = psutil.Process(two.doors[1].process.pid)
    frozen = [p for p in door.children(recursive=True) if p.name() == "sshd"]
    for process in frozen:
        process.suspend()
    assert two.deployment.end() == 17
    error = two.deployment.error()
    assert (error["kind"], error["message"]) == (
        "node-lost",
        "node n1: no word came from it for 6 s; what ran there ends within 6 s by its lease",
    )
    for process in frozen:
        process.resume()
    until(lambda: two.alive() == {}, 15)
    assert "beat" not in two.run("logs", "--node", "n1").stdout


@pytest.mark.parametrize("banner", ["Welcome to n1", "Welcome to n1\\n[1] {motd}\\n"])
def test_words_of_a_login_shell(served, banner):
    """Preflight, status and the start see past what a shell prints before the command."""
    two = served()
    (two.doors[1].place / "authorized_keys").write_text(
        f'command="printf \'{banner}\'; exec sh -c \\"$SSH_ORIGINAL_COMMAND\\"" '
        + (two.doors[0].place / "authorized_keys").read_text()
    )
    two.up("--no-check-engine").ready()
    seen = two.deployment.status()["nodes"]
    assert [node["run_id"] for node in seen] == [t.read("state")["run_id"] for t in two.trees]
    two.deployment.end(signal.SIGKILL)
    until(lambda: two.alive() == {}, 15)
    nodes = two.deployment.status()["nodes"]
    assert [node["state"] for node in nodes] == ["down", "down"]


def wrong_key(two, place):
    ssh = client(place / "stranger", key(place / "other"), "".join(d.known() for d in two.doors))
    two.deployment.env["ASCEND_V4_SSH"] = ssh
    return "Permission denied (publickey).", "not used: either node may be named first"


def unknown_host(two, place):
    known = two.doors[0].known()
    two.deployment.env["ASCEND_V4_SSH"] = client(place / "user", two.doors[0].user_key, known)
    hint = f"look at the host's key once: ssh {two.doors[1].destination()}"
    return "Host key verification failed.", hint


def changed_host(two, place):
    known = two.doors[0].known() + two.doors[1].known(key(place / "impostor"))
    two.deployment.env["ASCEND_V4_SSH"] = client(place / "user", two.doors[0].user_key, known)
    door = two.doors[1]
    hint = f"if that is right: ssh-keygen -R '[{door.address}]:{door.port}', then"
    return "Host key verification failed.", f"{hint} ssh {door.destination()}"


def nobody_listens(two, place):
    topology = two.deployment.topology
    to = f"ssh://root@127.0.0.3:{free_port()}"
    topology["nodes"][1]["connect"] = to
    two.deployment.write(topology)
    return "Connection refused", "start sshd there, or name the port: connect: ssh://user@host:port"


@pytest.mark.parametrize("fault", [wrong_key, unknown_host, changed_host, nobody_listens])
@pytest.mark.parametrize("preflight", [True, False])
def test_unreachable_node_is_named_and_nothing_runs(served, tmp_path, fault, preflight):
    """Found before anything starts; without the preflight, what did start is taken down."""
    two = served()
    said, hint = fault(two, tmp_path)
    two.up("--no-check-engine", *([] if preflight else ["--skip-preflight"]))
    assert two.deployment.end() == 17
    error = two.deployment.error()
    assert error["kind"] == "unreachable"
    if fault is wrong_key and preflight:
        # No node opens to that key: one error for each, with its line.
        assert error["message"].count("Permission denied") == 2
        hint = f"put your public key there: ssh-copy-id {two.doors[0].destination()}"
    else:
        name = "node n1" if fault is not wrong_key else "node n"
        assert name in error["message"]
    assert said in error["message"]
    if not (fault is wrong_key and not preflight):
        assert error["next"] == hint
    if preflight:
        assert error["message"].startswith(f"{two.deployment.file}:")
        assert [tree.pids() for tree in two.trees] == [[], []]
    assert two.alive() == {}


def test_a_node_that_never_told_its_end_is_not_called_stopped(served):
    """Its session is frozen: `up` says 17, `down` asks the node itself, and says 17 if it can't."""
    two = served()
    two.up("--skip-preflight", "--no-check-engine", "--lease", 300).ready()
    door = psutil.Process(two.doors[1].process.pid)
    for process in (*door.children(recursive=True), door):
        if process.name() == "sshd":
            process.suspend()
    done = two.run("down", "--now", "--json")
    assert two.deployment.end() == 17
    error = two.deployment.error()
    assert (error["kind"], error["message"]) == (
        "not-confirmed",
        "node n1: its end is not confirmed; its lease ends what runs there within 300 s",
    )
    assert (done.returncode, done.stdout) == (17, "")
    assert "node n1 did not tell its end; asking it" in done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["error"]["kind"] == "unreachable"
    assert list(two.alive()) == ["n1"]
    report = json.loads((two.deployment.newest() / "exit.json").read_text())
    assert (report["code"], report["unconfirmed"]) == (17, [{"node": "n1", "within_s": 300}])
    door.resume()
    assert two.run("down", "--now").returncode == 0
    assert two.alive() == {}


@pytest.mark.skipif(bool(netns.why_not()), reason=netns.why_not())
def test_cut_link_ends_both_sides(served, tmp_path):
    """The coordinator loses a node: 17. The node loses its lease: 17. Nothing is left."""
    with netns.network(2) as net:
        two = served(net=net)
        two.up("--skip-preflight", "--no-check-engine", "--lease", 6).ready()
        began = time.monotonic()
        net.cut(1)
        until(lambda: two.trees[1].alive() == [], 20)
        assert time.monotonic() - began < 6 + 8
        assert two.deployment.end() == 17
        assert time.monotonic() - began < 45
        error = two.deployment.error()
        assert error["kind"] == "node-lost"
        assert error["message"].startswith("node n1: no word came from it for 6 s")
        assert error["message"].endswith("; what ran there ends within 6 s by its lease")
        assert two.alive() == {}
        until(lambda: two.trees[1].read("exit").get("code") == 17, 20)
        assert os.listdir(two.trees[1].locks) == []
