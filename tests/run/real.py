"""``ascend-v4 serve --profile cpu`` on the real vLLM, and every process of its tree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from ascend_v4.paths import engine_dir
from tests.support.fake_tree_run import ROOT, free_port, parent, runs

REAL_ENV = dict(os.environ)
#: What is killed, and by which word of its title it is found.
TITLES = {"api": "VLLM::APIServer", "core": "VLLM::EngineCore", "worker": "VLLM::Worker"}
KINDS = ("TERM", "INT", "launcher", *TITLES, "guardian", "pair")


class RealRun:
    """A foreground run with state and locks below ``place``; ``dp`` data-parallel replicas."""

    def __init__(self, place: Path, dp: int = 1, *options: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.place = place
        self.env = {
            **REAL_ENV,
            "ASCEND_V4_MODELS": str(place / "models"),
            "ASCEND_V4_ENGINES": str(engine_dir(REAL_ENV, "cpu").parent),
            "XDG_STATE_HOME": str(place / "state"),
            "ASCEND_V4_LOCK_DIR": str(place / "locks"),
        }
        words = ["serve", "--profile", "cpu", "--port", str(free_port()), "--json", *options]
        words += ["--", "--data-parallel-size", str(dp)] if dp > 1 else []
        self.engine = engine_dir(REAL_ENV, "cpu")
        self.log = place / "serve.err"
        self.began = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ascend_v4", *words],
                cwd=ROOT,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def ready(self) -> dict[str, Any]:
        """Wait until it serves; return the facts that it printed."""
        text = ""
        while not text.endswith("}\n"):
            line = self.process.stdout.readline()
            assert line, self.log.read_text(errors="replace")[-4000:]
            text += line
        return json.loads(text)

    def read(self, name: str) -> dict[str, Any]:
        """Return a JSON file of the newest run; {} while there is none."""
        try:
            newest = sorted((self.place / "state/ascend-v4/runs").iterdir())[-1]
            return json.loads((newest / f"{name}.json").read_text())
        except (OSError, IndexError):
            return {}

    def keepers(self) -> tuple[int, int]:
        """Return the pids of the watcher and the guardian."""
        guardian = parent(self.read("state")["members"][0]["main"]["pid"])
        return parent(guardian), guardian

    def tree(self) -> dict[int, str]:
        """Return the pids below the launcher with what they call themselves."""
        launcher = psutil.Process(self.process.pid)
        return {p.pid: " ".join(p.cmdline()) for p in launcher.children(recursive=True)}

    def unmarked(self, pids: dict[int, str]) -> list[str]:
        """Return those whose environment does not show the run id."""
        marks = {pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in pids}
        return [pids[pid] for pid, text in marks.items() if b"ASCEND_V4_RUN_ID=" not in text]

    def left(self, pids: dict[int, str]) -> list[str]:
        """Return those of the processes that still run."""
        return [title for pid, title in pids.items() if runs(pid)]

    def kill_all(self, pids: dict[int, str]) -> None:
        """End everything, at the end of a test."""
        for pid in [self.process.pid, *pids]:
            if runs(pid):
                os.kill(pid, 9)
        self.process.wait()
        self.process.stdout.close()


def named(pids: dict[int, str], word: str) -> int:
    """Return the first pid that calls itself so."""
    return next(pid for pid, title in pids.items() if word in title)


def hit(run: RealRun, tree: dict[int, str], kind: str, dp: int) -> None:
    """Do one kind of kill; ``pair`` is launcher and guardian in one moment."""
    if kind in ("TERM", "INT"):
        run.process.send_signal(signal.Signals[f"SIG{kind}"])
        return
    guardian = run.keepers()[1]
    if kind == "pair":
        os.kill(run.process.pid, signal.SIGSTOP)
        os.kill(guardian, signal.SIGKILL)
    if kind in ("launcher", "pair"):
        run.process.kill()
    elif kind == "guardian":
        os.kill(guardian, signal.SIGKILL)
    else:
        word = "vllm serve" if (kind, dp) == ("api", 1) else TITLES[kind]
        os.kill(named(tree, word), signal.SIGKILL)


def one_kill(place: Path, kind: str, dp: int) -> tuple[int, int, list[str], float, float]:
    """Return processes, exit code, strays 5 s after the end, seconds to the end and to none."""
    run = RealRun(place, dp, "--no-check-engine")
    tree: dict[int, str] = {}
    try:
        run.ready()
        tree = run.tree()
        began = time.monotonic()
        hit(run, tree, kind, dp)
        code = run.process.wait(300)
        ended = time.monotonic()
        while (left := run.left(tree)) and time.monotonic() - ended < 5.0:
            time.sleep(0.02)
        return len(tree), code, left, ended - began, time.monotonic() - ended
    finally:
        run.kill_all(tree)
