"""GPU hosts: through the stub NVML library, and from recorded facts."""

import dataclasses
import json
import subprocess
import sys

import pytest

from ascend_v4.core.request import LaunchRequest
from ascend_v4.doctor.gpu_checks import gpu_checks
from ascend_v4.doctor.look import Look
from ascend_v4.host.nvml import Gpu, GpuHost, GpuProcess
from tests.support.fakehost import FakeHost
from tests.support.nvml_stub import build_stub, stub_env

MIB = 1 << 20
H200 = "NVIDIA H200:143771:9.0:mig=0"


def gpus(count=4, **changes):
    gpu = Gpu(0, "NVIDIA H200", "GPU-0", "0", 143771 * MIB, 600 * MIB, (9, 0), False, "h200")
    some = tuple(dataclasses.replace(gpu, index=n, **changes) for n in range(count))
    return GpuHost(some, None, "580.10", "13.0", ("NVML: seen",), ())


def checks(tmp_path, found):
    look = Look(FakeHost(tmp_path).host(), LaunchRequest(), "cuda", None, found, None)
    return {outcome.id: outcome for outcome in gpu_checks(look)}


def test_healthy(tmp_path):
    found = checks(tmp_path, gpus())
    verdicts = {name: outcome.verdict for name, outcome in found.items()}
    assert verdicts == {
        "gpu-devices": "ok",
        "gpu-chip": "ok",
        "gpu-memory": "ok",
        "gpu-processes": "ok",
        "gpu-count": "unknown",
        "gpu-driver": "ok",
        "gpu-links": "unknown",
    }


def test_sm80_is_refused_with_the_reason(tmp_path):
    found = checks(tmp_path, gpus(name="NVIDIA A100-SXM4-80GB", capability=(8, 0), chip="a100"))
    chip = found["gpu-chip"]
    assert (chip.verdict, chip.code) == ("fail", 3)
    assert chip.message == (
        "GPU 0 (NVIDIA A100-SXM4-80GB) has compute capability 8.0; "
        "vLLM's attention for DeepSeek-V4 has kernels for 9.0, 10.x and 12.0 only"
    )


def test_memory_held_by_another(tmp_path):
    held = (GpuProcess(4242, "python", 130000 * MIB),)
    found = checks(tmp_path, gpus(memory_used_bytes=130000 * MIB, processes=held))
    assert (found["gpu-memory"].verdict, found["gpu-memory"].code) == ("fail", 7)
    assert found["gpu-processes"].evidence == ("python (pid 4242, 130000 MB)",)


@pytest.mark.parametrize(("cuda", "verdict"), [("12.4", "fail"), ("12.8", "ok"), (None, "unknown")])
def test_driver(tmp_path, cuda, verdict):
    found = checks(tmp_path, dataclasses.replace(gpus(), cuda_version=cuda))
    assert found["gpu-driver"].verdict == verdict


def test_unknown_capability_stays_unknown(tmp_path):
    assert checks(tmp_path, gpus(capability=None))["gpu-chip"].verdict == "unknown"


def test_the_command_on_a_stub_library(tmp_path):
    """The whole way through the real binding, in a process that loads the stub as NVML."""
    library = build_stub(tmp_path)
    env = stub_env(library, ";".join([f"{H200}:used=600"] * 4), HOME=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "ascend_v4", "doctor", "--json", "--profile", "cuda"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = json.loads(done.stdout)
    verdicts = {check["id"]: check["verdict"] for check in said["checks"]}
    assert (said["profile"], said["chip"]) == ("cuda", "h200")
    assert verdicts["gpu-devices"] == verdicts["gpu-chip"] == verdicts["gpu-memory"] == "ok"
    assert verdicts["gpu-count"] == "ok"
    assert done.returncode == said["exit_code"]
