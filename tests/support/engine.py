"""The real CPU engine for tests: installed once outside the clone, served once a session.

``cpu_engine`` is the path of the ``vllm`` executable; ``rehearsal_server`` a running
``vllm serve`` of the rehearsal checkpoint.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from ascend_v4.engine.cpu import install_cpu_engine
from ascend_v4.host.system import Host
from ascend_v4.paths import engine_dir
from ascend_v4.rehearsal.build import build_rehearsal

#: The user's own environment, before any test changes it: the engine's cache lives there.
USER_ENV = dict(os.environ)
#: docs/cpu-profile.md says what each of these is for.
SERVE_ENV = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
SERVE_ARGS = (
    *("--tokenizer-mode", "deepseek_v4"),
    *("--reasoning-parser", "deepseek_v4"),
    *("--tool-call-parser", "deepseek_v4"),
    "--enable-auto-tool-choice",
    "--enforce-eager",
    *("--max-model-len", "16384"),
    *("--kv-cache-memory-bytes", "67108864"),
)
MODEL = "rehearsal"
READY_S = 180.0  # a loaded two-core CI machine with a cold page cache


@dataclass(frozen=True)
class Server:
    """A running server: ``url`` without a path, and its log."""

    url: str
    log: Path


def free_port() -> int:
    """Return a TCP port that was free on loopback just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def cpu_engine() -> Path:
    """Install the CPU engine into the user's place for it, once for all sessions."""
    info = install_cpu_engine(Host(env=USER_ENV), engine_dir(USER_ENV, "cpu"), say=print)
    return Path(info.executable)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"not ready in {READY_S} s:\n{log.read_text(errors='replace')[-4000:]}")


@pytest.fixture(scope="session")
def rehearsal_server(
    cpu_engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Serve the rehearsal checkpoint with real vLLM on loopback for the whole session."""
    home = tmp_path_factory.mktemp("rehearsal")
    build_rehearsal(home / MODEL)
    url, log = f"http://127.0.0.1:{free_port()}", home / "vllm.log"
    argv = [str(cpu_engine), "serve", str(home / MODEL), "--served-model-name", MODEL]
    argv += ["--host", "127.0.0.1", "--port", url.rsplit(":", 1)[1], *SERVE_ARGS]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            argv,
            env={**USER_ENV, **SERVE_ENV},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(process, url, log)
        yield Server(url, log)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
