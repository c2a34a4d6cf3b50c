"""Writes ``npu-smi info`` tables in every layout, for fixtures and for property tests.

Column widths follow public samples: https://github.com/vllm-project/vllm-ascend/issues/4621
(A2), /6529 (A3), /12980 (A3 wide), /16581 (26.x processes) and /10001 (950 processes).
``python -m tests.support.npu_smi_layouts`` writes the fixtures anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "npu-smi"


@dataclass(frozen=True)
class Row:
    """A device to print: the values as npu-smi has them."""

    card: int
    name: str
    chip: int = 0
    phy: int | None = None
    health: str = "OK"
    power: str = "88.3"
    bus: str = "0000:5A:00.0"
    memory: tuple[int, int] = (0, 0)
    hbm: tuple[int, int] | None = (3406, 65536)


@dataclass(frozen=True)
class Proc:
    """A process to print; ``chip`` is left out on 950, ``inside`` before 26.x."""

    card: int
    chip: int
    pid: int
    name: str
    memory: int
    inside: str = "NA"


def _line(widths: Sequence[int], cells: Sequence[str]) -> str:
    return "|" + "|".join(f" {c:<{w - 1}}" for w, c in zip(widths, cells, strict=True)) + "|"


def _rule(widths: Sequence[int], mark: str = "-") -> str:
    return "+" + "+".join(mark * width for width in widths) + "+"


def _usage(pair: tuple[int, int], before: int, after: int) -> str:
    return f"{pair[0]:<{before}}/ {pair[1]:<{after}}"


# Per layout: widths of the table's cells, then the four widths inside the last cell.
_SHAPES = {
    "a2": ((27, 15, 52), (12, 18, 5, 11)),
    "a3": ((27, 15, 52), (12, 18, 5, 11)),
    "a3-wide": ((27, 15, 70), (21, 24, 5, 17)),
    "310p": ((27, 17, 54), (12, 18, 5, 11)),
    "950": ((8, 18, 15, 53), (12, 18, 6, 10)),
    "950-wide": ((8, 18, 15, 70), (22, 23, 6, 15)),
}
_SECOND_COLUMNS = {"a2": "Chip", "a3": "Chip  Phy-ID", "a3-wide": "Chip  Phy-ID"}
_PROCESS_WIDTHS = {
    "narrow": (27, 15, 26, 25),
    "26": (27, 15, 20, 23, 25),
    "950": (27, 15, 26, 26),
    "950-wide": (27, 15, 20, 23, 25),
}


def device_table(layout: str, rows: Iterable[Row], version: str) -> list[str]:
    """Return the lines of the head and the device table of ``layout``."""
    widths, (first, second, used, total) = _SHAPES[layout]
    split = layout.startswith("950")
    util = "NPU Util(%)" if split else "AICore(%)"
    hbm_head = "" if layout == "310p" else "HBM-Usage(MB)"
    top = f"{'Power(W)':<{first}}{'Temp(C)':<{second}}Hugepages-Usage(page)"
    low = f"{util:<{first}}{'Memory-Usage(MB)':<{second}}{hbm_head}"
    whole = sum(widths) + len(widths) - 1
    lines = [
        _rule([whole]),
        _line([whole], [f"npu-smi {version:<24} Version: {version}"]),
        _rule(widths),
    ]
    if split:
        lines += [_line(widths, ["NPU ID", "Name", "Health", top])]
        lines += [_line(widths, ["", "", "Bus-Id", low])]
    else:
        column = _SECOND_COLUMNS.get(layout, "Chip    Device")
        lines += [_line(widths, ["NPU   Name", "Health", top])]
        lines += [_line(widths, [column, "Bus-Id", low])]
    lines.append(_rule(widths, "="))
    previous = None
    for row in rows:
        if previous is not None:
            lines.append(_rule([whole]) if row.card == previous else _rule(widths, "="))
        previous = row.card
        pages = f"{row.power:<{first}}{'34':<{second}}{_usage((0, 0), used, 1)}"
        hbm = _usage(row.hbm, used, 1) if row.hbm else ""
        load = f"{'0':<{first}}{_usage(row.memory, used, total)}{hbm}"
        if split:
            lines.append(_line(widths, [str(row.card), row.name, row.health, pages]))
            lines.append(_line(widths, ["", "", row.bus, load]))
            continue
        place = f"{row.chip:<6}{row.phy if row.phy is not None else ''}"
        lines.append(_line(widths, [f"{row.card:<6}{row.name}", row.health, pages]))
        lines.append(_line(widths, [place, row.bus, load]))
    return [*lines, _rule(widths, "=")]


def process_table(layout: str, procs: Iterable[Proc], idle: Iterable[int]) -> list[str]:
    """Return the lines of the process table; ``layout`` narrow, 26, 950 or 950-wide."""
    widths = _PROCESS_WIDTHS[layout]
    inside = len(widths) == 5
    first = "NPU ID" if layout.startswith("950") else "NPU     Chip"
    head = [first, "Process id", "Process name", "Process memory(MB)"]
    lines = [_rule(widths), _line(widths, [*head, "Process id in container"][: len(widths)])]
    lines.append(_rule(widths, "="))
    for proc in procs:
        place = str(proc.card) if layout.startswith("950") else f"{proc.card:<8}{proc.chip}"
        cells = [place, str(proc.pid), proc.name, str(proc.memory)]
        lines += [_line(widths, [*cells, proc.inside] if inside else cells), _rule(widths, "=")]
    whole = sum(widths) + len(widths) - 1
    for card in idle:
        lines.append(_line([whole], [f"No running processes found in NPU {card}"]))
        lines.append(_rule(widths, "="))
    return lines


def _a2(name: str, cards: int, **values: object) -> list[Row]:
    return [Row(n, name, bus=f"0000:{0x5A + n:02X}:00.0", **values) for n in range(cards)]


def _a3(cards: int, hbm: int = 3117) -> list[Row]:
    return [
        Row(
            card,
            "Ascend910",
            chip=die,
            phy=2 * card + die,
            power="-" if die else "160.7",
            bus=f"0000:{0x9D + 2 * (2 * card + die):02X}:00.0",
            hbm=(hbm - 233 * die, 65536),
        )
        for card in range(cards)
        for die in (0, 1)
    ]


_NOT_COMPLETE = (
    "[WARNING]The driver package may not be completely installed, "
    "which may cause function abnormal. Please reinstall it."
)


def _a2_fixtures() -> dict[str, list[str]]:
    eight = range(8)
    busy = [Row(n, "910B3", hbm=(60156, 65536)) for n in eight]
    workers = [Proc(n, 0, 1803913 + n, "VLLMWorker_DP", 56701) for n in eight]
    sick = [Row(0, "910B3"), Row(1, "910B3", health="Alarm"), Row(2, "910B3", health="Warning")]
    old = "25.0.rc1.1"
    return {
        "a2-idle": device_table("a2", _a2("910B2C", 8), old) + process_table("narrow", (), eight),
        "a2-busy": device_table("a2", busy, old) + process_table("narrow", workers, ()),
        "a2-unhealthy": device_table("a2", sick, old) + process_table("narrow", (), range(3)),
        "a2-910b4": device_table("a2", _a2("910B4", 8, hbm=(2795, 32768)), "24.1.rc2")
        + process_table("narrow", (), eight),
        "a2-910b4-1": device_table("a2", _a2("910B4-1", 8), old)
        + process_table("narrow", (), eight),
        "a2-warning": [
            *device_table("a2", _a2("910B1", 1), old),
            *process_table("narrow", (), (0,)),
            _NOT_COMPLETE,
        ],
        "910-first-generation": device_table(
            "a2", _a2("910B", 8, memory=(2621, 15171), hbm=(0, 32768)), "22.0.4"
        )
        + process_table("narrow", (), eight),
        "mixed-kinds": device_table("a2", [Row(0, "910B3"), Row(1, "310P3")], old),
        "mixed-variants": device_table("a2", [Row(0, "910B3"), Row(1, "910B1")], old),
    }


def _a3_fixtures() -> dict[str, list[str]]:
    workers = [Proc(n // 2, n % 2, 1803913 + n, "VLLMWorker_DP", 59887) for n in range(16)]
    hidden = [Proc(0, 0, 1207319, "", 17792, "1207319")]
    sick = [*_a3(1), Row(1, "Ascend910", phy=2), Row(1, "Ascend910", 1, 3, "Critical", "-")]
    wide = device_table("a3-wide", _a3(8), "26.0.rc2")
    return {
        "a3-idle": device_table("a3", _a3(8), "25.2.3") + process_table("narrow", (), range(8)),
        "a3-busy": device_table("a3", _a3(8, 60480), "25.2.3")
        + process_table("narrow", workers, ()),
        "a3-unhealthy": device_table("a3", sick, "25.2.3") + process_table("narrow", (), (0, 1)),
        "a3-wide-idle": wide + process_table("26", (), range(8)),
        "a3-wide-busy": wide + process_table("26", hidden, range(1, 8)),
    }


def _other_fixtures() -> dict[str, list[str]]:
    pr = [Row(n, "Ascend950PR", hbm=(5411, 131072)) for n in range(8)]
    sick = [
        Row(0, "Ascend950PR", health="Alarm", power="205.7", hbm=(90633, 114688)),
        Row(2, "Ascend950PR", hbm=(5413, 131072)),
    ]
    dt = [Row(n, "Ascend950DT", bus="NA", power="380.7", hbm=(6632, 86016)) for n in range(8)]
    long = Proc(6, 0, 3621066, "/usr/local/python3.11/bin/python3.11", 40000)
    ours = [Proc(4, 0, 2645952, "VLLMWorker_DP", 100596)]
    small = [Row(n, "310P3", phy=n, power="NA", memory=(1846, 44278), hbm=None) for n in (0, 1)]
    return {
        "950pr-idle": device_table("950", pr, "25.7.rc1") + process_table("950", (), range(8)),
        "950pr-busy": device_table("950", pr, "25.7.rc1") + process_table("950", ours, (0, 1)),
        "950pr-unhealthy": device_table("950", sick, "25.7.rc1") + process_table("950", (), (0, 2)),
        "950dt-wide-busy": device_table("950-wide", dt, "25.6.rc1.b169")
        + process_table("950-wide", [long], range(6)),
        "310p-idle": device_table("310p", small, "24.1.0") + process_table("narrow", (), (0, 1)),
        "no-card": ["There is no NPU card on this server."],
        "refused-8020": ["dcmi model initialized failed, because the device is used. ret is -8020"],
        "driver-8005": ["dcmi module initialize failed. ret is -8005"],
    }


def fixtures() -> dict[str, str]:
    """Return the text of every fixture by its name."""
    tables = {**_a2_fixtures(), **_a3_fixtures(), **_other_fixtures()}
    return {name: "\n".join(lines) + "\n" for name, lines in tables.items()}


if __name__ == "__main__":
    for fixture, text in fixtures().items():
        (FIXTURES / f"{fixture}.txt").write_text(text)
