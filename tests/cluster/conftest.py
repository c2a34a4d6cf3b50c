"""Fake nodes on this machine, and proof that each test leaves nothing on any of them."""

import os
import sys

import pytest

from ascend_v4.rehearsal.build import build_rehearsal
from tests.support.fake_tree_run import Tree

from .deployment import Deployment, connect


class Nodes:
    """``count`` fake nodes on loopback addresses, and a deployment on all of them.

    Of the CPU profile: the others may not be spread over loopback addresses.
    """

    def __init__(self, place, count, model, name="fake", connects=None, **script):
        self.trees = [Tree(place / f"n{node}", **script) for node in range(count)]
        for tree in self.trees:
            installed(tree.place)
        nodes = [self.node(node, (connects or {}).get(node)) for node in range(count)]
        topology = {
            "schema": 1,
            "name": name,
            "profile": "cpu",
            "model": "rehearsal",
            "model_dir": str(model),
            "allow_unvalidated": True,
            "nodes": nodes,
            "groups": [
                {
                    "name": "server",
                    "nodes": [node["name"] for node in nodes],
                    "data_parallel_size": count,
                    "tensor_parallel_size": 1,
                    "load_balancing": "internal",
                    "port": self.trees[0].port,
                }
            ],
        }
        env = {
            **os.environ,
            "XDG_STATE_HOME": str(place / "state"),
            "ASCEND_V4_LOCK_DIR": str(place / "locks"),
            "PYTHONPATH": self.trees[0].env()["PYTHONPATH"],
        }
        self.deployment = Deployment(place, topology, env)
        self.up, self.run = self.deployment.up, self.deployment.run

    def node(self, number, way):
        """Return a node of the topology; its environment is its own."""
        return {
            "name": f"n{number}",
            "address": f"127.0.0.{number + 2}",
            "interface": "lo",
            "connect": way or connect([], self.trees[number].env()),
        }

    def launcher(self, node):
        """Return the pid of a node's own launcher."""
        return self.trees[node].read("state")["launcher"]["pid"]

    def alive(self):
        """Return the engines' processes that still run, by node."""
        return {tree.place.name: tree.alive() for tree in self.trees if tree.alive()}

    def exits(self):
        """Return the code of each node's own exit report."""
        return [tree.read("exit").get("code") for tree in self.trees]


def installed(place, version="0.32.0+cpu"):
    """Let the fake engine in ``place/bin`` be of a version."""
    facts = place / "lib/python3.12/site-packages/vllm-0.32.0.dist-info/METADATA"
    facts.parent.mkdir(parents=True, exist_ok=True)
    facts.write_text(f"Name: vllm\nVersion: {version}\n")


@pytest.fixture(scope="session")
def rehearsal(tmp_path_factory):
    """The real rehearsal checkpoint, made once."""
    directory = tmp_path_factory.mktemp("models") / "rehearsal"
    build_rehearsal(directory)
    return directory


@pytest.fixture
def nodes(tmp_path, rehearsal):
    """Make fake nodes; at the end nothing of them may be left."""
    made = []

    def make(count=2, **more):
        made.append(Nodes(tmp_path, count, rehearsal, **more))
        return made[-1]

    yield make
    left = {}
    for one in made:
        one.deployment.close()
        left |= {tree.place.name: tree.strays() for tree in one.trees if tree.strays()}
        for tree in one.trees:
            tree.kill_all()
    assert left == {}


@pytest.fixture(autouse=True)
def program_path(monkeypatch):
    """Nodes on this machine find the interpreter that runs the tests."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path[:1])))
