"""``ascend-v4 serve``: dry runs as whole outputs, then the real thing on a fake engine."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.checkpoints import checkpoint_files, write_files
from tests.support.fakehost import FakeHost

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def w8a8(directory: Path) -> Path:
    """Make a small W8A8 checkpoint with real headers."""
    write_files(directory, checkpoint_files("flash-w8a8-mtp"))
    return directory


def original(directory: Path) -> Path:
    """Make a small checkpoint of the FP4+FP8 original."""
    write_files(directory, checkpoint_files("flash-fp4"))
    return directory


DRY_RUNS = {
    "a2": ["--chip", "a2"],
    "a3": ["--chip", "a3"],
    "a3-0.13.0rc3": ["--chip", "a3", "--engine-version", "0.13.0rc3"],
    "a3-0.26.0rc1-long": [
        "--chip",
        "a3",
        "--engine-version",
        "0.26.0rc1",
        "--workload",
        "long-context",
    ],
    "4xh200": ["--chip", "h200"],
    "8xb200-latency": ["--chip", "b200", "--devices", "8", "--workload", "latency"],
    "cpu": ["--profile", "cpu"],
}


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_run(ascend, golden, isolated_user, name):
    done = ascend("serve", *DRY_RUNS[name], "--dry-run")
    assert done.code == 0
    golden(f"serve/{name}.txt", done.out.replace(str(isolated_user), "/home/op"))


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_run_json_is_a_plan_of_schema_1(ascend, golden, isolated_user, name):
    done = ascend("serve", *DRY_RUNS[name], "--dry-run", "--json")
    plan = json.loads(done.out)
    keys = "schema profile engine chip model validated processes notes origins"
    assert list(plan) == keys.split()
    assert plan["schema"] == 1
    golden(f"serve/{name}.json", done.out.replace(str(isolated_user), "/home/op"))


def test_pasted_dry_run_gives_vllm_the_plan(ascend, tmp_path):
    """The printed line, run by a shell, hands the program exactly the plan's argv and env."""
    fake = FakeHost(tmp_path).vllm("exit", code=0)
    key = tmp_path / "key with space"
    key.write_text("sk-1")
    options = ["--chip", "a2", "--api-key-file", key, "--model-dir", "/w/it's here", "--dry-run"]
    plan = json.loads(ascend("serve", *options, "--json").out)["processes"][0]
    line = ascend("serve", *options).out
    stale = {"VLLM_ASCEND_ENABLE_FLASHCOMM1": "0", "PATH": fake.environ("/usr/bin", "/bin")["PATH"]}
    subprocess.run(["sh", "-c", line], env=stale, check=True)
    call = fake.vllm_calls()[-1]
    assert call["argv"][-len(plan["argv"]) + 1 :] == plan["argv"][1:]
    assert {name: call["env"].get(name) for name in plan["env"]} == plan["env"]
    assert call["env"]["VLLM_API_KEY"] == "sk-1"
    assert not set(plan["unset"]) & set(call["env"])


class Running:
    """A ``serve`` of its own process on a fake host, as a script would start it."""

    def __init__(self, fake: FakeHost, *options: object, **env: str) -> None:
        command = [sys.executable, "-m", "ascend_v4", "serve", *map(str, options)]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**fake.environ("/usr/bin", "/bin"), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def endpoint(self) -> str:
        return self.process.stdout.readline().strip()

    def end(self, number: int | None = None) -> tuple[int, str]:
        if number is not None:
            self.process.send_signal(number)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


@pytest.fixture
def a3(tmp_path):
    """A fake A3 host with an engine and weights; options that serve them on a free port."""
    fake = FakeHost(tmp_path).vllm("serve")
    port = free_port()
    model = w8a8(tmp_path / "weights")
    return fake, port, ["--chip", "a3", "--model-dir", model, "--port", port]


def test_serves_until_interrupted(a3):
    fake, port, options = a3
    running = Running(
        fake, *options, VLLM_ASCEND_ENABLE_FLASHCOMM1="0", HTTP_PROXY="http://10.9.9.9:1"
    )
    assert running.endpoint() == f"http://127.0.0.1:{port}/v1"
    code, err = running.end(signal.SIGINT)
    assert code == 130
    assert "already held VLLM_ASCEND_ENABLE_FLASHCOMM1=0" in err
    assert "ready after" in err
    call = fake.vllm_calls()[0]
    assert call["env"]["VLLM_ASCEND_ENABLE_FLASHCOMM1"] == "1"
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(call["pid"], 0)


def test_term_stops_and_second_signal_kills(tmp_path):
    fake = FakeHost(tmp_path).vllm("serve", sigterm="ignore")
    running = Running(
        fake, "--chip", "a3", "--model-dir", w8a8(tmp_path / "w"), "--port", free_port()
    )
    assert running.endpoint()
    running.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert running.process.poll() is None
    code, _ = running.end(signal.SIGTERM)
    assert code == 143


def test_engine_that_dies_while_loading(tmp_path):
    fake = FakeHost(tmp_path).vllm("exit", code=3, stderr=["RuntimeError: no NPU"])
    running = Running(
        fake, "--chip", "a3", "--model-dir", w8a8(tmp_path / "w"), "--port", free_port()
    )
    code, err = running.end()
    assert code == 9
    assert "RuntimeError: no NPU" in err
    assert "error: the engine ended with exit code 3 before it was ready" in err


def test_health_without_an_answer_is_not_ready(tmp_path):
    fake = FakeHost(tmp_path).vllm("serve", complete="error")
    running = Running(
        fake,
        "--chip",
        "a3",
        "--model-dir",
        w8a8(tmp_path / "w"),
        "--port",
        free_port(),
        "--deadline",
        "2",
    )
    code, err = running.end()
    assert code == 8
    assert "generated no token before the deadline" in err


def test_port_in_use_names_its_holder(ascend, a3):
    fake, port, options = a3
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        done = ascend("serve", *options, host=fake.host())
    assert done.code == 7
    assert f"port {port} (OpenAI-compatible API) is held by" in done.err
    assert f"(pid {os.getpid()})" in done.err
    assert fake.vllm_calls() == []


def bad(ascend, fake, *options):
    done = ascend("serve", "--chip", "a3", *options, host=fake.host())
    assert done.out == ""
    return done


def test_missing_and_empty_model_directory(ascend, tmp_path):
    fake = FakeHost(tmp_path / "host").vllm("serve")
    done = bad(ascend, fake, "--model-dir", tmp_path / "none")
    assert done.code == 4
    assert "there is no such directory" in done.err
    assert "ascend-v4 download --profile ascend --model flash-w8a8-mtp" in done.err
    (tmp_path / "empty").mkdir()
    done = bad(ascend, fake, "--model-dir", tmp_path / "empty")
    assert (done.code, "the directory is empty" in done.err) == (4, True)


def test_original_weights_on_a3(ascend, tmp_path):
    fake = FakeHost(tmp_path / "host").vllm("serve")
    done = bad(ascend, fake, "--model-dir", original(tmp_path / "fp8"))
    assert done.code == 14
    assert "holds flash-fp4, and this launch is for flash-w8a8-mtp" in done.err


def test_engine_not_installed(ascend, tmp_path):
    fake = FakeHost(tmp_path / "host")
    done = bad(ascend, fake, "--model-dir", w8a8(tmp_path / "w"))
    assert done.code == 6
    assert "quay.io/ascend/vllm-ascend:v0.23.0.post1-a3" in done.err
    done = ascend("serve", "--profile", "cpu", host=fake.host())
    assert done.code == 6
    assert "ascend-v4 engine install --profile cpu" in done.err


def test_auto_profile_looks_at_the_host(ascend, tmp_path):
    fake = FakeHost(tmp_path).npus("a3-idle", davinci=16)
    plan = json.loads(ascend("serve", "--dry-run", "--json", host=fake.host()).out)
    assert (plan["profile"], plan["chip"]) == ("ascend", "a3")
    assert plan["origins"]["chip"] == "host"


def test_auto_profile_on_a_bare_host(ascend, tmp_path):
    done = ascend("serve", host=FakeHost(tmp_path).host())
    assert done.code == 6
    assert "--profile cpu" in done.err


def test_a100_is_refused_and_forks_may_insist(ascend):
    done = ascend("serve", "--chip", "a100", "--dry-run")
    assert done.code == 3
    assert "not supported by upstream vLLM" in done.err
    assert ascend("serve", "--chip", "a100", "--dry-run", "--allow-unvalidated").code == 0


def test_extra_is_merged_and_replaces(ascend):
    done = ascend(
        "serve", "--chip", "a3", "--dry-run", "--json", "--",
        "--additional-config", '{"ascend_compilation_config": {"enable_static_kernel": true}}',
        "--max_model_len=4096", "--no-enable-prefix-caching",
    )  # fmt: skip
    argv = json.loads(done.out)["processes"][0]["argv"]
    config = json.loads(argv[argv.index("--additional-config") + 1])
    assert config["ascend_compilation_config"] == {
        "enable_npugraph_ex": True,
        "enable_static_kernel": True,
    }
    assert argv[argv.index("--max-model-len") + 1] == "4096"
    assert "--no-enable-prefix-caching" in argv
    assert "--enable-prefix-caching" not in argv


def test_precedence_and_origins(ascend, tmp_path, monkeypatch):
    config = tmp_path / "launch.yaml"
    config.write_text("chip: a2\nmax-num-seqs: 5\nport: 1111\ncontext: 4096\n")
    monkeypatch.setenv("ASCEND_V4_PORT", "2222")
    monkeypatch.setenv("ASCEND_V4_CONTEXT", "8192")
    done = ascend("serve", "--config", config, "--context", "16384", "--dry-run", "--show-origin")
    lines = done.out.splitlines()
    for line in (
        "# context = 16384 (flag)",
        "# port = 2222 (variable)",
        "# max_num_seqs = 5 (file)",
        "# block_size = 128 (rule:a2-block)",
    ):
        assert line in lines
    command = "\n".join(line for line in lines if not line.startswith("#"))
    assert shlex.split(command)[0] == "env"


@pytest.mark.parametrize(
    "text,message",
    [
        ("chip: [a2", "is not valid YAML"),
        ("chpi: a2", "'chpi' is not a launch option. did you mean chip?"),
        ("chip: {a: 1}", "chip must be one value"),
        ("- chip", "must hold `option: value` lines"),
        ("port: many", "'many' is not a valid integer range"),
    ],
)
def test_bad_config_file(ascend, tmp_path, text, message):
    config = tmp_path / "launch.yaml"
    config.write_text(text)
    done = ascend("serve", "--config", config, "--chip", "a2", "--dry-run")
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_missing_config_file(ascend, tmp_path):
    done = ascend("serve", "--config", tmp_path / "none.yaml", "--dry-run")
    assert done.code == 2
    assert "--config" in done.err
    assert "No such file" in done.err


def test_stray_argument(ascend):
    done = ascend("serve", "a3", "--dry-run", "--chip", "a3")
    assert done.code == 2
    assert "'a3' after -- belongs to no flag" in done.err
