"""From a plan's devices to the host's: one mapping for claims, memory and containers."""

import json
import subprocess
import sys

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host
from ascend_v4.render.docker import docker_argv
from ascend_v4.run.devices import devices_of
from ascend_v4.run.launch import Launch, Prepared
from ascend_v4.run.prelaunch import resources
from ascend_v4.run.spec import Options
from tests.support.fakehost import FakeHost
from tests.support.nvml_stub import build_stub, stub_env

CLAIMS = (
    "import json; from ascend_v4.host.system import Host;"
    "from tests.run.test_devices import claims, plan_of;"
    "print(json.dumps(claims(plan_of('h200', 2), Host())))"
)


def plan_of(chip, devices, env=None):
    request = LaunchRequest(chip=chip, devices=devices, env=env or {}, model_dir="/w")
    return compile_plan(request, catalog()).plan


def claims(plan, host):
    """Return the devices of the claims."""
    names = resources(plan, plan.processes, host)
    return [name for name in names if not name.startswith("port-")]


@pytest.mark.parametrize(
    ("chip", "shown", "expected"),
    [
        ("a3", None, ["npu-0", "npu-1"]),
        ("a3", "", ["npu-0", "npu-1"]),
        ("a3", "9, 8,1", ["npu-9", "npu-8"]),
        ("h200", "6,7", ["gpu-6", "gpu-7"]),
        ("h200", "7,6,-1", ["gpu-7", "gpu-6"]),
        ("h200", "MIG-1/a/2,MIG-3", ["gpu-MIG-1_a_2", "gpu-MIG-3"]),
    ],
)
def test_claims_follow_what_is_visible(chip, shown, expected):
    plan = plan_of(chip, 2)
    name = "ASCEND_RT_VISIBLE_DEVICES" if chip == "a3" else "CUDA_VISIBLE_DEVICES"
    host = Host(env={} if shown is None else {name: shown})
    assert claims(plan, host) == expected


@pytest.mark.parametrize(
    ("chip", "shown", "count"),
    [
        ("a3", "2", 1),
        ("a3", "0,x", 1),
        ("h200", "2", 1),
        ("h200", "", 0),
        ("h200", "-1", 0),
        ("h200", "3,3", 1),
    ],
)
def test_fewer_visible_than_wanted_is_refused(chip, shown, count):
    plan = plan_of(chip, 2)
    name = "ASCEND_RT_VISIBLE_DEVICES" if chip == "a3" else "CUDA_VISIBLE_DEVICES"
    with pytest.raises(AscendV4Error) as found:
        claims(plan, Host(env={name: shown}))
    assert found.value.code == ExitCode.HOST_NOT_READY
    assert found.value.message == f"server wants 2 devices, and {name}={shown} leaves {count}"
    less = f"--devices {count}, or " if count else ""
    assert found.value.next == f"{less}unset {name}, or name 2 there"


def test_plans_own_variable_goes_before_an_inherited_one():
    plan = plan_of("a3", 2, {"ASCEND_RT_VISIBLE_DEVICES": "1,2,3"})
    assert claims(plan, Host(env={"ASCEND_RT_VISIBLE_DEVICES": "8,9"})) == ["npu-1", "npu-2"]
    with pytest.raises(AscendV4Error, match=r"wants 4 devices.*=1,2,3 leaves 3"):
        claims(plan_of("a3", 4, plan.processes[0].env), Host(env={}))


def test_gpus_by_uuid_and_by_number_are_the_same_claims(tmp_path):
    """NVML's stub names GPU n GPU-0000000n-…; only a new process loads it."""
    library = build_stub(tmp_path)
    gpus = ",".join(["NVIDIA H200:143771:9.0:mig=0"] * 4)
    names = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", CLAIMS],
                env=stub_env(library, gpus, CUDA_VISIBLE_DEVICES=shown),
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for shown in (f"GPU-{3:08x},GPU-{1:08x}", "3,1")
    ]
    assert names == [["gpu-3", "gpu-1"]] * 2


def test_gpus_by_uuid_where_nothing_tells_their_numbers(tmp_path):
    host = FakeHost(tmp_path, {"CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a"}).host()
    plan = plan_of("h200", 2)
    assert claims(plan, host) == ["gpu-GPU-b", "gpu-GPU-a"]
    words = docker_argv(plan, plan.processes[0], devices=devices_of(plan, plan.processes[0], host))
    assert words[words.index("--gpus") + 1] == '"device=GPU-b,GPU-a"'


def test_memory_is_that_of_the_visible_devices(tmp_path):
    fake = FakeHost(tmp_path, {"ASCEND_RT_VISIBLE_DEVICES": "12,13"}).npus("a3-idle", 16)
    prepared = Prepared(plan_of("a3", 2), fake.host(), Launch(Options()), None, None, None, [], [])
    assert sorted(prepared.memory()()) == [12, 13]


def test_container_counts_its_devices_anew():
    plan = plan_of("a3", 2, {"ASCEND_RT_VISIBLE_DEVICES": "12,9,0"})
    words = docker_argv(
        plan, plan.processes[0], devices=devices_of(plan, plan.processes[0], Host(env={}))
    )
    assert "ASCEND_RT_VISIBLE_DEVICES=1,0" in words
    devices = [words[n + 1] for n, word in enumerate(words) if word == "--device"]
    assert devices[:2] == ["/dev/davinci12", "/dev/davinci9"]
