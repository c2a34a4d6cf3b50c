"""An ``npu-smi`` whose device 0 holds 40 GiB for each live process of a list.

``fake_tree.py`` writes its workers into the list (its key ``memory``), a test may add a
stranger. Called as a program: ``fake_npu.py LIST info``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.npu_smi_layouts import Proc, Row, device_table, process_table

HELD_MB = 40 * 1024


def holders(path: Path) -> list[tuple[int, str]]:
    """Return pid and name of the processes of the list that run."""
    found = []
    for word in path.read_text().split() if path.exists() else ():
        try:
            stat = Path(f"/proc/{word}/stat").read_text()
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[0] not in "ZX":
            found.append((int(word), Path(f"/proc/{word}/comm").read_text().strip()))
    return found


def info(path: Path) -> str:
    """Return what ``npu-smi info`` prints on a host of eight A3 cards."""
    held = holders(path)
    rows = [
        Row(card, "Ascend910", die, 2 * card + die, hbm=(3000, 65536))
        for card in range(8)
        for die in (0, 1)
    ]
    rows[0] = Row(0, "Ascend910", 0, 0, hbm=(3000 + HELD_MB * len(held), 65536))
    procs = [Proc(0, 0, pid, name, HELD_MB) for pid, name in held]
    idle = range(1 if procs else 0, 8)
    lines = device_table("a3", rows, "25.2.3") + process_table("narrow", procs, idle)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[2:] != ["info"]:
        sys.exit("Usage: npu-smi info")
    sys.stdout.write(info(Path(sys.argv[1])))
