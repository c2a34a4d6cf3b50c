"""Pure parsers for what ``npu-smi`` prints.

One parser reads every layout of ``npu-smi info`` by the shape of its cells, not by
column positions: widths changed between 25.x and 26.x, and a wide number
or process name runs over its column. What a layout does not say stays ``None``;
damaged text loses rows, it never raises. Layouts were read from public samples:
https://github.com/vllm-project/vllm-ascend/issues/4621 (A2), /6529 (A3),
/12980 (A3 wide, 26.0), /16581 (26.x process table), /10001 (950), /632 (refusal).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = [
    "NpuDevice",
    "NpuInfo",
    "NpuMapping",
    "NpuProcess",
    "parse_info",
    "parse_mapping",
]

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Bounded digits everywhere: int() itself refuses strings of thousands of digits.
_INT = re.compile(r"[0-9]{1,15}")
_CARD_NAME = re.compile(r"([0-9]{1,15})\s+(\S.*)")
_ONE_OR_TWO_INTS = re.compile(r"([0-9]{1,15})(?:\s+([0-9]{1,15}))?")
_USAGE = re.compile(r"(?<![0-9])([0-9]{1,15})\s*/\s*([0-9]{1,15})(?![0-9])")
_BUS_ID = re.compile(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]{1,2}")
_VERSION = re.compile(r"npu-smi\s+(\S+)")
_ERROR_CODE = re.compile(r"\bret(?:urn)?(?:\s+code)?\s*(?:is|=|:)?\s*(-[0-9]{1,6})\b")
_NO_CARD = re.compile(r"no NPU card", re.IGNORECASE)
_MAX_MESSAGES = 50


@dataclass(frozen=True)
class NpuDevice:
    """One chip (a die on A3) as the device table shows it; memory in MB as printed.

    ``card`` is the NPU ID and ``chip`` the chip or die on it (None where the layout
    has no such column). ``logic_id`` is the Phy-ID (A3) or Device (310P) column, the
    number in ``/dev/davinciN`` on a host without renumbering; None elsewhere.
    ``memory_total_mb`` is the DDR column, 0 on A2, A3 and 950.
    """

    card: int
    chip: int | None
    logic_id: int | None
    name: str
    health: str
    hbm_used_mb: int | None
    hbm_total_mb: int | None
    bus_id: str | None
    memory_total_mb: int | None = None


@dataclass(frozen=True)
class NpuProcess:
    """One row of the process table; ``pid`` counts on the host, memory in MB.

    ``chip`` is None on layouts without that column, ``container_pid`` where the
    column is missing or says NA. ``name`` may be empty inside containers.
    """

    card: int
    chip: int | None
    pid: int
    name: str
    memory_mb: int | None
    container_pid: int | None = None


@dataclass(frozen=True)
class NpuInfo:
    """All that one run of ``npu-smi info`` said.

    ``layout`` is ``a2``, ``a3``, ``950``, ``310p`` or ``unknown``: the shape of the
    table, not the chip. ``idle_cards`` are the cards it called free of processes,
    ``error_code`` the driver's negative code of a refusal (-8020: device used),
    ``messages`` every line outside the table.
    """

    layout: str = "unknown"
    tool_version: str | None = None
    devices: tuple[NpuDevice, ...] = ()
    processes: tuple[NpuProcess, ...] = ()
    idle_cards: tuple[int, ...] = ()
    no_card: bool = False
    error_code: int | None = None
    messages: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The messages that npu-smi itself marks as warnings."""
        return tuple(line for line in self.messages if "WARNING" in line.upper())


@dataclass(frozen=True)
class NpuMapping:
    """One row of ``npu-smi info -m``: where a logic id (``/dev/davinciN``) sits."""

    card: int
    chip: int
    logic_id: int | None
    phy_id: int | None
    name: str


@dataclass
class _Scan:
    """The parser's state while it walks down the lines."""

    layout: str = "unknown"
    tool_version: str | None = None
    has_hbm: bool = True
    # Number of cells of the process header; 0 while in the device table.
    process_cells: int = 0
    head: tuple[int, str, str] | None = None
    devices: list[NpuDevice] = field(default_factory=list)
    processes: list[NpuProcess] = field(default_factory=list)
    idle_cards: list[int] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def parse_info(text: str) -> NpuInfo:
    """Read the output of ``npu-smi info`` (stdout and stderr together) in any layout.

    Never raises; what can't be read is left out or None.
    """
    scan = _Scan()
    for raw in text.splitlines():
        line = _ANSI.sub("", raw).strip()
        if line.startswith("|"):
            _table_line(scan, line)
        elif line and not line.startswith("+") and len(scan.messages) < _MAX_MESSAGES:
            scan.messages.append(line)
    _flush(scan)
    said = "\n".join(scan.messages)
    code = _ERROR_CODE.search(said)
    return NpuInfo(
        layout=scan.layout,
        tool_version=scan.tool_version,
        devices=tuple(scan.devices),
        processes=tuple(scan.processes),
        idle_cards=tuple(scan.idle_cards),
        no_card=_NO_CARD.search(said) is not None,
        error_code=int(code.group(1)) if code else None,
        messages=tuple(scan.messages),
    )


def _table_line(scan: _Scan, line: str) -> None:
    cells = [cell.strip() for cell in line[1:].removesuffix("|").split("|")]
    if _header(scan, line, cells):
        return
    if "No running processes found" in line:
        number = _INT.search(line)
        if number:
            scan.idle_cards.append(int(number.group()))
    elif scan.process_cells:
        _process_row(scan, cells)
    else:
        _device_row(scan, cells)


def _header(scan: _Scan, line: str, cells: list[str]) -> bool:
    """Note what a header line tells about the layout; False if it is none."""
    version = _VERSION.match(cells[0])
    if version and "Version" in line:
        scan.tool_version = version.group(1)
        return True
    if "Process id" in line:
        _flush(scan)
        scan.process_cells = len(cells)
        return True
    if "Health" in cells:
        scan.process_cells = 0
        scan.layout = "950" if cells[0] == "NPU ID" else "unknown"
        return True
    if "Bus-Id" in cells:
        scan.has_hbm = "HBM-Usage" in line
        if scan.layout != "950":
            columns = cells[0].split()
            shapes = {("Chip",): "a2", ("Chip", "Phy-ID"): "a3", ("Chip", "Device"): "310p"}
            scan.layout = shapes.get(tuple(columns), "unknown")
        return True
    return False


def _device_row(scan: _Scan, cells: list[str]) -> None:
    """Read the first or second line of a device; other shapes are passed over."""
    if len(cells) == 4 and _INT.fullmatch(cells[0]) and cells[1]:
        _flush(scan)
        scan.head = (int(cells[0]), cells[1], cells[2])
    elif len(cells) == 4 and not cells[0] and scan.head:
        _finish(scan, scan.head, (None, None), cells[2], cells[3])
    elif len(cells) == 3:
        numbers = _ONE_OR_TWO_INTS.fullmatch(cells[0])
        named = _CARD_NAME.fullmatch(cells[0])
        if numbers and scan.head:
            place = (int(numbers.group(1)), _int_or_none(numbers.group(2)))
            _finish(scan, scan.head, place, cells[1], cells[2])
        elif named and not numbers:
            _flush(scan)
            scan.head = (int(named.group(1)), named.group(2), cells[1])


def _finish(
    scan: _Scan,
    head: tuple[int, str, str],
    place: tuple[int | None, int | None],
    bus: str,
    stats: str,
) -> None:
    """Join a device's two lines; ``place`` is its chip and its logic id."""
    card, name, health = head
    chip, logic = place
    scan.head = None
    usages = [(int(used), int(total)) for used, total in _USAGE.findall(stats)]
    # With an HBM column the DDR usage stands before it, without one it is alone.
    whole = len(usages) == (2 if scan.has_hbm else 1)
    hbm = usages[1] if whole and scan.has_hbm and usages[1][1] else None
    scan.devices.append(
        NpuDevice(
            card=card,
            chip=chip,
            logic_id=logic,
            name=name,
            health=health,
            hbm_used_mb=hbm[0] if hbm else None,
            hbm_total_mb=hbm[1] if hbm else None,
            bus_id=bus if _BUS_ID.fullmatch(bus) else None,
            memory_total_mb=usages[0][1] if whole else None,
        )
    )


def _flush(scan: _Scan) -> None:
    """Keep a device whose second line never came, with nothing but its head known."""
    if scan.head is not None:
        card, name, health = scan.head
        scan.head = None
        scan.devices.append(NpuDevice(card, None, None, name, health, None, None, None))


def _process_row(scan: _Scan, cells: list[str]) -> None:
    if len(cells) < scan.process_cells or len(cells) < 4:
        return
    # A name may hold the separator itself: count the other cells from both ends.
    tail = cells[-2:] if scan.process_cells >= 5 else [cells[-1], ""]
    name = "|".join(cells[2 : len(cells) - (scan.process_cells - 3)])
    where = _ONE_OR_TWO_INTS.fullmatch(cells[0])
    if not where or not _INT.fullmatch(cells[1]):
        return
    scan.processes.append(
        NpuProcess(
            card=int(where.group(1)),
            chip=int(where.group(2)) if where.group(2) else None,
            pid=int(cells[1]),
            name=name,
            memory_mb=_int_or_none(tail[0]),
            container_pid=_int_or_none(tail[1]),
        )
    )


def parse_mapping(text: str) -> tuple[NpuMapping, ...]:
    """Read ``npu-smi info -m`` in the A2, A3 and 950 forms; Mcu rows are left out.

    Never raises. Columns are taken by their header, as the 950 form has a slot and
    a Phy-ID column but no logic id: its ``logic_id`` is None.
    """
    columns: list[str] = []
    rows: list[NpuMapping] = []
    for line in text.splitlines():
        if "NPU ID" in line and "Chip ID" in line:
            known = r"NPU ID|Slot ID|Chip ID|Chip Logic ID|Chip Phy-ID|Chip Name"
            columns = re.findall(known, line)
            continue
        words = line.split()
        if not columns or len(words) < len(columns):
            continue
        row = dict(zip(columns, words, strict=False))
        # The name is the last column and may contain blanks.
        name = " ".join(words[len(columns) - 1 :])
        card, chip = _int_or_none(row.get("NPU ID")), _int_or_none(row.get("Chip ID"))
        if card is None or chip is None or name.lower() == "mcu":
            continue
        logic, phy = _int_or_none(row.get("Chip Logic ID")), _int_or_none(row.get("Chip Phy-ID"))
        rows.append(NpuMapping(card, chip, logic, phy, name))
    return tuple(rows)


def _int_or_none(text: str | None) -> int | None:
    return int(text) if text is not None and _INT.fullmatch(text) else None
