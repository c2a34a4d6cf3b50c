"""hccn_tool's answers, whole and damaged."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ascend_v4.host.hccn import HccnDevice, ask_device, find_tool, parse_answers, parse_ping
from tests.support.fakehost import FakeHost

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "hccn"


def text(name):
    return (FIXTURES / f"{name}.txt").read_text()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a2-up", HccnDevice(0, "UP", "Success", False, "29.1.112.213", None)),
        ("a2-down", HccnDevice(0, "DOWN", "Fault", True, None, None)),
        ("a3-vnic", HccnDevice(0, "DOWN", "Init", False, "192.168.2.196", "UP")),
    ],
)
def test_answers(name, expected):
    assert parse_answers(0, text(name)) == expected


@pytest.mark.parametrize(
    ("said", "through"),
    [
        (text("ping-ok"), True),
        (text("ping-lost"), False),
        ("This pkt ping success", True),
        ("hccn_tool: request timed out", False),
        ("hccn_tool: unknown option", None),
        ("", None),
    ],
)
def test_pings(said, through):
    assert parse_ping(said) is through


def test_no_answer_is_unknown():
    assert parse_answers(4, "") == HccnDevice(4)


@given(st.sampled_from(["a2-up", "a2-down", "a3-vnic", "ping-ok"]), st.data())
def test_cut_and_damaged_text_loses_values_and_never_raises(name, data):
    whole = text(name)
    start = data.draw(st.integers(0, len(whole)))
    cut = whole[:start] + data.draw(st.text(max_size=20)) + whole[start + 5 :]
    found = parse_answers(0, cut)
    assert found.link in (None, "UP", "DOWN")
    parse_ping(cut)


def test_the_tool_is_found_where_drivers_put_it(tmp_path):
    fake = FakeHost(tmp_path)
    assert find_tool(fake.host()) is None
    fake.file("/usr/local/Ascend/driver/tools/hccn_tool", "#!/bin/sh\n")
    assert find_tool(fake.host()) == str(tmp_path / "usr/local/Ascend/driver/tools/hccn_tool")


def test_a_device_is_asked_by_the_words_of_its_family(tmp_path):
    log = tmp_path / "asked"
    fake = FakeHost(tmp_path).program("hccn_tool", f'#!/bin/sh\necho "$*" >> {log}\n')
    ask_device(fake.host(), str(fake.bin / "hccn_tool"), 3, "a3", ping="10.0.0.2")
    ask_device(fake.host(), str(fake.bin / "hccn_tool"), 3, "a2", ping="10.0.0.2")
    assert log.read_text().splitlines() == [
        "-i 3 -link -g",
        "-i 3 -net_health -g",
        "-i 3 -tls -g",
        "-i 3 -vnic -g",
        "-i 3 -hccs_ping -g address 10.0.0.2",
        "-i 3 -link -g",
        "-i 3 -net_health -g",
        "-i 3 -tls -g",
        "-i 3 -ip -g",
        "-i 3 -ping -g address 10.0.0.2",
    ]
