"""GPU detection: against a compiled stub library, and against a fake ``pynvml``."""

import json
import subprocess
import sys
import types

import pytest

from ascend_v4.host.evidence import Problem
from ascend_v4.host.nvml import Gpu, GpuHost, GpuProcess, GpuRule, chip_id, detect_gpus
from ascend_v4.host.system import Host
from tests.support.fakehost import FakeHost
from tests.support.nvml_stub import build_stub, stub_env

MIB = 1 << 20
DETECT = (
    "import dataclasses, json; from ascend_v4.host.nvml import detect_gpus;"
    "from ascend_v4.host.system import Host; found = detect_gpus(Host());"
    "print(json.dumps(found and {**dataclasses.asdict(found), 'chip': found.chip}))"
)
H200 = "NVIDIA H200:143771:9.0:mig=0"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build_stub(tmp_path_factory.mktemp("nvml"))


def detect(library, gpus, **more):
    """Detect in a new process, which loads the stub as the driver's library."""
    done = subprocess.run(
        [sys.executable, "-c", DETECT],
        env=stub_env(library, gpus, **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_stub_one_gpu_with_all_its_facts(library):
    found = detect(library, f"{H200}:used=600:proc=4242/512:proc=0/8")
    assert found == {
        "gpus": [
            {
                "index": 0,
                "name": "NVIDIA H200",
                "uuid": "GPU-00000000-0000-0000-0000-000000000000",
                "bus_id": "00000000:10:00.0",
                "memory_total_bytes": 143771 * MIB,
                "memory_used_bytes": 600 * MIB,
                "capability": [9, 0],
                "mig": False,
                "chip": "h200",
                "processes": [
                    {"pid": 4242, "name": "process-4242", "memory_bytes": 512 * MIB},
                    {"pid": 0, "name": None, "memory_bytes": 8 * MIB},
                ],
            }
        ],
        "visible": None,
        "driver_version": "570.86.15",
        "cuda_version": "12.8",
        "evidence": [
            "NVML: 1 GPUs, driver 570.86.15, CUDA 12.8",
            "nvmlSystemGetProcessName: Not Found",
        ],
        "problems": [],
        "chip": "h200",
    }


def test_stub_eight_gpus_and_the_four_visible(library):
    found = detect(library, ",".join([H200] * 8), CUDA_VISIBLE_DEVICES="4,5,6,7")
    assert [gpu["index"] for gpu in found["gpus"]] == list(range(8))
    assert found["visible"] == [4, 5, 6, 7]
    assert found["chip"] == "h200"
    assert found["evidence"][-1] == "CUDA_VISIBLE_DEVICES=4,5,6,7: 4 of 8 GPUs visible"


def test_stub_mig_and_a_lost_gpu(library):
    found = detect(library, f"NVIDIA A100-SXM4-80GB:81920:8.0:mig=1,{H200}:lost=1")
    assert [gpu["chip"] for gpu in found["gpus"]] == ["a100"]
    assert [(p["kind"], p["message"]) for p in found["problems"]] == [
        ("mig-on", "MIG mode is on for GPU 0: its memory is cut into instances"),
        ("gpu-lost", "GPU 1 does not answer: nvmlDeviceGetHandleByIndex: GPU is lost"),
    ]


@pytest.mark.parametrize("code", ["9", "18", "999"])
def test_stub_init_that_fails_is_a_problem_only_where_device_nodes_are(library, code):
    nodes = Host().exists("/dev/nvidiactl") or bool(Host().glob("/dev", "nvidia[0-9]*"))
    expected = _with_nodes(code) if nodes else None
    assert detect(library, H200, STUB_NVML_INIT=code) == expected


def _with_nodes(code):
    """The answer on a test machine that has /dev/nvidia* of its own."""
    said = {
        "9": "Driver Not Loaded",
        "18": "RM has detected an NVML/RM version mismatch.",
        "999": "Unknown Error",
    }[code]
    fix = "check the driver with nvidia-smi"
    if code == "18":
        fix = "reboot: the loaded kernel module and the driver's library differ in version"
    message = f"nvmlInit: {said}"
    return {
        "gpus": [],
        "visible": None,
        "driver_version": None,
        "cuda_version": None,
        "evidence": ["/dev/nvidia* exists", message],
        "problems": [{"kind": "nvml-unavailable", "message": message, "fix": fix}],
        "chip": None,
    }


class NvmlError(Exception):
    def __init__(self, value):
        super().__init__(value)
        self.value = value

    def __str__(self):
        return {3: "Not Supported", 12: "NVML Shared Library Not Found"}.get(self.value, "Broken")


def fake_pynvml(gpus, init=0, broken=()):
    """A pure-Python pynvml; ``gpus`` are (name, MiB, capability), ``broken`` call names."""
    module = types.ModuleType("pynvml")
    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(gpus),
        "nvmlSystemGetDriverVersion": lambda: b"580.1",
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 13010,
        "nvmlSystemGetProcessName": lambda pid: f"process-{pid}",
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda at: gpus[at][0],
        "nvmlDeviceGetUUID": lambda at: f"GPU-{at}{at}{at}",
        "nvmlDeviceGetMemoryInfo": lambda at: types.SimpleNamespace(
            total=gpus[at][1] * MIB, used=MIB
        ),
        "nvmlDeviceGetCudaComputeCapability": lambda at: gpus[at][2],
        "nvmlDeviceGetPciInfo": lambda at: types.SimpleNamespace(busId=b"00000000:01:00.0"),
        "nvmlDeviceGetComputeRunningProcesses": lambda at: [
            types.SimpleNamespace(pid=7, usedGpuMemory=None)
        ],
    }

    def fail(code):
        def call(*_):
            raise NvmlError(code)

        return call

    answers["nvmlDeviceGetMigMode"] = fail(3)
    answers.update({name: fail(999) for name in broken})
    if init:
        answers["nvmlInit"] = fail(init)
    for name, answer in answers.items():
        setattr(module, name, answer)
    module.NVMLError = NvmlError
    module.NVML_ERROR_NOT_SUPPORTED = 3
    return module


@pytest.fixture
def gpu_tree(tmp_path):
    return FakeHost(tmp_path).file("/dev/nvidiactl").file("/dev/nvidia0")


def test_fake_gpu_with_refused_facts(monkeypatch, gpu_tree):
    gpus = [("NVIDIA GB200", 189471, (10, 0))]
    broken = ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetPciInfo")
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml(gpus, broken=broken))
    assert detect_gpus(gpu_tree.host()) == GpuHost(
        gpus=(
            Gpu(
                index=0,
                name="NVIDIA GB200",
                uuid="GPU-000",
                bus_id=None,
                memory_total_bytes=None,
                memory_used_bytes=None,
                capability=(10, 0),
                mig=None,
                chip="gb200",
                processes=(GpuProcess(7, "process-7", None),),
            ),
        ),
        visible=None,
        driver_version="580.1",
        cuda_version="13.1",
        evidence=(
            "NVML: 1 GPUs, driver 580.1, CUDA 13.1",
            "nvmlDeviceGetMemoryInfo: Broken",
            "nvmlDeviceGetPciInfo: Broken",
        ),
        problems=(),
    )


@pytest.mark.parametrize(
    "broken",
    [
        "nvmlDeviceGetCount",
        "nvmlSystemGetDriverVersion",
        "nvmlSystemGetCudaDriverVersion_v2",
        "nvmlDeviceGetHandleByIndex",
        "nvmlDeviceGetName",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetCudaComputeCapability",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlSystemGetProcessName",
        "nvmlShutdown",
    ],
)
def test_no_nvml_error_becomes_a_traceback(monkeypatch, gpu_tree, broken):
    module = fake_pynvml([("NVIDIA H100 80GB HBM3", 81559, (9, 0))], broken=(broken,))
    monkeypatch.setitem(sys.modules, "pynvml", module)
    found = detect_gpus(gpu_tree.host())
    assert found is not None
    lost = broken in ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex")
    assert len(found.gpus) == (0 if lost else 1)
    assert (f"{broken}: Broken" in found.evidence) == (broken != "nvmlShutdown")
    assert ("no-gpu" in [problem.kind for problem in found.problems]) == lost


def test_a_binding_without_a_function_is_evidence(monkeypatch, gpu_tree):
    module = fake_pynvml([("NVIDIA H100 NVL", 95830, (9, 0))])
    del module.nvmlDeviceGetMigMode
    monkeypatch.setitem(sys.modules, "pynvml", module)
    found = detect_gpus(gpu_tree.host())
    assert found is not None
    assert found.chip == "h100"
    assert found.evidence[1].startswith("nvmlDeviceGetMigMode: AttributeError")


def test_device_nodes_without_the_library_are_a_problem(monkeypatch, gpu_tree):
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml([], init=12))
    found = detect_gpus(gpu_tree.host())
    problem = Problem(
        "nvml-unavailable",
        "nvmlInit: NVML Shared Library Not Found",
        "start the container with the NVIDIA runtime and "
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    )
    evidence = ("/dev/nvidia* exists", problem.message)
    assert found == GpuHost((), None, None, None, evidence, (problem,))


def test_a_missing_binding_is_a_problem_only_on_a_gpu_host(monkeypatch, gpu_tree):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = detect_gpus(gpu_tree.host())
    assert found is not None
    assert [problem.kind for problem in found.problems] == ["nvml-binding-missing"]


def test_a_fake_tree_without_nodes_never_shows_the_real_machines_gpus(monkeypatch, tmp_path):
    module = fake_pynvml([("NVIDIA H200", 143771, (9, 0))])
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert detect_gpus(FakeHost(tmp_path).host()) is None
    assert detect_gpus(Host(env={})) is not None


@pytest.mark.parametrize(
    ("value", "visible", "problems"),
    [
        ("0,1", (0, 1), []),
        ("2,0", (2, 0), []),
        ("GPU-1", (1,), []),
        ("1,9,0", (1,), []),
        ("0,0", (0,), []),
        ("", (), ["gpus-hidden"]),
        ("-1", (), ["gpus-hidden"]),
        ("GPU-", (), ["gpus-hidden"]),
        ("MIG-123", None, ["mig-visible"]),
    ],
)
def test_visible_gpus(monkeypatch, tmp_path, value, visible, problems):
    gpus = [("NVIDIA H200", 143771, (9, 0))] * 2 + [("NVIDIA L40S", 46068, (8, 9))]
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml(gpus))
    fake = FakeHost(tmp_path, {"CUDA_VISIBLE_DEVICES": value}).file("/dev/nvidiactl")
    found = detect_gpus(fake.host())
    assert found is not None
    assert (len(found.gpus), found.visible) == (3, visible)
    assert [problem.kind for problem in found.problems] == problems
    shown = [0, 1, 2] if visible is None else list(visible)
    assert [gpu.index for gpu in found.visible_gpus] == shown
    chips = {("h200", "h200", "sm89")[index] for index in shown}
    assert found.chip == (chips.pop() if len(chips) == 1 else None)


@pytest.mark.parametrize(
    ("name", "capability", "chip"),
    [
        ("NVIDIA H100 80GB HBM3", (9, 0), "h100"),
        ("NVIDIA H100 PCIe", (9, 0), "h100"),
        ("NVIDIA H200 NVL", (9, 0), "h200"),
        ("NVIDIA GH200 480GB", (9, 0), "sm90"),
        ("NVIDIA H20", (9, 0), "sm90"),
        ("NVIDIA B200", (10, 0), "b200"),
        ("NVIDIA GB200", (10, 0), "gb200"),
        ("NVIDIA B300 SXM6 AC", (10, 3), "b300"),
        ("NVIDIA GB300", (10, 3), "gb300"),
        ("NVIDIA GB10", (12, 1), "sm121"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", (12, 0), "rtx-pro-6000"),
        ("NVIDIA RTX 6000 Ada Generation", (8, 9), "sm89"),
        ("NVIDIA A100-SXM4-80GB", (8, 0), "a100"),
        ("NVIDIA A10", (8, 6), "sm86"),
        (None, (9, 0), "sm90"),
        ("NVIDIA Something", None, None),
    ],
)
def test_chip_ids(name, capability, chip):
    assert chip_id(name, capability) == chip


def test_the_first_rule_of_a_table_wins():
    rules = (GpuRule("h20", "h20"), GpuRule("H20", "other"))
    assert chip_id("NVIDIA H20", (9, 0), rules) == "h20"
