"""A rehearsal deployment on the real vLLM, its nodes network namespaces of this machine."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from ascend_v4.paths import engine_dir

from .deployment import Deployment, connect
from .netns import Net

REAL_ENV = dict(os.environ)
PASSED = ("PATH", "HOME", "LD_LIBRARY_PATH", "XDG_CACHE_HOME")


class RealNodes:
    """``net``'s nodes with state and locks of their own; one deployment on all of them."""

    def __init__(self, place: Path, net: Net, groups: list[dict[str, Any]], **more: Any) -> None:
        self.net = net
        base = {name: REAL_ENV[name] for name in PASSED if name in REAL_ENV}
        base["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
        base["ASCEND_V4_MODELS"] = str(place / "models")
        base["ASCEND_V4_ENGINES"] = str(engine_dir(REAL_ENV, "cpu").parent)
        self.envs = [self.node_env(base, place / f"node{node}") for node in range(net.count)]
        nodes = [
            {
                "name": f"n{node}",
                "address": net.address(node),
                "interface": "eth0",
                "connect": connect(net.words(node), self.envs[node]),
            }
            for node in range(net.count)
        ]
        topology = {
            "schema": 1,
            "name": "rehearsal",
            "profile": "cpu",
            "model": "rehearsal",
            "allow_unvalidated": True,
            "nodes": nodes,
            "groups": groups,
            **more,
        }
        env = self.node_env(base, place / "coordinator")
        self.deployment = Deployment(place, topology, env)

    def node_env(self, base: dict[str, str], place: Path) -> dict[str, str]:
        """Return a node's environment: the machine's engine, state of its own."""
        return {
            **base,
            "XDG_STATE_HOME": str(place / "state"),
            "ASCEND_V4_LOCK_DIR": str(place / "locks"),
        }

    def ask(self, path: str, body: str = "", node: int = 0, port: int = 8000) -> str:
        """Return a reply of a node's server, asked from within the node."""
        url = f"http://{self.net.address(node)}:{port}{path}"
        data = ["-H", "Content-Type: application/json", "-d", body] if body else []
        words = [*self.net.words(node), "curl", "-sS", "-m", "120", url, *data]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def finished(self) -> dict[str, int]:
        """Return the finished requests by the engine's own counters, by its label."""
        return self.counted("request_success_total")

    def running(self) -> dict[str, int]:
        """Return the requests that run now, by the engine's label."""
        return self.counted("num_requests_running")

    def counted(self, name: str) -> dict[str, int]:
        """Return a metric of the head, by the engine's label."""
        found = re.findall(
            rf'^vllm:{name}\{{[^}}]*engine="(\d+)"[^}}]*\}} ([\d.e+]+)',
            self.ask("/metrics"),
            re.MULTILINE,
        )
        counts: dict[str, int] = {}
        for engine, value in found:
            counts[engine] = counts.get(engine, 0) + int(float(value))
        return counts

    def named(self, node: int, word: str) -> int:
        """Return the first process on a node that calls itself so."""
        titles = {pid: title(pid) for pid in self.net.pids(node)}
        return next(pid for pid, text in titles.items() if word in text)


def title(pid: int) -> str:
    """Return a process's command line, ``""`` if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
