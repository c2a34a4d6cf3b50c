"""Every profile on a mocked host: fake npu-smi, stub NVML, fake /dev and vllm on PATH."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_serve import Running, free_port, original
from tests.support.fakehost import FakeHost
from tests.support.nvml_stub import build_stub, stub_env

ROOT = Path(__file__).resolve().parents[2]
SIGINT = 2


def plan_on(ascend, fake, *options):
    done = ascend("serve", *options, "--dry-run", "--json", host=fake.host())
    return done, json.loads(done.out) if done.out else None


@pytest.mark.parametrize(
    "layout,davinci,chip,devices",
    [
        ("a2-idle", 8, "a2:910b2c", 8),
        ("a2-busy", 8, None, 8),
        ("a3-idle", 16, "a3", 16),
        ("a3-wide-idle", 16, "a3", 16),
        ("950pr-idle", 8, "a5:950pr", 8),
    ],
)
def test_npu_hosts(ascend, tmp_path, layout, davinci, chip, devices):
    done, plan = plan_on(ascend, FakeHost(tmp_path).npus(layout, davinci=davinci))
    assert plan is not None, done.err
    assert plan["profile"] == "ascend"
    assert chip is None or plan["chip"] == chip
    assert len(plan["processes"][0]["devices"]) <= devices


@pytest.mark.parametrize("layout", ["310p-idle", "910-first-generation"])
def test_npus_that_cant_serve_are_refused(ascend, tmp_path, layout):
    done, plan = plan_on(ascend, FakeHost(tmp_path).npus(layout, davinci=8))
    assert (done.code, plan) == (3, None)
    assert json.loads(done.err)["error"]["kind"] == "npu-not-supported"


def test_npus_held_by_another_container(ascend, tmp_path):
    fake = FakeHost(tmp_path).npus("refused-8020", davinci=8, code=1)
    done, plan = plan_on(ascend, fake)
    assert (done.code, plan) == (7, None)


def test_chip_overrides_the_host(ascend, tmp_path):
    _, plan = plan_on(ascend, FakeHost(tmp_path).npus("a3-idle", davinci=16), "--chip", "a2")
    assert plan["chip"] == "a2"


@pytest.fixture(scope="module")
def nvml(tmp_path_factory):
    library = build_stub(tmp_path_factory.mktemp("nvml"))
    if library is None:
        pytest.skip("no C compiler for the stub NVML library")
    return library


def on_gpus(nvml, tmp_path, gpus, *options):
    env = {**os.environ, **stub_env(nvml, gpus)}
    return subprocess.run(
        [sys.executable, "-m", "ascend_v4", "serve", *options, "--dry-run", "--json"],
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_gpus_make_it_cuda(nvml, tmp_path):
    done = on_gpus(nvml, tmp_path, ",".join(["NVIDIA H200:143771:9.0"] * 4))
    plan = json.loads(done.stdout)
    assert (plan["profile"], plan["chip"]) == ("cuda", "h200")
    argv = plan["processes"][0]["argv"]
    assert argv[argv.index("--data-parallel-size") + 1] == "4"


def test_a100_host_is_refused(nvml, tmp_path):
    done = on_gpus(nvml, tmp_path, ",".join(["NVIDIA A100-SXM4-80GB:81920:8.0"] * 8))
    assert done.returncode == 3
    assert "not supported by upstream vLLM" in done.stderr


def test_one_h200_cannot_hold_the_checkpoint(nvml, tmp_path):
    done = on_gpus(nvml, tmp_path, "NVIDIA H200:143771:9.0")
    assert done.returncode == 3
    assert "148" in done.stderr


def test_cuda_serves_end_to_end(tmp_path):
    fake = FakeHost(tmp_path).vllm("serve")
    model, port = original(tmp_path / "w"), free_port()
    running = Running(fake, "--chip", "b200", "--model-dir", model, "--port", port)
    assert running.endpoint() == f"http://127.0.0.1:{port}/v1"
    assert running.end(SIGINT)[0] == 130
    call = fake.vllm_calls()[0]
    assert call["argv"][:2] == ["serve", str(model)]


def test_jemalloc_is_preloaded_where_it_exists(tmp_path):
    from ascend_v4.run.inherit import jemalloc

    fake = FakeHost(tmp_path).file("/usr/lib64/libjemalloc.so.2")
    env = {"LD_PRELOAD": "/opt/other.so"}
    assert jemalloc(fake.host(), env) == "/usr/lib64/libjemalloc.so.2"
    assert env["LD_PRELOAD"] == "/usr/lib64/libjemalloc.so.2:/opt/other.so"
    assert jemalloc(FakeHost(tmp_path / "bare").host(), {}) is None
