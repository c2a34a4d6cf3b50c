"""The only printer: results on stdout, status and errors on stderr."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ascend_v4.core.finding import Finding
    from ascend_v4.errors import AscendV4Error
    from ascend_v4.run.logs import Terminal

__all__ = [
    "finish",
    "never_wait",
    "open_closed",
    "print_error",
    "print_findings",
    "print_json",
    "print_result",
    "print_table",
    "status",
    "stdout_lost",
]


#: Seconds that a reader has at the end for what is still to be told.
LAST_WORDS_S = 3.0
#: stdout and stderr, by number, while something may not wait for their readers.
apart: dict[int, Terminal] = {}


def open_closed() -> None:
    """Put /dev/null on each of descriptors 0 to 2 that is closed.

    Else the next file that is opened, perhaps a lock, would be taken for it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Writing to stdout still fails, as the caller of a result has to know.
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def never_wait() -> None:
    """Print from threads from now on: who watches a server can't wait for a reader.

    What can't be written is then lost; ``finish`` ends it.
    """
    from ascend_v4.run.logs import Terminal

    for number in (1, 2):
        apart.setdefault(number, Terminal(fd=number))


def finish() -> None:
    """Write what is still to be told, for at most ``LAST_WORDS_S`` seconds a stream."""
    while apart:
        apart.popitem()[1].close(LAST_WORDS_S)


def print_result(text: str) -> None:
    """Print a result on stdout; raises OSError where it can't be written."""
    if 1 in apart:
        apart[1].put(text.removesuffix("\n"))
        return
    if sys.stdout is None:
        # Python's way to say that descriptor 1 was closed (`>&-`).
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def stdout_lost(error: OSError) -> bool:
    """Whether an error is that stdout can't be written (a full disk, a closed descriptor).

    Only this module and click's echo write there. What stdout still holds is then
    dropped, or Python would exit with 120 over it.
    """
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    writer = frame.tb_frame.f_globals.get("__name__") if frame else None
    if writer not in (__name__, "click.utils"):
        return False
    if sys.stdout is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    return True


def print_json(value: Any) -> None:
    """Print a result on stdout as indented JSON."""
    print_result(json.dumps(value, indent=2, ensure_ascii=False))


def status(text: str) -> None:
    """Print a status line on stderr; a closed stderr is nobody's problem."""
    if 2 in apart:
        apart[2].put(text)
        return
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def print_error(error: AscendV4Error, *, as_json: bool) -> None:
    """Print an error on stderr: a sentence and the next command, or the shared JSON object."""
    if as_json:
        status(json.dumps(error.to_json(), ensure_ascii=False))
        return
    status(f"error: {error.message}")
    if error.next:
        status(f"next:  {error.next}")


def print_findings(findings: Iterable[Finding]) -> None:
    """Print findings on stderr, one line each and the fix below."""
    for finding in findings:
        status(f"{finding.severity}: {finding.message} [{finding.id}]")
        if finding.fix:
            status(f"  fix: {finding.fix}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows on stdout in columns as wide as their longest cell."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print_result("  ".join(cells).rstrip())
