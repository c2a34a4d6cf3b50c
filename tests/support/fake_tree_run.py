"""Starts ``ascend-v4`` on a fake process tree and looks at what it leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ascend_v4.run.procs import alive
from tests.support.checkpoints import checkpoint_files, write_files
from tests.support.fakehost import FakeHost

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def until(true: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Wait for a true value and return it; fails after ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while not (value := true()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


def runs(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def parent(pid: int) -> int:
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Tree:
    """A fake A3 host with an engine that forks, weights, and locks and state of its own."""

    def __init__(self, place: Path, **script: Any) -> None:
        self.fake = FakeHost(place)
        self.place = place
        self.state = place / "state"
        self.port = free_port()
        self.model = place / "weights"
        write_files(self.model, checkpoint_files("flash-w8a8-mtp"))
        self.locks = place / "locks"
        self.servings: list[Serving] = []
        source = Path(__file__).with_name("fake_tree.py").read_text()
        self.fake.program("vllm", f"#!{sys.executable} -IS\n{source}")
        self.script(**script)

    def script(self, **script: Any) -> None:
        """Say how the engine acts from its next start on."""
        (self.fake.bin / "vllm.json").write_text(json.dumps(script))

    def npus(self, **script: Any) -> Path:
        """Add an npu-smi that shows the workers' memory; return the list of who holds it."""
        memory = self.place / "memory"
        code = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv.pop(0); "
        code += "runpy.run_module('tests.support.fake_npu', run_name='__main__', alter_sys=False)"
        line = f'exec "{sys.executable}" -IS -c "{code}" "{ROOT}" npu-smi "{memory}" "$@"'
        self.fake.program("npu-smi", f"#!/bin/sh\n{line}\n")
        self.script(memory=str(memory), **script)
        return memory

    def env(self, **more: str) -> dict[str, str]:
        """Return the environment of a command on this host."""
        return {
            **self.fake.environ("/usr/bin", "/bin"),
            "XDG_STATE_HOME": str(self.state),
            "ASCEND_V4_LOCK_DIR": str(self.locks),
            "PYTHONPATH": str(ROOT),
            **more,
        }

    def command(self, *words: object) -> list[str]:
        """Return an ``ascend-v4`` command line."""
        return [sys.executable, "-m", "ascend_v4", *map(str, words)]

    def serve_words(self, *options: object) -> list[object]:
        """Return the words that serve on this host's port."""
        base = ["serve", "--chip", "a3", "--model-dir", self.model, "--port", self.port]
        return [*base, *options]

    def serve(self, *options: object, **how: Any) -> Serving:
        """Start a server in the foreground of a process of its own."""
        self.servings.append(Serving(self, self.command(*self.serve_words(*options)), **how))
        return self.servings[-1]

    def run(
        self, *words: object, timeout_s: float = 60.0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*words),
            env=self.env(**env),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def processes(self) -> list[dict[str, Any]]:
        """Return the engine's processes so far: role, pid, start time in clock ticks."""
        path = self.fake.bin / "tree.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def pids(self, role: str | None = None) -> list[int]:
        """Return the pids of the engine's processes so far, of one role or all."""
        return [row["pid"] for row in self.processes() if role in (None, row["role"])]

    def keepers(self) -> tuple[int, int]:
        """Return the pids of the first member's watcher and guardian, while the engine lives."""
        guardian = parent(self.pids("api")[-1])
        return parent(guardian), guardian

    def alive(self) -> list[int]:
        """Return the engine's processes that still run."""
        return [row["pid"] for row in self.processes() if alive(row["pid"], row["start"])]

    def run_dirs(self) -> list[Path]:
        """Return the folders of the runs, oldest first."""
        return sorted((self.state / "ascend-v4" / "runs").glob("*"))

    def read(self, name: str) -> dict[str, Any]:
        """Return a JSON file of the newest run; {} while there is none."""
        try:
            return json.loads((self.run_dirs()[-1] / f"{name}.json").read_text())
        except (OSError, IndexError, ValueError):
            return {}

    def carriers(self) -> list[int]:
        """Return every process that carries the id of one of this host's runs."""
        ids = [path.name.encode() for path in self.run_dirs()]
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if any(b"ASCEND_V4_RUN_ID=" + run_id in environ for run_id in ids):
                found.append(int(entry.name))
        return found

    def strays(self) -> list[int]:
        """Return what is left: the engine's processes and whatever carries a run id."""
        return sorted({*self.alive(), *self.carriers()})

    def kill_all(self) -> None:
        """End what a failed test left, launchers first; for the end of a test only."""
        for serving in self.servings:
            if serving.process.poll() is None:
                serving.process.kill()
                serving.process.wait()
        for pid in self.strays():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue


class Serving:
    """A ``serve`` in the foreground; its stderr goes to a file."""

    def __init__(self, tree: Tree, command: list[str], **how: Any) -> None:
        self.tree = tree
        self.log = tree.place / f"serve-{time.monotonic_ns()}.err"
        env = tree.env(**how.pop("env", {}))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=how.pop("stderr", log),
                text=True,
                **how,
            )

    def ready(self) -> str:
        """Wait until it serves; return the endpoint."""
        line = self.process.stdout.readline().strip()
        assert line, self.err()
        return line

    def err(self) -> str:
        """Return what it wrote on stderr so far."""
        return self.log.read_text(errors="replace")

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, number: int | None = None, timeout_s: float = 30.0) -> int:
        """Send a signal, if one is given, and wait for the end; return the exit status."""
        if number is not None:
            self.send(number)
        code = self.process.wait(timeout_s)
        self.process.stdout.close()
        return code
