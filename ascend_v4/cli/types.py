"""Option types that click has not: what is checked before anything is opened or claimed."""

from __future__ import annotations

import fcntl
import math
import os
from pathlib import Path
from typing import Any

import click

__all__ = ["Amount", "ReadyDescriptor", "ReadyFile", "Word"]


class Amount(click.FloatRange):
    """A float in a range that is a number: ``nan`` and ``inf`` are none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; raises click.BadParameter."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


class Word(click.types.StringParamType):
    """A text that is not empty and has no blanks."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text; raises click.BadParameter."""
        text = str(value)
        if len(text.split()) != 1 or text != text.strip():
            self.fail(f"'{text}' is not one word.", param, ctx)
        return text


class ReadyDescriptor(click.types.IntParamType):
    """The number of a descriptor that the caller has opened for writing.

    It is looked at while the command line is read, when no file of ours is open: a number
    that is free then would soon be one of our own locks.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; raises click.BadParameter."""
        number = int(super().convert(value, param, ctx))
        if number < 3:
            self.fail(f"{number} is a standard stream; take 3 or more, as `3>FILE`.", param, ctx)
        try:
            mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
        except (OSError, OverflowError):
            self.fail(
                f"{number} is not open; open it in the shell, as `{number}>FILE`.", param, ctx
            )
        if mode not in (os.O_WRONLY, os.O_RDWR):
            self.fail(f"{number} is not open for writing.", param, ctx)
        return number


class ReadyFile(click.Path):
    """A file that can be made: its directory is there and may be written."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; raises click.BadParameter."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
            self.fail(f"no file can be made in '{path.absolute().parent}'.", param, ctx)
        return path
