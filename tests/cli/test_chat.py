"""``ascend-v4 chat`` against a small server of our own shape: both reasoning fields, errors."""

import json
import subprocess
import time

import httpx
import pytest

from tests.cli.test_serve import free_port
from tests.support.fakehost import FakeHost


@pytest.fixture
def server(tmp_path):
    """Start a fake vllm that answers; call it with the script's keys."""
    started = []

    def start(**script) -> str:
        fake = FakeHost(tmp_path).vllm("serve", **script)
        port = free_port()
        started.append(
            subprocess.Popen(
                [fake.bin / "vllm", "serve", "m", "--port", str(port), "--served-model-name", "v4"],
                env=fake.environ("/usr/bin", "/bin"),
                stderr=subprocess.DEVNULL,
            )
        )
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            try:
                httpx.get(f"{url}/health", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        return f"{url}/v1"

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_is_shown_apart_whatever_its_field(ascend, server, field):
    url = server(answer="It is blue.", reasoning_field=field)
    done = ascend("chat", "Why?", "--thinking", "high", "--base-url", url)
    assert done.code == 0
    assert done.out == "It is blue.\n"
    assert done.err.startswith("[reasoning]\n")
    body = json.loads(ascend("chat", "Why?", "--thinking", "high", "--base-url", url, "--json").out)
    assert body["answer"] == "It is blue."
    assert body["reasoning"]


def test_no_server(ascend):
    done = ascend("chat", "Hi", "--base-url", f"http://127.0.0.1:{free_port()}/v1")
    assert (done.code, done.out) == (17, "")
    assert "no server answers at" in done.err
    assert "ascend-v4 serve" in done.err


def test_an_address_that_is_no_url(ascend):
    done = ascend("chat", "Hi", "--base-url", "nonsense")
    assert (done.code, done.out) == (2, "")
    assert "--base-url nonsense is not a URL" in done.err


def test_unreadable_key_file(ascend, tmp_path):
    done = ascend("chat", "Hi", "--api-key-file", tmp_path / "none")
    assert done.code == 2
    assert "can't be read" in done.err
