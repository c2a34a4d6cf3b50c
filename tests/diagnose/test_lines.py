"""Stripping and timing of single lines."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ascend_v4.diagnose.lines import clean, parse_line

YEAR = 2026


def at(*clock):
    return (datetime(2026, 7, 21, *clock) - datetime(1970, 1, 1)).total_seconds()


TEN = at(10, 0, 5)


@pytest.mark.parametrize(
    ("raw", "text", "own", "outer", "rank"),
    [
        ("ERROR 07-21 10:00:05 [core.py:1] x", "ERROR 07-21 10:00:05 [core.py:1] x", TEN, None, ""),
        (
            "(Worker_TP3 pid=99) ERROR 07-21 10:00:05 [core.py:1] x",
            "ERROR 07-21 10:00:05 [core.py:1] x",
            TEN,
            None,
            "Worker_TP3 pid=99",
        ),
        (
            "2026-07-21T08:00:05.5Z stderr F (EngineCore_DP0 pid=9) INFO 07-21 10:00:05 y",
            "INFO 07-21 10:00:05 y",
            TEN,
            at(8, 0, 5) + 0.5,
            "EngineCore_DP0 pid=9",
        ),
        ("2026-07-21T10:00:05+02:00 stdout F z", "z", None, TEN, ""),
        ("[pod/flash-0/server] z", "z", None, None, ""),
        ("server-1  | z", "z", None, None, ""),
        ("Jul 21 10:00:05 node1 vllm[311]: z", "z", None, TEN, ""),
        ("[Tue Jul 21 10:00:05 2026] oom", "oom", None, TEN, ""),
        ("[12345.678901] oom", "oom", None, None, ""),
        ("[rank3]: Traceback", "Traceback", None, None, "rank3"),
        (
            "[ERROR] HCCL(12,python):2026-07-21-10:00:05.500.456 [a.cc:1] x",
            "[ERROR] HCCL(12,python):2026-07-21-10:00:05.500.456 [a.cc:1] x",
            TEN + 0.5,
            None,
            "",
        ),
        (
            "[PID: 12] 2026-07-21-10:00:05.500.456 x",
            "[PID: 12] 2026-07-21-10:00:05.500.456 x",
            TEN + 0.5,
            None,
            "",
        ),
        (
            "E0721 10:00:05.500000 99 a.cpp:1] x",
            "E0721 10:00:05.500000 99 a.cpp:1] x",
            TEN + 0.5,
            None,
            "",
        ),
        ("[E721 10:00:05.500 a.cpp:1] x", "[E721 10:00:05.500 a.cpp:1] x", TEN + 0.5, None, ""),
        ("2026-07-21 10:00:05,500 - x", "2026-07-21 10:00:05,500 - x", TEN + 0.5, None, ""),
        (
            '{"log":"ERROR 07-21 10:00:05 x\\n","stream":"stderr","time":"2026-07-21T08:00:05Z"}',
            "ERROR 07-21 10:00:05 x",
            TEN,
            at(8, 0, 5),
            "",
        ),
        ("INFO 13-45 10:00:05 no such day", "INFO 13-45 10:00:05 no such day", None, None, ""),
        ('{"log": broken', '{"log": broken', None, None, ""),
        ("", "", None, None, ""),
    ],
)
def test_every_wrapping(raw, text, own, outer, rank):
    line = parse_line(raw, YEAR)
    assert (line.text, line.own, line.outer, line.rank) == (text, own, outer, rank)


def test_colour_is_removed_also_between_level_and_time():
    raw = b"\x1b[1;31m(Worker_TP0 pid=1)\x1b[0m \x1b[31mERROR\x1b[0m 07-21 10:00:05 x\r\n"
    line = parse_line(raw, YEAR)
    assert (line.text, line.own, line.rank) == ("ERROR 07-21 10:00:05 x", TEN, "Worker_TP0 pid=1")


@given(st.binary(max_size=300))
def test_any_line_is_read(raw):
    parse_line(raw, YEAR)
    assert "\x1b[0m" not in clean(raw + b"\x1b[0m")
