"""Logs as blocks of whole lines: files, gzip, bzip2, xz and streams, in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from ascend_v4.errors import AscendV4Error, ExitCode

__all__ = ["BLOCK_BYTES", "blocks_of_lines", "blocks_of_path", "blocks_of_stream"]

BLOCK_BYTES = 4 << 20
#: A longer line is cut here: a progress bar without line breaks is no line.
LINE_BYTES = 1 << 20
_OPENERS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open))


def blocks_of_stream(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield blocks that end with a line, of at most about BLOCK_BYTES.

    A packed stream that ends early gives what it holds. Raises what reading raises.
    """
    carry = b""
    # read1 keeps what came before a truncated end, which read would throw away.
    read = getattr(stream, "read1", stream.read)
    while block := read_or_end(read):
        end = block.rfind(b"\n") + 1
        if not end and len(carry) + len(block) < LINE_BYTES:
            carry += block
            continue
        end = end or len(block)
        yield carry + block[:end]
        carry = block[end:]
    if carry:
        yield carry


def read_or_end(read: Callable[[int], bytes]) -> bytes:
    """Return the next bytes, none where a packed stream breaks off."""
    try:
        return read(BLOCK_BYTES)
    except (EOFError, lzma.LZMAError, zlib.error):
        return b""


def blocks_of_path(path: Path) -> Iterator[bytes]:
    """Yield the blocks of a file, unpacked by what its first bytes say.

    Raises AscendV4Error (usage) when it can't be read.
    """
    try:
        with path.open("rb") as plain:
            opener = next((o for magic, o in _OPENERS if plain.peek(6).startswith(magic)), None)
            stream = cast(IO[bytes], opener(plain)) if opener else plain
            yield from blocks_of_stream(stream)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AscendV4Error(
            ExitCode.USAGE, "unreadable-file", f"{path} can't be read: {reason}", f"ls -l {path}"
        ) from error


def blocks_of_lines(lines: Iterable[str | bytes]) -> Iterator[bytes]:
    """Yield blocks made of single lines, with or without their line ends."""
    held: list[bytes] = []
    size = 0
    for line in lines:
        raw = line.encode("utf-8", "surrogateescape") if isinstance(line, str) else line
        held.append(raw if raw.endswith(b"\n") else raw + b"\n")
        size += len(raw)
        if size >= BLOCK_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
