"""The npu-smi parsers: every layout whole, and whatever a mutation makes of it."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_v4.host.npu_chip import classify_devices, name_chip
from ascend_v4.host.npu_smi import (
    NpuDevice,
    NpuInfo,
    NpuMapping,
    NpuProcess,
    parse_info,
    parse_mapping,
)
from tests.support.fakehost import npu_smi_text
from tests.support.npu_smi_layouts import (
    FIXTURES,
    Proc,
    Row,
    device_table,
    fixtures,
    process_table,
)

NOT_COMPLETE = (
    "[WARNING]The driver package may not be completely installed, "
    "which may cause function abnormal. Please reinstall it."
)


def test_the_fixture_files_are_what_the_layouts_write():
    kept = {path.stem: path.read_text() for path in FIXTURES.glob("*.txt")}
    assert kept == fixtures()


def test_a2_with_a_driver_warning_after_the_table():
    device = NpuDevice(0, 0, None, "910B1", "OK", 3406, 65536, "0000:5A:00.0", 0)
    assert parse_info(npu_smi_text("a2-warning")) == NpuInfo(
        layout="a2",
        tool_version="25.0.rc1.1",
        devices=(device,),
        idle_cards=(0,),
        messages=(NOT_COMPLETE,),
    )
    assert parse_info(npu_smi_text("a2-warning")).warnings == (NOT_COMPLETE,)


def test_a2_busy_has_no_blank_before_the_slash():
    info = parse_info(npu_smi_text("a2-busy"))
    assert "60156/ 65536" in npu_smi_text("a2-busy")
    assert [d.hbm_used_mb for d in info.devices] == [60156] * 8
    assert info.processes == tuple(
        NpuProcess(n, 0, 1803913 + n, "VLLMWorker_DP", 56701) for n in range(8)
    )
    assert info.idle_cards == ()


def test_a3_has_two_dies_a_card_and_one_without_power():
    info = parse_info(npu_smi_text("a3-unhealthy"))
    assert info == NpuInfo(
        layout="a3",
        tool_version="25.2.3",
        devices=(
            NpuDevice(0, 0, 0, "Ascend910", "OK", 3117, 65536, "0000:9D:00.0", 0),
            NpuDevice(0, 1, 1, "Ascend910", "OK", 2884, 65536, "0000:9F:00.0", 0),
            NpuDevice(1, 0, 2, "Ascend910", "OK", 3406, 65536, "0000:5A:00.0", 0),
            NpuDevice(1, 1, 3, "Ascend910", "Critical", 3406, 65536, "0000:5A:00.0", 0),
        ),
        idle_cards=(0, 1),
    )


def test_a3_busy_maps_processes_to_dies():
    info = parse_info(npu_smi_text("a3-busy"))
    assert [(p.card, p.chip) for p in info.processes] == [(n // 2, n % 2) for n in range(16)]
    assert [d.logic_id for d in info.devices] == list(range(16))


def test_a3_wide_has_a_fifth_process_column_and_an_empty_name():
    info = parse_info(npu_smi_text("a3-wide-busy"))
    assert info.tool_version == "26.0.rc2"
    assert info.layout == "a3"
    assert len(info.devices) == 16
    assert info.processes == (NpuProcess(0, 0, 1207319, "", 17792, 1207319),)
    assert info.idle_cards == (1, 2, 3, 4, 5, 6, 7)


def test_950_pr_with_an_unhealthy_card():
    assert parse_info(npu_smi_text("950pr-unhealthy")) == NpuInfo(
        layout="950",
        tool_version="25.7.rc1",
        devices=(
            NpuDevice(0, None, None, "Ascend950PR", "Alarm", 90633, 114688, "0000:5A:00.0", 0),
            NpuDevice(2, None, None, "Ascend950PR", "OK", 5413, 131072, "0000:5A:00.0", 0),
        ),
        idle_cards=(0, 2),
    )


def test_950_dt_without_bus_ids_and_with_a_name_over_its_column():
    info = parse_info(npu_smi_text("950dt-wide-busy"))
    assert {device.bus_id for device in info.devices} == {None}
    long = "/usr/local/python3.11/bin/python3.11"
    assert info.processes == (NpuProcess(6, None, 3621066, long, 40000, None),)


def test_310p_has_no_hbm_but_a_device_number():
    assert parse_info(npu_smi_text("310p-idle")).devices == (
        NpuDevice(0, 0, 0, "310P3", "OK", None, None, "0000:5A:00.0", 44278),
        NpuDevice(1, 0, 1, "310P3", "OK", None, None, "0000:5A:00.0", 44278),
    )


@pytest.mark.parametrize(
    ("name", "no_card", "code"),
    [("no-card", True, None), ("refused-8020", False, -8020), ("driver-8005", False, -8005)],
)
def test_refusals(name, no_card, code):
    said = npu_smi_text(name).strip()
    assert parse_info(npu_smi_text(name)) == NpuInfo(
        no_card=no_card, error_code=code, messages=(said,)
    )


def test_a_name_with_the_separator_in_it_stays_whole():
    lines = process_table("26", [Proc(1, 0, 77, "sh -c a|b", 12, "9")], ())
    assert parse_info("\n".join(lines)).processes == (NpuProcess(1, 0, 77, "sh -c a|b", 12, 9),)


def test_a_cut_off_device_keeps_its_head_and_nothing_else():
    whole = device_table("a2", [Row(3, "910B3")], "25.0.rc1.1")
    assert parse_info("\n".join(whole[:-2])).devices == (
        NpuDevice(3, None, None, "910B3", "OK", None, None, None, None),
    )


def test_hbm_of_zero_is_unknown():
    (device,) = parse_info(
        "\n".join(device_table("a2", [Row(0, "910B3", hbm=(0, 0))], "25"))
    ).devices
    assert (device.hbm_used_mb, device.hbm_total_mb) == (None, None)


@pytest.mark.parametrize(
    ("name", "family", "chip"),
    [
        ("a2-idle", "a2", "a2:910b2c"),
        ("a2-busy", "a2", "a2:910b3"),
        ("a2-910b4", "a2", "a2:910b4"),
        ("a2-910b4-1", "a2", "a2:910b4-1"),
        ("mixed-variants", "a2", "a2"),
        ("a3-idle", "a3", "a3"),
        ("a3-wide-idle", "a3", "a3"),
        ("950pr-idle", "a5", "a5:950pr"),
        ("950dt-wide-busy", "a5", "a5:950dt"),
        ("310p-idle", "310p", None),
        ("910-first-generation", "910", None),
        ("mixed-kinds", None, None),
        ("no-card", None, None),
    ],
)
def test_classification_of_every_layout(name, family, chip):
    info = parse_info(npu_smi_text(name))
    named = classify_devices(info.devices, info.layout)
    assert (named.family, named.chip) == (family, chip)


@pytest.mark.parametrize(
    ("pci", "soc", "expected"),
    [
        (["a2"] * 8, "", ("a2", "a2", "inferred")),
        (["910"], "ascend910b1", ("910", None, "inferred")),
        (["a2", "a3"], "ascend910b1", (None, None, "unknown")),
        ([], "ascend910b1", ("a2", "a2", "inferred")),
        ([], "910b", ("a2", "a2", "inferred")),
        ([], "ascend910_9391", ("a3", "a3", "inferred")),
        ([], "ascend950dt_9582", ("a5", "a5:950dt", "inferred")),
        ([], "ascend310p1", ("310p", None, "inferred")),
        ([], "toaster", (None, None, "unknown")),
        ([], "", (None, None, "unknown")),
    ],
)
def test_without_npu_smi_pci_counts_more_than_the_soc(pci, soc, expected):
    named = name_chip((), "unknown", pci, soc)
    assert (named.family, named.chip, named.confidence) == expected


def test_an_unknown_name_gives_way_to_pci_but_a_mixture_does_not():
    def one(name):
        return NpuDevice(0, 0, None, name, "OK", 1, 65536, None, 0)

    assert name_chip([one("Ascend999")], "a2", ["a3"], "").chip == "a3"
    assert name_chip([one("910B3"), one("310P3")], "a2", ["a2"], "").chip is None


def test_mapping_in_the_a2_form():
    text = (
        "\tNPU ID\tChip ID\tChip Logic ID\tChip Name\n"
        "\t0\t0\t0\tAscend 910B3\n\t0\t1\t-\tMcu\n\t8\t0\t1\tAscend 910B3\n"
    )
    assert parse_mapping(text) == (
        NpuMapping(0, 0, 0, None, "Ascend 910B3"),
        NpuMapping(8, 0, 1, None, "Ascend 910B3"),
    )


def test_mapping_in_the_a3_and_950_forms():
    a3 = (
        "NPU ID  Chip ID  Chip Logic ID  Chip Phy-ID  Chip Name\n"
        "0 0 0 0 Ascend910\n0 1 1 1 Ascend910\n0 2 - - Mcu\n"
    )
    a5 = "NPU ID  Slot ID  Chip ID  Chip Phy-ID  Chip Name\n4 1 0 4 Ascend950PR\n"
    assert parse_mapping(a3) == (
        NpuMapping(0, 0, 0, 0, "Ascend910"),
        NpuMapping(0, 1, 1, 1, "Ascend910"),
    )
    assert parse_mapping(a5) == (NpuMapping(4, 0, None, 4, "Ascend950PR"),)


TEXTS = st.sampled_from(sorted(fixtures().values()))
BITS = st.sampled_from(
    ["|", "+", "/", "-", "\n", " ", "NA", "9" * 5000, "٣", "\x1b[31m", "Process id", "Health"]
)


@st.composite
def mutated(draw):
    """A fixture with characters dropped, put in or doubled, lines swapped, or the end cut."""
    text = draw(TEXTS)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(text)))
        to = min(len(text), at + draw(st.integers(0, 120)))
        put = draw(BITS | st.text(max_size=3) | st.just(text[at:to] * 2))
        text = text[:at] + put + text[to:]
    lines = text.splitlines(keepends=True)
    if draw(st.booleans()):
        lines = draw(st.permutations(lines)) if len(lines) < 30 else lines[::-1]
    return "".join(lines)


def check_is_sane(info):
    for device in info.devices:
        assert device.card >= 0 and device.name
        assert (device.hbm_total_mb is None) == (device.hbm_used_mb is None)
        assert device.hbm_total_mb != 0
    for process in info.processes:
        assert process.card >= 0 and process.pid >= 0
    named = classify_devices(info.devices, info.layout)
    assert named.family in (None, "a2", "a3", "a5", "910", "310p", "310")
    assert (named.chip or "").split(":")[0] in ("", named.family)


@settings(max_examples=300, deadline=None)
@given(mutated())
def test_mutated_tables_never_crash(text):
    check_is_sane(parse_info(text))
    parse_mapping(text)


@settings(max_examples=150, deadline=None)
@given(st.text() | st.text(alphabet="| +-/0123456789NPUIDChipName\n"))
def test_garbage_never_crashes(text):
    check_is_sane(parse_info(text))
    parse_mapping("NPU ID  Chip ID  Chip Logic ID  Chip Name\n" + text)


NAMES = st.sampled_from(["910B1", "910B3", "910B4", "Ascend910", "Ascend950PR"])
HBM = st.tuples(st.integers(0, 99999), st.integers(1, 131072))
ROWS = st.lists(
    st.builds(
        Row,
        card=st.integers(0, 31),
        name=NAMES,
        health=st.sampled_from(["OK", "Warning", "Alarm", "Critical", "UNKNOWN"]),
        power=st.sampled_from(["-", "NA", "1234.5"]),
        chip=st.integers(0, 1),
        phy=st.integers(0, 63),
        bus=st.sampled_from(["NA", "0000:5A:00.0", "0001:C1:00.0"]),
        hbm=HBM,
    ),
    max_size=16,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["a2", "a3", "a3-wide", "950", "950-wide"]), ROWS)
def test_every_row_written_is_read_back_at_any_width(layout, rows):
    shown = [dataclasses.replace(r, phy=r.phy if layout.startswith("a3") else None) for r in rows]
    split = layout.startswith("950")
    expected = tuple(
        NpuDevice(
            card=row.card,
            chip=None if split else row.chip,
            logic_id=row.phy,
            name=row.name,
            health=row.health,
            hbm_used_mb=row.hbm[0],
            hbm_total_mb=row.hbm[1],
            bus_id=None if row.bus == "NA" else row.bus,
            memory_total_mb=0,
        )
        for row in shown
    )
    assert parse_info("\n".join(device_table(layout, shown, "1"))).devices == expected


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.lists(st.text(alphabet="abc xyz:[]", min_size=1), max_size=3))
def test_lines_after_the_table_change_no_row(text, extra):
    plain, more = parse_info(text), parse_info(text + "\n".join(extra))
    assert (more.devices, more.processes) == (plain.devices, plain.processes)
