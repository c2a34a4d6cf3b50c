"""NPU hosts in every layout: healthy, sick in one way each, inside containers, damaged."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ascend_v4.errors import ExitCode
from tests.doctor.support import answers, ascend_host, engine, look, not_ok, release
from tests.support.fakehost import FakeHost, npu_smi_text

#: What a healthy host of these fixtures can't tell: no firmware file is in a container.
QUIET = {"firmware-range": "unknown"}


def known_faults():
    return {"engine-known-bad": "warn"} if release().get("known_bad") else {}


@pytest.mark.parametrize(
    ("layout", "count", "per_card", "chip"),
    [("a3-idle", 16, 2, "a3"), ("a3-wide-idle", 16, 2, "a3"), ("a2-idle", 8, 1, "a2:910b2c")],
)
def test_a_healthy_host_is_ready(tmp_path, layout, count, per_card, chip):
    checks, report = look(ascend_host(tmp_path, layout, count, per_card))
    assert not_ok(checks) == {**QUIET, **known_faults()}
    assert report.exit_code == ExitCode.DONE
    assert report.look.compiled.plan.chip == chip
    assert checks["npu-mapping"].outcome.evidence[0] == "davinci0: card 0 chip 0"


def test_every_check_has_its_row_and_json(tmp_path):
    _, report = look(ascend_host(tmp_path), nodes=2)
    said = report.to_json()
    assert (said["schema"], said["profile"], said["chip"]) == (1, "ascend", "a3")
    for check in said["checks"]:
        assert check["verdict"] in ("ok", "warn", "fail", "unknown")
        assert check["source"].startswith(("https://", "vllm "))
        assert check["message"]
        assert "{" not in check["fix"]


@pytest.mark.parametrize(
    ("layout", "count", "per_card", "check", "verdict", "code", "words"),
    [
        (
            "a2-unhealthy",
            3,
            1,
            "npu-health",
            "fail",
            6,
            "2 of 3 devices are not OK: card 1 chip 0: Alarm",
        ),
        (
            "a3-unhealthy",
            4,
            2,
            "npu-health",
            "fail",
            6,
            "1 of 4 devices are not OK: card 1 chip 1: Critical",
        ),
        (
            "950pr-unhealthy",
            2,
            1,
            "npu-health",
            "fail",
            6,
            "1 of 2 devices are not OK: card 0: Alarm",
        ),
        ("310p-idle", 2, 1, "npu-chip", "fail", 3, "Ascend 310P"),
        ("910-first-generation", 8, 1, "npu-chip", "fail", 3, "first-generation Ascend 910"),
        ("a2-busy", 8, 1, "npu-memory", "fail", 7, "8 of 8 devices have less free"),
        ("a3-busy", 16, 2, "npu-memory", "fail", 7, "16 of 16 devices have less free"),
        ("refused-8020", 8, 1, "npu-devices", "fail", 7, "the device is used"),
        ("driver-8005", 8, 1, "npu-devices", "warn", None, "ret is -8005"),
        ("mixed-kinds", 2, 1, "npu-chip", "unknown", None, "chips of different kinds"),
        ("a2-warning", 1, 1, "npu-devices", "warn", None, "may not be completely installed"),
    ],
)
def test_sick_hosts(tmp_path, layout, count, per_card, check, verdict, code, words):
    checks, report = look(ascend_host(tmp_path, layout, count, per_card), allow_unvalidated=True)
    assert (checks[check].verdict, words in checks[check].outcome.message) == (verdict, True)
    if code is not None:
        assert checks[check].outcome.code == code
        assert report.exit_code in (code, 3, 6)
    if verdict == "fail":
        assert checks[check].fix


def test_unsupported_outranks_not_ready_and_that_busy(tmp_path):
    assert look(ascend_host(tmp_path / "a", "910-first-generation", 8, 1))[1].exit_code == 3
    assert look(ascend_host(tmp_path / "b", "a3-busy", 16, 2))[1].exit_code == 7
    fake = ascend_host(tmp_path / "c", "a3-busy", 16, 2)
    (fake.root / "dev/hisi_hdc").unlink()
    assert look(fake)[1].exit_code == 6


def test_a_host_without_any_device(tmp_path):
    checks, report = look(FakeHost(tmp_path))
    assert not_ok(checks) == {"npu-devices": "fail"}
    assert (report.exit_code, report.look.profile) == (6, None)
    assert checks["npu-devices"].fix == "rehearse here: ascend-v4 doctor --profile cpu"


def test_ours_are_named_by_run_and_others_by_user(tmp_path):
    fake = ascend_host(tmp_path, "a3-busy", 16, 2).file(
        "/etc/passwd", "ann:x:1001:1001::/:/bin/sh\n"
    )
    fake.file("/proc/1803913/environ", "A=1\0ASCEND_V4_RUN_ID=20260721-080000-abcd\0B=2\0")
    fake.file("/proc/1803914/status", "Name:\tpython\nUid:\t1001\t1001\t1001\t1001\n")
    outcome = look(fake)[0]["npu-processes"]
    assert outcome.fix == "ascend-v4 stop 20260721-080000-abcd"
    assert outcome.outcome.evidence[:2] == (
        "VLLMWorker_DP (pid 1803913, run 20260721-080000-abcd, 59887 MB)",
        "VLLMWorker_DP (pid 1803914, user ann, 59887 MB)",
    )


def test_a_container_without_its_mounts(tmp_path):
    fake = ascend_host(tmp_path).file("/.dockerenv")
    (fake.root / "etc/ascend_install.info").unlink()
    (fake.root / "dev/devmm_svm").unlink()
    checks, report = look(fake)
    assert (checks["container-files"].verdict, checks["container-nodes"].verdict) == (
        "fail",
        "fail",
    )
    assert checks["container-files"].fix == (
        "start the container with -v /etc/ascend_install.info:/etc/ascend_install.info"
    )
    assert checks["container-nodes"].fix == "start the container with --device=/dev/devmm_svm"
    assert report.exit_code == 6


def test_950_needs_no_devmm_svm(tmp_path):
    fake = ascend_host(tmp_path, "950pr-idle", 8, 1)
    (fake.root / "dev/devmm_svm").unlink()
    assert look(fake, allow_unvalidated=True)[0]["container-nodes"].verdict == "ok"


def test_fewer_devices_than_asked(tmp_path):
    fake = ascend_host(tmp_path, env={"ASCEND_RT_VISIBLE_DEVICES": "0,1,2,3"})
    checks, _ = look(fake, chip="a3", devices=16)
    assert checks["npu-count"].verdict == "fail"
    assert checks["npu-count"].outcome.message == "4 devices, but the plan wants 16 on each node"
    assert look(fake, allow_unvalidated=True)[0]["npu-count"].verdict == "ok"


@pytest.mark.parametrize("value", ["0,x", "99"])
def test_visible_devices_that_are_wrong(tmp_path, value):
    fake = ascend_host(tmp_path, env={"ASCEND_RT_VISIBLE_DEVICES": value})
    assert look(fake, allow_unvalidated=True)[0]["npu-visible"].verdict == "fail"


def test_firmware_that_does_not_go_with_the_driver(tmp_path):
    fake = ascend_host(tmp_path)
    fake.file(
        "/usr/local/Ascend/driver/version.info",
        "Version=25.3\ncompatible_version_fw=[7.0.0,8.9.9]\n",
    )
    fake.file("/usr/local/Ascend/firmware/version.info", "Version=9.0.1\n")
    fake.npu_smi(answers("a3-idle", 16, 2, board="Compatibility : NOK\n"))
    checks, _ = look(fake)
    assert (checks["firmware-range"].verdict, checks["npu-compatibility"].verdict) == (
        "fail",
        "fail",
    )
    assert checks["npu-compatibility"].outcome.message.endswith("card 0 do not go together: NOK")


@pytest.mark.parametrize(("version", "verdict"), [("7.0.0", "fail"), ("99.0.0", "warn")])
def test_another_cann(tmp_path, version, verdict):
    fake = ascend_host(tmp_path)
    place = "/usr/local/Ascend/ascend-toolkit/latest/aarch64-linux/ascend_toolkit_install.info"
    fake.file(place, f"version={version}\n")
    assert look(fake)[0]["cann-version"].verdict == verdict


def test_an_environment_that_was_not_sourced(tmp_path):
    fake = ascend_host(tmp_path, env={"ATB_HOME_PATH": ""})
    checks, _ = look(fake)
    assert checks["cann-environment"].verdict == "fail"
    assert "ATB_HOME_PATH not set" in checks["cann-environment"].outcome.message


def test_a_wheel_for_another_chip(tmp_path):
    fake = ascend_host(tmp_path)
    engine(fake, "A2")
    checks, report = look(fake)
    assert checks["engine-soc"].outcome.message == "built for A2 (soc), but this host has A3"
    assert checks["engine-soc"].fix.startswith("use the image quay.io/ascend/vllm-ascend:")
    assert report.exit_code == 6


@pytest.mark.parametrize(
    ("versions", "check", "verdict"),
    [
        ({"vllm": "0.19.0"}, "engine-versions", "fail"),
        ({"torch_npu": ""}, "engine-versions", "fail"),
        ({"triton": "3.5.0"}, "engine-triton", "fail"),
        ({"vllm_ascend": "0.26.0rc1"}, "engine-versions", None),
    ],
)
def test_versions_that_do_not_go_together(tmp_path, versions, check, verdict):
    fake = ascend_host(tmp_path)
    engine(fake, "A3", **versions)
    found = look(fake)[0][check].verdict
    assert found == verdict if verdict else found in ("warn", "fail")


def test_the_settings_of_the_recipes(tmp_path):
    fake = ascend_host(tmp_path, env={"LD_PRELOAD": "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2"})
    fake.file("/proc/sys/vm/swappiness", "60\n").file("/proc/sys/kernel/numa_balancing", "1\n")
    fake.file("/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n")
    fake.file("/proc/self/limits", "Max open files  1024  1024  files\n")
    checks, report = look(fake)
    warned = {"swappiness", "numa-balancing", "governor", "ulimits", "jemalloc"}
    assert {name for name, verdict in not_ok(checks).items() if verdict == "warn"} >= warned
    assert checks["jemalloc"].fix == "export LD_PRELOAD=/usr/lib64/libjemalloc.so.2"
    assert report.exit_code == 0


def test_a_tool_that_hangs_costs_its_limit_and_no_more(tmp_path):
    fake = ascend_host(tmp_path)
    fake.npu_smi({"info": npu_smi_text("a3-idle"), "info -m": "x"})
    slow = (fake.bin / "npu-smi").read_text().replace(":\n", '[ "$2" != -m ] || sleep 60\n', 1)
    fake.program("npu-smi", slow.replace("sleep 60", "/bin/sleep 60"))
    begun = time.monotonic()
    checks, _ = look(fake, tool_s=0.5)
    assert time.monotonic() - begun < 8
    assert checks["npu-mapping"].verdict == "unknown"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["a2-busy", "a3-unhealthy", "950dt-wide-busy"]), st.data())
def test_damaged_tables_never_crash_and_unknown_stays_unknown(tmp_path_factory, layout, data):
    whole = npu_smi_text(layout)
    start = data.draw(st.integers(0, len(whole)))
    noise = data.draw(st.text(alphabet=st.characters(codec="utf-8"), max_size=30))
    fake = FakeHost(tmp_path_factory.mktemp("host")).npus(layout, 8)
    fake.npu_smi({"info": whole[:start] + noise + whole[start + 40 :]})
    checks, _ = look(fake, tool_s=2.0)
    assert all("itself failed" not in check.outcome.message for check in checks.values())


def test_an_empty_answer_is_unknown_not_ok(tmp_path):
    fake = ascend_host(tmp_path)
    fake.npu_smi({"info": ""})
    checks, _ = look(fake)
    assert checks["npu-health"].verdict == checks["npu-memory"].verdict == "unknown"
    assert checks["npu-processes"].verdict == checks["npu-compatibility"].verdict == "unknown"
