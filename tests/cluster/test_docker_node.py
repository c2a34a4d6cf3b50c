"""``serve --topology`` and ``cluster up`` with containers, on a fake docker: no real one was
available.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fake_docker_run import Docker
from tests.support.fake_tree_run import ROOT, Tree, until

from .deployment import Deployment, connect

ROUTER = Path(ROOT) / "tests/support/fake_tree.py"


def free_ports(count):
    """Return the first of so many free ports in a row, below those of outgoing connections."""
    for first in range(10000 + os.getpid() % 2000 * 8, 32000, count):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")


@pytest.fixture
def node(tmp_path):
    """An A3 node with docker and no engine: two servers of eight dies, behind a router."""
    tree = Tree(tmp_path / "n0")
    tree.port = free_ports(8)
    tree.config = str(tree.place / "mooncake.json")
    Path(tree.config).write_text("{}")
    tree.docker = Docker(tree.fake.bin)
    tree.fake.program("vllm-router", f"#!{sys.executable} -IS\n{ROUTER.read_text()}")
    topology = {
        "schema": 1,
        "name": "fake",
        "chip": "a3",
        "model": "flash",
        "model_dir": str(tree.model),
        "allow_unvalidated": True,
        "runtime": "docker",
        "env": {"MOONCAKE_CONFIG_PATH": tree.config},
        "nodes": [
            {
                "name": "n0",
                "address": "127.0.0.1",
                "interface": "lo",
                "connect": connect([], tree.env()),
            }
        ],
        "groups": [
            {
                "name": "server",
                "nodes": ["n0"],
                "data_parallel_size": 2,
                "tensor_parallel_size": 8,
                "load_balancing": "external",
                "port": tree.port,
            }
        ],
        "router": {"kind": "vllm-router", "port": tree.port + 6, "metrics_port": tree.port + 7},
    }
    env = {
        **os.environ,
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "ASCEND_V4_LOCK_DIR": str(tmp_path / "locks"),
        "PYTHONPATH": tree.env()["PYTHONPATH"],
    }
    tree.deployment = Deployment(tmp_path / "up", topology, env)
    yield tree
    tree.deployment.close()
    left = tree.docker.close()
    strays = tree.strays()
    tree.kill_all()
    assert (left, strays) == ([], [])


def options(words, flag):
    return [words[n + 1] for n, word in enumerate(words) if word == flag]


def told(tree):
    """Return the words of each container's run."""
    return [call["argv"] for call in tree.docker.calls("run")]


def test_each_server_has_a_container_with_its_devices(node):
    words = ["serve", "--topology", node.deployment.file]
    with (node.place / "serve.err").open("wb") as log:
        process = subprocess.Popen(
            node.command(*words),
            env=node.env(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    line = process.stdout.readline()
    said = (node.place / "serve.err").read_text()
    assert line == f"http://127.0.0.1:{node.deployment.topology['router']['port']}/v1\n", said
    run_id = node.run_dirs()[-1].name
    runs = sorted(told(node), key=lambda run: options(run, "--name"))
    assert [options(run, "--name") for run in runs] == [
        [f"ascend-v4-{run_id}-server-0-r{rank}"] for rank in (0, 1)
    ]
    for rank, run in enumerate(runs):
        dies = [f"/dev/davinci{n}" for n in range(8 * rank, 8 * rank + 8)]
        assert options(run, "--device")[:8] == dies
        env = options(run, "--env")
        assert "ASCEND_RT_VISIBLE_DEVICES=0,1,2,3,4,5,6,7" in env
        assert f"MOONCAKE_CONFIG_PATH={node.config}" in env
        places = [node.config, str(node.model)]
        assert options(run, "--volume") == [f"{place}:{place}:ro" for place in places]
    assert "risk: server-0-r0, server-0-r1 share a node and get a container each" in said
    assert "[separate-containers]" in said
    assert len(node.docker.containers()) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    process.stdout.close()
    until(lambda: not node.docker.containers(), 5.0)


def test_one_of_the_containers_that_ends_takes_the_others_along(node):
    up = node.deployment.up("--skip-preflight", "--runtime", "docker")
    up.ready()
    assert len(node.docker.containers()) == 2
    name = options(told(node)[0], "--name")[0]
    subprocess.run([node.fake.bin / "docker", "rm", "--force", name], check=True, stdout=-3)
    assert up.end() == 9
    assert "separate-containers" in up.said()
    until(lambda: not node.docker.containers(), 5.0)


def test_node_that_is_killed_leaves_no_container(node):
    up = node.deployment.up("--skip-preflight")
    up.ready()
    os.kill(node.read("state")["launcher"]["pid"], signal.SIGKILL)
    assert up.end() != 0
    until(lambda: not node.docker.containers(), 10.0)


def test_relative_directory_and_cpu_are_refused(node):
    for change, said in (
        ({"model_dir": "w"}, "docker mounts absolute paths only"),
        ({"profile": "cpu", "chip": None, "model": "rehearsal"}, "no official image of vllm"),
    ):
        topology = {**node.deployment.topology, **change, "env": {}}
        node.deployment.write({key: value for key, value in topology.items() if value})
        done = node.run("serve", "--topology", node.deployment.file, "--dry-run")
        assert done.returncode == 3, done.stderr
        assert said in done.stderr
