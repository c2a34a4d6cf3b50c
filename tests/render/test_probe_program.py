"""The probe of the pods, run by Python against servers that answer, lag or fail."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ascend_v4.render.k8s_probe import PROBE


class Handler(BaseHTTPRequestHandler):
    """Enough of vLLM's API: health, metrics, completions that may be out of order."""

    def do_GET(self):
        text = f'vllm:generation_tokens_total{{engine="0"}} {self.server.tokens}\n'
        running = self.server.running.pop(0) if self.server.running else 0
        text += f'vllm:num_requests_running{{engine="1"}} {running}\n'
        text += 'vllm:num_requests_waiting_by_reason{engine="1",reason="capacity"} 9\n'
        self.answer(self.server.healthy, text if self.path == "/metrics" else "")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, asked, self.headers.get("Authorization")))
        self.server.tokens += self.server.makes
        self.answer(True, json.dumps({"usage": {"completion_tokens": self.server.makes}}))

    def answer(self, well, text):
        self.send_response(200 if well else 503)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def servers():
    made = []
    for _ in range(2):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.tokens, server.healthy, server.makes, server.asked = 0, True, 1, []
        server.running = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made.append(server)
    yield made
    for server in made:
        server.shutdown()
        server.server_close()


@pytest.fixture
def probe(tmp_path, servers):
    marks = tmp_path / "marks"
    marks.mkdir()
    program = tmp_path / "probe.py"
    program.write_text(PROBE.replace("/tmp/ascend-v4-", f"{marks}/"))

    def run(what, **env):
        ports = [str(server.server_port) for server in servers]
        return subprocess.run(
            [sys.executable, program, what, "flash", "127.0.0.1", *ports],
            capture_output=True, text=True, env=env, check=False,
        )  # fmt: skip

    return run


def test_before_its_end_a_server_is_waited_for_until_nothing_runs(probe, servers):
    servers[0].running = [2, 0, 1, 0, 0, 7]
    began = time.monotonic()
    assert probe("idle:20").returncode == 0
    assert servers[0].running == [7]
    assert 2 < time.monotonic() - began < 10
    servers[1].running = [3] * 50
    began = time.monotonic()
    assert probe("idle:1").returncode == 0
    assert time.monotonic() - began < 5


def test_ready_means_a_token_of_each(probe, servers):
    assert probe("generate", VLLM_API_KEY="swordfish").returncode == 0
    want = {"model": "flash", "prompt": "1", "max_tokens": 1, "temperature": 0}
    for server in servers:
        assert server.asked == [("/v1/completions", want, "Bearer swordfish")]


def test_a_busy_server_is_asked_for_nothing(probe, servers):
    """Work done since the last probe is proof enough; a queue is not made longer."""
    assert probe("generate").returncode == 0
    servers[0].tokens += 100
    assert probe("generate").returncode == 0
    assert [len(server.asked) for server in servers] == [1, 2]


def test_a_server_without_tokens_is_not_ready(probe, servers):
    servers[1].makes = 0
    done = probe("generate")
    assert done.returncode == 1
    assert done.stderr == f"{servers[1].server_port}: {servers[1].server_port}: no token\n"


def test_health_asks_every_server(probe, servers):
    assert probe("health").returncode == 0
    servers[1].healthy = False
    done = probe("health")
    assert done.returncode == 1
    assert "503" in done.stderr
    assert servers[0].asked == []
