"""What a look at the host found wrong, as data for whoever prints it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Problem"]


@dataclass(frozen=True)
class Problem:
    """Something on the host that would stop or spoil a launch.

    ``kind`` is a short stable word (``device-used``), ``message`` one sentence that
    carries the evidence, ``fix`` a command or instruction.
    """

    kind: str
    message: str
    fix: str
