"""``ascend-v4 serve --profile cpu`` and ``chat`` on the real vLLM, as an operator runs them."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.engine import USER_ENV, free_port

pytestmark = pytest.mark.real_engine
ROOT = Path(__file__).resolve().parents[2]
REHEARSAL = "This is a rehearsal:"


class Serve:
    """A running ``ascend-v4 serve --profile cpu`` with models and state of its own."""

    def __init__(self, home: Path, *options: str) -> None:
        self.port = free_port()
        self.mark = str(home)
        self.env = {
            **USER_ENV,
            "ASCEND_V4_MODELS": str(home / "models"),
            "XDG_STATE_HOME": str(home / "state"),
        }
        self.log = home / "log"
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                self.command("serve", "--profile", "cpu", "--port", str(self.port), *options),
                cwd=ROOT,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )

    @staticmethod
    def command(*args: str) -> list[str]:
        return [sys.executable, "-m", "ascend_v4", *args]

    def run(self, *args: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*args),
            check=False,
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def chat(self, *args: str) -> subprocess.CompletedProcess:
        return self.run("chat", "Are you there?", "--base-url", self.url, *args)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def strays(self) -> list[str]:
        """Return the command lines of processes that still serve this test's model."""
        found = []
        for process in psutil.process_iter():
            try:
                if self.mark in process.environ().get("ASCEND_V4_MODELS", ""):
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return [line for line in found if "pytest" not in line]

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def server(cpu_engine, tmp_path_factory):
    running = Serve(tmp_path_factory.mktemp("serve"))
    started = time.monotonic()
    try:
        line = running.process.stdout.readline()
        assert line.strip() == running.url, running.log.read_text()[-4000:]
        running.seconds = time.monotonic() - started
        yield running
    finally:
        if running.process.poll() is None:
            running.stop(signal.SIGTERM)


def test_ready_within_the_budget(server):
    """60 s from an installed engine to the first answer, on two cores with nothing else to do."""
    assert server.seconds < 120
    assert f"rehearsal at {server.url}" in server.log.read_text()


@pytest.mark.parametrize("thinking", ["off", "high", "max"])
def test_chat_in_each_mode(server, thinking):
    done = server.chat("--thinking", thinking)
    assert done.returncode == 0
    assert done.stdout.startswith(REHEARSAL)
    assert ("[reasoning]" in done.stderr) is (thinking != "off")
    body = json.loads(server.chat("--thinking", thinking, "--json").stdout)
    assert body["answer"] == done.stdout.strip()
    assert bool(body["reasoning"]) is (thinking != "off")
    assert body["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == (19 if thinking == "off" else 33)


def test_bad_model_name(server):
    done = server.chat("--model", "deepseek-v5")
    assert done.returncode == 2
    assert "HTTP 404" in done.stderr
    assert "deepseek-v5" in done.stderr


def test_second_server_on_the_same_port(server):
    done = server.run("serve", "--profile", "cpu", "--port", str(server.port))
    assert done.returncode == 7
    assert str(server.port) in done.stderr
    assert f"pid {server.process.pid}" in done.stderr


def test_interrupt_leaves_nothing(server):
    """Runs last in this module: it stops the server the others used."""
    assert server.stop(signal.SIGINT) == 130
    time.sleep(1)
    assert server.strays() == []
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", server.port)) != 0


def test_interrupt_during_load(cpu_engine, tmp_path):
    running = Serve(tmp_path)
    deadline = time.monotonic() + 60
    while b"vLLM" not in running.log.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert running.process.poll() is None
    assert running.stop(signal.SIGINT) == 130
    time.sleep(1)
    assert running.strays() == []
