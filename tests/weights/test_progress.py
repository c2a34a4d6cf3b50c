"""What is shown while a download runs."""

from __future__ import annotations

import io
import json

from ascend_v4.weights.progress import Bar, JsonLines, Lines, Quiet, Rate, reporter

GIB = 1 << 30


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_every_few_seconds_with_rate_and_time_left() -> None:
    out, clock = io.StringIO(), Clock()
    lines = Lines(out, 5.0, clock)
    lines.start("download", 100 * GIB, 85, 40 * GIB)
    for second in range(1, 11):
        clock.now = second
        lines.progress((40 + second) * GIB, 3)
    lines.stop()
    assert out.getvalue().splitlines() == [
        "downloading: 85 files, 100.0 GiB",
        "downloading: 45% 45.0 GiB of 100.0 GiB, 1.0 GiB/s, 55 s left",
        "downloading: 50% 50.0 GiB of 100.0 GiB, 1.0 GiB/s, 50 s left",
        "downloading: 50% 50.0 GiB of 100.0 GiB, 1.0 GiB/s, 50 s left",
    ]


def test_time_left_is_written_for_people() -> None:
    out, clock = io.StringIO(), Clock()
    lines = Lines(out, 5.0, clock)
    lines.start("check", 10000, 1)
    for now, done in ((5.0, 5), (10.0, 1000), (15.0, 1000), (40.0, 1000)):
        clock.now = now
        lines.progress(done, 0)
    assert out.getvalue().splitlines() == [
        "checking files on disk: 1 file, 9.8 KiB",
        "checking files on disk: 0% 5 B of 9.8 KiB, 1 B/s, 2 h 46 min left",
        "checking files on disk: 10% 1000 B of 9.8 KiB, 100 B/s, 1 min 30 s left",
        "checking files on disk: 10% 1000 B of 9.8 KiB, 67 B/s, 2 min 15 s left",
        "checking files on disk: 10% 1000 B of 9.8 KiB, 0 B/s, time left unknown",
    ]


def test_json_lines_are_one_object_a_line() -> None:
    out, clock = io.StringIO(), Clock()
    events = JsonLines(out, 1.0, clock)
    events.status("listing")
    events.start("download", 1000, 2)
    clock.now = 1.0
    events.progress(250, 1)
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"event": "status", "text": "listing"},
        {"event": "start", "phase": "download", "bytes": 1000, "files": 2},
        {
            "event": "progress",
            "phase": "download",
            "done": 250,
            "bytes": 1000,
            "files_done": 1,
            "bytes_per_s": 250,
            "left_s": 3,
        },
    ]


def test_the_bar_shows_bytes_rate_and_files() -> None:
    out = Terminal()
    bar = Bar(out)
    bar.start("download", 1000, 2)
    bar.progress(250, 1)
    bar.stop()
    shown = out.getvalue()
    assert "downloading" in shown
    assert "250/1,000 bytes" in shown
    assert "1/2 files" in shown


def test_an_unknown_rate_gives_no_time() -> None:
    rate = Rate(100, Clock())
    assert (rate.per_s, rate.left_s) == (0.0, None)
    rate.add(5)
    assert (rate.per_s, rate.left_s) == (0.0, None)


def test_the_form_follows_where_it_is_shown() -> None:
    plain, terminal = io.StringIO(), Terminal()
    kinds = [type(reporter(plain, False, False)), type(reporter(terminal, False, False))]
    kinds += [type(reporter(terminal, False, True)), type(reporter(terminal, True, True))]
    assert kinds == [Lines, Bar, JsonLines, Quiet]
