"""``serve --topology``: several servers and a router on one node, a node on a lease."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fake_tree_run import ROOT, free_port, until

TREE = Path(ROOT) / "tests/support/fake_tree.py"


@pytest.fixture
def external(nodes):
    """One node with four servers, behind a router that answers like one."""
    one = nodes(1)
    tree, topology = one.trees[0], one.deployment.topology
    tree.fake.program("vllm-router", f"#!{sys.executable} -IS\n{TREE.read_text()}")
    topology["groups"][0] |= {"load_balancing": "external", "data_parallel_size": 4}
    topology["router"] = {"port": free_port()}
    one.deployment.write(topology)
    return one


def serve(one, *options, **how):
    """Start the node's part in the foreground."""
    tree = one.trees[0]
    words = ["serve", "--topology", one.deployment.file, "--no-check-engine", *options]
    log = (tree.place / "serve.err").open("wb")
    return subprocess.Popen(
        tree.command(*words),
        env=tree.env(),
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        **{"stdin": subprocess.DEVNULL, **how},
    )


def said(one):
    return (one.trees[0].place / "serve.err").read_text()


def test_endpoint_is_the_routers_and_logs_are_told_apart(external):
    process = serve(external)
    port = external.deployment.topology["router"]["port"]
    assert process.stdout.readline() == f"http://127.0.0.1:{port}/v1\n"
    state = external.trees[0].read("state")
    names = [f"server-0-r{rank}" for rank in range(4)] + ["router"]
    assert [member["name"] for member in state["members"]] == names
    assert (state["model"], state["deployment"], state["node"]) == (
        "rehearsal",
        "fake",
        "n0",
    )
    for name in names:
        assert f"\n{name} | " in said(external)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    process.stdout.close()


@pytest.mark.parametrize(("at", "name"), [(0, "server-0-r"), (-1, "router")])
def test_any_of_them_that_dies_ends_the_node(external, at, name):
    process = serve(external)
    process.stdout.readline()
    members = external.trees[0].read("state")["members"]
    os.kill(members[at]["main"]["pid"], signal.SIGKILL)
    assert process.wait(30) == 9
    failure = external.trees[0].read("exit")["failure"]
    assert failure["member"].startswith(name)
    assert external.alive() == {}
    process.stdout.close()


def test_no_router_is_said_before_anything_starts(external):
    (external.trees[0].fake.bin / "vllm-router").unlink()
    process = serve(external)
    assert process.wait(30) == 6
    assert said(external).splitlines()[-2:] == [
        "error: router: there is no vllm-router on PATH, nor in"
        f" {external.trees[0].place}/root/.local/share/ascend-v4/engines/router",
        "next:  ascend-v4 engine install --profile router",
    ]
    assert external.trees[0].pids() == []
    process.stdout.close()


# The lease


def lines(process, beats=False):
    """Yield the events that a leased node writes, its answers to beats if they are asked for."""
    for line in process.stdout:
        if line.strip() and (beats or line != '{"ascend-v4": "beat"}\n'):
            yield json.loads(line)


@pytest.fixture
def leased(nodes):
    """Make a node whose lease is in the test's hands."""
    made = []

    def make(seconds=30, **script):
        one = nodes(1, **script)
        words = ["--node", "n0", "--lease", seconds, "--json", "--topology", "-"]
        process = serve(one, *words, stdin=subprocess.PIPE)
        process.stdin.write(one.deployment.file.read_text() + "\n...\n")
        process.stdin.flush()
        made.append(process)
        return one, process

    yield make
    for process in made:
        process.stdin.close()
        process.stdout.close()
        process.wait(30)


def tell(process, line):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def test_a_node_tells_what_happens_and_obeys(leased):
    one, process = leased()
    events = lines(process)
    run_id = next(events)["run_id"]
    ready = next(events)
    assert (ready["ascend-v4"], ready["run_id"]) == ("ready", run_id)
    assert ready["endpoint"] == f"http://127.0.0.2:{one.trees[0].port}/v1"
    tell(process, "generate")
    assert next(events) == {
        "ascend-v4": "generated",
        "ok": True,
        "last": "the completion had 1 tokens",
    }
    tell(process, "stop")
    assert process.wait(30) == 143
    assert list(events) == [{"ascend-v4": "ended", "code": 143}]


def test_stop_now_does_not_drain(leased):
    one, process = leased(ignore_term=["api"])
    events = lines(process)
    next(events), next(events)
    tell(process, "stop now")
    assert process.wait(8) == 143
    assert one.alive() == {}


def test_closed_input_ends_the_run(leased):
    one, process = leased()
    events = lines(process)
    next(events), next(events)
    process.stdin.close()
    assert process.wait(30) == 17
    failed, error, ended = events
    assert (error["ascend-v4"], error["error"]["kind"]) == ("error", "lease-lost")
    assert ended == {"ascend-v4": "ended", "code": 17}
    assert (failed["ascend-v4"], failed["failure"]["kind"]) == ("failed", "lease-lost")
    assert failed["failure"]["message"] == "the lease on this run is lost: its input was closed"
    assert one.alive() == {}


def test_silence_ends_the_run_and_any_line_renews_it(leased):
    one, process = leased(2)
    events = lines(process, beats=True)
    assert [next(events)["ascend-v4"] for _ in range(3)] == ["beat", "started", "ready"]
    for _ in range(4):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        tell(process, "beat")
        assert next(events) == {"ascend-v4": "beat"}
    assert process.wait(30) == 17
    assert next(events)["failure"]["message"].endswith("no line came for 2 s")
    assert one.alive() == {}


def test_lease_lost_before_the_engine_is_started(leased):
    """The weights are still being looked at, or the engine asked: nothing of it stays."""
    one, process = leased()
    process.stdin.close()
    assert process.wait(30) in (17, 143)
    until(lambda: one.trees[0].strays() == [])


def test_topology_that_never_ends(nodes):
    one = nodes(1)
    process = serve(one, "--lease", 3, "--topology", "-", stdin=subprocess.PIPE)
    process.stdin.write("schema: 1\n")
    process.stdin.close()
    assert process.wait(30) == 17
    process.stdout.close()
    assert "did not end with a line '...'" in said(one)
