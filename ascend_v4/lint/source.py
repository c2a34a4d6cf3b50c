"""A user's script byte for byte: what isn't UTF-8 comes through unchanged."""

from __future__ import annotations

import sys
from pathlib import Path

from ascend_v4.errors import AscendV4Error, ExitCode

__all__ = ["read_source", "write_source"]


def read_source(path: str) -> str:
    """Return the text of a file, or of stdin for ``-``; line ends stay as they are.

    Raises AscendV4Error (usage) for a file that can't be read.
    """
    if path == "-":
        return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    try:
        return Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise AscendV4Error(
            ExitCode.USAGE,
            "unreadable-file",
            f"{path} can't be read: {error.strerror}",
            f"ls -l {path}",
        ) from error


def write_source(text: str) -> None:
    """Write a text to stdout as :func:`read_source` read it."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()
