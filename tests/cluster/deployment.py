"""Starts deployments with ``ascend-v4 cluster up`` and looks at what they leave."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.fake_tree_run import ROOT, runs


class Deployment:
    """A topology below ``place`` with the environment ``env``, and commands on it."""

    def __init__(self, place: Path, topology: dict[str, Any], env: dict[str, str]) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.place, self.env = place, env
        self.file = place / "topology.yaml"
        self.write(topology)
        self.program = place / "ascend-v4"
        self.program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ascend_v4 "$@"\n')
        self.program.chmod(0o755)
        self.process: subprocess.Popen[str] | None = None
        self.count = 0

    def write(self, topology: dict[str, Any]) -> None:
        """Write the topology; JSON is YAML."""
        self.topology = topology
        self.file.write_text(json.dumps(topology, indent=1))

    def words(self, command: str, *options: object) -> list[str]:
        """Return the words of a ``cluster`` command on the topology."""
        base = [sys.executable, "-m", "ascend_v4", "cluster", command, "-f", str(self.file)]
        return [*base, "--program", str(self.program), *map(str, options)]

    def up(self, *options: object) -> Deployment:
        """Start it in a process of its own."""
        self.count += 1
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.words("up", "--json", *options),
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self

    @property
    def log(self) -> Path:
        """Return the file of what the newest start said on stderr."""
        return self.place / f"up-{self.count}.err"

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def error(self) -> dict[str, Any]:
        """Return the error object that it ended with."""
        lines = [line for line in self.said().splitlines() if line.startswith('{"error"')]
        return json.loads(lines[-1])["error"]

    def ready(self) -> dict[str, Any]:
        """Wait until it serves; return the facts that it printed."""
        text = ""
        while not text.endswith("}\n"):
            line = self.process.stdout.readline()
            assert line, self.said()[-6000:]
            text += line
        return json.loads(text)

    def end(self, number: int | None = None, timeout_s: float = 60.0) -> int:
        """Send a signal, if one is given, and wait for the end; return the exit status."""
        if number is not None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it goes on:\n{self.said()[-6000:]}") from None

    def run(self, command: str, *options: object) -> subprocess.CompletedProcess[str]:
        """Run another command on the deployment to its end."""
        return subprocess.run(
            self.words(command, *options),
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def line(self, text: str) -> int:
        """Return the number of the first line of the file that holds a text."""
        lines = self.file.read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if text in line)

    def newest(self) -> Path:
        """Return the folder of the newest coordinator's run."""
        return sorted((Path(self.env["XDG_STATE_HOME"]) / "ascend-v4/runs").iterdir())[-1]

    def status(self) -> dict[str, Any]:
        done = self.run("status", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def close(self) -> None:
        """End a start that a failed test left."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()


def connect(words: Sequence[str], env: dict[str, str]) -> str:
    """Return how a node is reached: a prefix with an environment of its own."""
    pairs = [f"{name}={value}" for name, value in env.items()]
    return f"exec: {shlex.join([*words, 'env', '-i', *pairs])}"


def feeder(nodes: Any, node: int) -> int:
    """Return the pid of a node's feeder: the coordinator's member."""
    run = json.loads((nodes.deployment.newest() / "state.json").read_text())
    return next(m["main"]["pid"] for m in run["members"] if m["name"] == f"n{node}")


def gone(pids: Sequence[int], timeout_s: float) -> list[int]:
    """Return those that still run after at most ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while (left := [pid for pid in pids if runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
