"""Starts the fake docker's daemon beside a fake host, and looks at what it owns."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ascend_v4.run.procs import descendants, scan
from tests.support.fake_tree_run import until

SOURCE = Path(__file__).with_name("fake_docker.py")


class Docker:
    """A daemon of its own, no part of any run, and its client among a host's programs."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        client = programs / "docker"
        client.write_text(f"#!{sys.executable} -IS\n{SOURCE.read_text()}")
        client.chmod(0o755)
        self.daemon = subprocess.Popen(
            [sys.executable, str(SOURCE), "daemon", str(programs)],
            env={"PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.daemon.stdout.readline() == "up\n"

    def refuse(self, *lines: str, code: int = 125) -> None:
        """Let every run from now on fail with what docker says on stderr."""
        text = json.dumps({"code": code, "stderr": lines})
        (self.programs / "docker.json").write_text(text)

    def calls(self, command: str | None = None) -> list[dict[str, Any]]:
        """Return the calls that reached the daemon, of one command or all."""
        path = self.programs / "docker.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if command in (None, row["argv"][0])]

    def containers(self) -> list[int]:
        """Return the containers that run, by the pids of their inits."""
        found = descendants(self.daemon.pid, scan())
        return [p.pid for p in found if p.ppid == self.daemon.pid and not p.over]

    def inside(self, pid: int) -> bool:
        """Whether a process runs in a container."""
        return any(found.pid == pid for found in descendants(self.daemon.pid, scan()))

    def down(self) -> None:
        """Be unreachable; containers go on."""
        self.daemon.send_signal(signal.SIGUSR1)
        until(lambda: not (self.programs / "docker.sock").exists())

    def up(self) -> None:
        """Be reachable again."""
        self.daemon.send_signal(signal.SIGUSR2)
        until(lambda: (self.programs / "docker.sock").exists())

    def close(self) -> list[int]:
        """End the daemon and all that it still owns; return the containers that were left."""
        left = self.containers()
        self.daemon.terminate()
        self.daemon.wait(10)
        self.daemon.stdout.close()
        return left
