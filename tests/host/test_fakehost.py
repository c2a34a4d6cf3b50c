"""The fake parts themselves: what stands in for real programs must act like them."""

import http.client
import json
import signal
import socket
import subprocess
import time

import pytest

from tests.support.fakehost import FakeHost, npu_smi_text


@pytest.fixture
def fake(tmp_path):
    return FakeHost(tmp_path)


def start(fake, *arguments):
    return subprocess.Popen(
        [str(fake.bin / "vllm"), *arguments],
        env=fake.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def ask(port, method, path, body=None):
    """Return (status, text) once the server answers at all."""
    for _ in range(100):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request(method, path, body and json.dumps(body))
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        except ConnectionRefusedError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise AssertionError("the fake vllm never listened")


def test_npu_smi_answers_by_its_arguments(fake):
    fake.npu_smi({"info": npu_smi_text("a2-idle"), "info -m": "mapping\n"}, stderr="said aside")
    host = fake.host()
    tool = "npu-smi"
    assert host.run([tool, "info"]).stdout == npu_smi_text("a2-idle")
    done = host.run([tool, "info", "-m"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "mapping\n", "said aside")
    other = host.run([tool, "info", "-t", "topo"])
    assert (other.returncode, other.stdout, other.stderr) == (1, "", "Usage: npu-smi info\n")


def test_vllm_records_its_call_and_exits_as_told(fake):
    fake.vllm("exit", code=3, stderr=["RuntimeError: no"], version="0.23.0")
    process = start(fake, "serve", "/models/x", "--port", "1")
    assert process.communicate(timeout=30) == ("", "RuntimeError: no\n")
    assert process.returncode == 3
    (call,) = fake.vllm_calls()
    assert call["argv"] == ["serve", "/models/x", "--port", "1"]
    assert {k: v for k, v in call["env"].items() if k != "LC_CTYPE"} == fake.environ()
    assert call["pid"] == process.pid
    assert start(fake, "--version").communicate(timeout=30) == ("0.23.0\n", "")


def test_vllm_serves_and_stops_by_signal(fake):
    port = free_port()
    fake.vllm("serve", answer="hi")
    process = start(fake, "serve", "/m", f"--port={port}", "--served-model-name", "v4")
    try:
        assert ask(port, "GET", "/health") == (200, "{}")
        models = json.loads(ask(port, "GET", "/v1/models")[1])
        assert [model["id"] for model in models["data"]] == ["v4"]
        chat = {"model": "v4", "messages": [], "chat_template_kwargs": {"thinking": True}}
        status, text = ask(port, "POST", "/v1/chat/completions", chat)
        answer = json.loads(text)["choices"][0]["message"]
        assert status == 200
        assert answer == {"role": "assistant", "reasoning": "a thought", "content": "hi"}
        stream = ask(port, "POST", "/v1/chat/completions", {**chat, "stream": True})[1]
        events = [line[6:] for line in stream.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        assert [json.loads(event)["choices"][0]["delta"] for event in events[:-1]] == [
            {"reasoning": "a thought"},
            {"content": "hi"},
            {},
        ]
        wrong = ask(port, "POST", "/v1/completions", {"model": "v3", "prompt": "x"})
        assert wrong[0] == 404
        assert json.loads(ask(port, "POST", "/v1/completions", {"prompt": "x"})[1])["choices"] == [
            {"index": 0, "text": "hi", "finish_reason": "stop"}
        ]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_vllm_can_die_after_a_while(fake):
    fake.vllm("serve", die_after_s=0.1, code=7)
    process = start(fake, "serve", "/m", "--port", str(free_port()))
    process.communicate(timeout=30)
    assert process.returncode == 7
