"""Detection of NPUs on fake hosts: npu-smi, device nodes, PCI ids, SOC_VERSION."""

import time
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_v4.host.npu import NpuHost, detect_npus
from ascend_v4.host.system import Completed, Host
from tests.support.fakehost import FakeHost, npu_smi_text


def kinds(found: NpuHost) -> list[str]:
    return [problem.kind for problem in found.problems]


def test_a_bare_host_has_none(tmp_path):
    assert detect_npus(FakeHost(tmp_path).host()) is None


def test_only_huawei_network_cards_are_no_npus(tmp_path):
    assert detect_npus(FakeHost(tmp_path).pci("0x1822", 2).host()) is None
    assert detect_npus(FakeHost(tmp_path).pci("0xd802", 1, vendor="0x8086").host()) is None


@pytest.mark.parametrize(
    ("layout", "nodes", "family", "chip", "hbm"),
    [
        ("a2-idle", 8, "a2", "a2:910b2c", 65536),
        ("a2-busy", 8, "a2", "a2:910b3", 65536),
        ("a2-910b4", 8, "a2", "a2:910b4", 32768),
        ("a3-idle", 16, "a3", "a3", 65536),
        ("a3-wide-busy", 16, "a3", "a3", 65536),
        ("950pr-idle", 8, "a5", "a5:950pr", 131072),
        ("950dt-wide-busy", 8, "a5", "a5:950dt", 86016),
    ],
)
def test_healthy_hosts(tmp_path, layout, nodes, family, chip, hbm):
    found = detect_npus(FakeHost(tmp_path).npus(layout, nodes).host())
    assert found is not None
    assert (found.family, found.chip, found.hbm_mb) == (family, chip, hbm)
    assert (found.count, found.usable_count, found.visible) == (nodes, nodes, None)
    assert (found.supported, found.reason, found.confidence) == (True, "", "stated")
    assert found.problems == ()
    assert found.driver_version == "25.3.rc1"
    assert found.evidence[0] == f"/dev/davinciN: {','.join(map(str, range(nodes)))}"


def test_processes_come_with_the_host(tmp_path):
    found = detect_npus(FakeHost(tmp_path).npus("a3-busy", 16).host())
    assert found is not None
    assert {process.name for process in found.processes} == {"VLLMWorker_DP"}
    assert len(found.processes) == 16


@pytest.mark.parametrize(
    ("layout", "nodes", "family", "words"),
    [
        ("310p-idle", 2, "310p", "Ascend 310P: vllm-ascend has no DeepSeek-V4 for it"),
        (
            "910-first-generation",
            8,
            "910",
            "first-generation Ascend 910 (32 GB, no digit after 910B): "
            "vllm-ascend has no DeepSeek-V4 for it",
        ),
    ],
)
def test_unsupported_chips(tmp_path, layout, nodes, family, words):
    found = detect_npus(FakeHost(tmp_path).npus(layout, nodes).host())
    assert found is not None
    assert (found.family, found.chip, found.supported) == (family, None, False)
    assert found.reason == words
    assert kinds(found) == ["unsupported"]


def test_unhealthy_cards_are_named_with_their_health(tmp_path):
    found = detect_npus(FakeHost(tmp_path).npus("a2-unhealthy", 3).host())
    assert found is not None
    assert [(p.kind, p.message, p.fix) for p in found.problems] == [
        ("unhealthy", "card 1 chip 0 reports health Alarm", "npu-smi info -t health -i 1"),
        ("unhealthy", "card 2 chip 0 reports health Warning", "npu-smi info -t health -i 2"),
    ]


def test_a_card_without_chip_column_is_named_alone(tmp_path):
    found = detect_npus(FakeHost(tmp_path).npus("950pr-unhealthy", 2).host())
    assert found is not None
    assert [p.message for p in found.problems] == ["card 0 reports health Alarm"]


def test_a_driver_warning_is_a_problem(tmp_path):
    found = detect_npus(FakeHost(tmp_path).npus("a2-warning", 1).host())
    assert found is not None
    assert kinds(found) == ["driver-warning"]
    assert found.problems[0].message.startswith("[WARNING]The driver package may not be")


def test_mixed_kinds_are_unknown(tmp_path):
    found = detect_npus(FakeHost(tmp_path).npus("mixed-kinds", 2).host())
    assert found is not None
    assert (found.family, found.chip, found.confidence) == (None, None, "unknown")
    assert found.reason.startswith("chips of different kinds on one host")
    assert kinds(found) == ["unknown-chip"]


def test_device_held_by_another_container(tmp_path):
    fake = FakeHost(tmp_path).npus("refused-8020", 8, code=1)
    found = detect_npus(fake.host())
    assert found is not None
    assert (found.family, found.count, found.confidence) == (None, 8, "unknown")
    assert kinds(found) == ["device-used", "unknown-chip"]
    assert found.problems[0].message == (
        "npu-smi info listed no device (exit 1): "
        "dcmi model initialized failed, because the device is used. ret is -8020"
    )


def test_a_refusal_on_stderr_with_pci_ids_still_tells_the_chip(tmp_path):
    fake = FakeHost(tmp_path).davinci(*range(16)).pci("0xd803", 16)
    fake.npu_smi({"info": ""}, code=255, stderr=npu_smi_text("driver-8005"))
    found = detect_npus(fake.host())
    assert found is not None
    assert (found.family, found.chip, found.count, found.confidence) == ("a3", "a3", 16, "inferred")
    assert kinds(found) == ["tool-failed"]
    assert "npu-smi said: dcmi module initialize failed. ret is -8005" in found.evidence


def test_npu_smi_that_hangs_is_given_up(tmp_path):
    fake = FakeHost(tmp_path).npus("a2-idle", 8, delay_s=2)
    start = time.monotonic()
    found = detect_npus(fake.host(), timeout_s=0.2)
    assert time.monotonic() - start < 1.5
    assert found is not None
    assert (found.chip, found.count) == (None, 8)
    assert kinds(found) == ["tool-hangs", "unknown-chip"]
    assert found.problems[0].message == (
        "npu-smi info listed no device (not run to its end): no answer within 0.2 s"
    )


def test_no_npu_smi_pci_ids_tell(tmp_path):
    found = detect_npus(FakeHost(tmp_path).davinci(*range(8)).pci("0xd802", 8).host())
    assert found is not None
    assert (found.chip, found.count, found.confidence) == ("a2", 8, "inferred")
    assert found.evidence == (
        "/dev/davinciN: 0,1,2,3,4,5,6,7",
        "PCI ids of 8 a2 processors",
        "npu-smi: not found",
        "PCI: 8 processors, a2",
    )
    assert kinds(found) == ["tool-missing"]


def test_no_npu_smi_no_pci_the_image_tells(tmp_path):
    fake = FakeHost(tmp_path, {"SOC_VERSION": "ascend910_9391"}).davinci(0, 1)
    found = detect_npus(fake.host())
    assert found is not None
    assert (found.chip, found.count, found.confidence) == ("a3", 2, "inferred")


def test_nodes_alone_tell_nothing_but_their_number(tmp_path):
    found = detect_npus(FakeHost(tmp_path).davinci(0, 1, 2, 3).host())
    assert found is not None
    assert (found.family, found.count, found.confidence) == (None, 4, "unknown")
    assert found.reason == "neither npu-smi, PCI ids nor SOC_VERSION tell the chip"
    assert kinds(found) == ["tool-missing", "unknown-chip"]


def test_manager_nodes_are_not_counted(tmp_path):
    fake = FakeHost(tmp_path).davinci().file("/dev/davinci0_extra").pci("0xd802", 8)
    found = detect_npus(fake.host())
    assert found is not None
    assert (found.chip, found.count) == ("a2", 0)
    assert kinds(found) == ["no-device-nodes"]


def test_no_card_and_no_node_is_no_npu_host(tmp_path):
    fake = FakeHost(tmp_path).npu_smi({"info": npu_smi_text("no-card")}, code=1)
    assert detect_npus(fake.host()) is None


def test_a_container_with_half_of_the_devices(tmp_path):
    found = detect_npus(FakeHost(tmp_path).npus("a3-idle", 8).host())
    assert found is not None
    assert (found.chip, found.count) == ("a3", 8)
    assert [p.message for p in found.problems] == ["npu-smi lists 16 devices, /dev has 8 davinciN"]


@pytest.mark.parametrize(
    ("value", "visible", "usable", "problems"),
    [
        ("0,1, 2", (0, 1, 2), 3, []),
        ("", None, 8, []),
        ("3,3", (3,), 1, []),
        ("7,8", (7,), 1, ["visible-beyond"]),
        ("0-3", None, 8, ["visible-malformed"]),
        ("all", None, 8, ["visible-malformed"]),
    ],
)
def test_visible_devices(tmp_path, value, visible, usable, problems):
    fake = FakeHost(tmp_path, {"ASCEND_RT_VISIBLE_DEVICES": value}).npus("a2-idle", 8)
    found = detect_npus(fake.host())
    assert found is not None
    assert (found.visible, found.usable_count, kinds(found)) == (visible, usable, problems)


def test_npu_smi_outside_path_is_found_in_sbin(tmp_path):
    fake = FakeHost(tmp_path).npus("a2-idle", 8)
    sbin = tmp_path / "usr/local/sbin"
    sbin.mkdir(parents=True)
    (fake.bin / "npu-smi").rename(sbin / "npu-smi")
    found = detect_npus(fake.host())
    assert found is not None
    assert found.chip == "a2:910b2c"


@pytest.mark.parametrize(
    ("install", "version_file", "expected"),
    [
        ("Driver_Install_Path_Param=/opt/npu\n", "Version=7.35\npackage_version=25.3\n", "25.3"),
        ("Driver_Install_Path_Param=/opt/npu\n", "Version=7.35\n", "7.35"),
        ("Driver_Install_Path_Param=/opt/npu\n", "no such line", None),
        ("Driver_Install_Path_Param=/elsewhere\n", "Version=25.3\n", None),
    ],
)
def test_driver_version(tmp_path, install, version_file, expected):
    fake = FakeHost(tmp_path).npus("a2-idle", 8).file("/etc/ascend_install.info", install)
    found = detect_npus(fake.file("/opt/npu/driver/version.info", version_file).host())
    assert found is not None
    assert found.driver_version == expected


@dataclass(frozen=True)
class Says(Host):
    """A host whose npu-smi says anything."""

    said: str = ""

    def which(self, program):
        return f"/usr/bin/{program}"

    def run(self, argv, timeout_s=30.0):
        return Completed(tuple(argv), 0, self.said, "")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return FakeHost(tmp_path_factory.mktemp("tree")).davinci(0, 1)


@settings(max_examples=150, deadline=None)
@given(said=st.text(), soc=st.text(max_size=12), visible=st.text(max_size=8))
def test_whatever_npu_smi_says_it_is_described(tree, said, soc, visible):
    env = {"SOC_VERSION": soc, "ASCEND_RT_VISIBLE_DEVICES": visible}
    found = detect_npus(Says(root=tree.root, env=env, said=said))
    assert found is not None
    assert found.count <= 2
    assert all(problem.message and problem.fix for problem in found.problems)
