"""Reading the header of a safetensors file, and believing none of it.

The format: eight bytes with the header's length (little endian), a JSON object
``name -> {dtype, shape, data_offsets}``, then the tensors without a gap between them
(https://github.com/huggingface/safetensors, README, "Format"). Everything is compared
with the file's own length before memory is taken for it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["MAX_HEADER", "BadHeaderError", "Header", "read_header"]

#: Bytes; what the format's own reader accepts (safetensors 0.4, MAX_HEADER_SIZE).
MAX_HEADER = 100_000_000
#: Bits of one element (safetensors 0.6, tensor.rs, ``Dtype``).
BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
}
#: No tensor of a model has more dimensions; the product of a longer shape isn't worth computing.
MAX_RANK = 32


class BadHeaderError(ValueError):
    """The file isn't a whole safetensors file; the text says why."""


class Header(NamedTuple):
    """What a header says: its tensors' names, and the file's length in bytes it implies."""

    names: tuple[str, ...]
    file_size: int


def read_header(path: Path) -> Header:
    """Return the header of a safetensors file, checked against the file's length.

    Reads the header alone. Raises BadHeaderError for whatever isn't exactly such a
    file, OSError when it can't be read.
    """
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        lead = file.read(8)
        if len(lead) < 8:
            raise BadHeaderError(f"the file has {size} bytes, too few for a header")
        (length,) = struct.unpack("<Q", lead)
        if length > min(MAX_HEADER, size - 8):
            raise BadHeaderError(
                f"its header would be {length} bytes long, the file has {size}"
                if length > size - 8
                else f"its header would be {length} bytes long, more than {MAX_HEADER}"
            )
        text = file.read(length)
    if len(text) != length:
        raise BadHeaderError("the file ends within its header")
    tensors = _parse(text)
    names, data = _check(tensors)
    if 8 + length + data != size:
        raise BadHeaderError(f"its header describes {8 + length + data} bytes, the file has {size}")
    return Header(names, size)


def _parse(text: bytes) -> dict[str, Any]:
    """Return the JSON object of a header; its metadata is left out."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except BadHeaderError:
        raise
    except (ValueError, RecursionError) as error:
        raise BadHeaderError("its header is not JSON") from error
    if not isinstance(value, dict):
        raise BadHeaderError("its header is not a JSON object")
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise BadHeaderError("its __metadata__ is not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadHeaderError("its header names a tensor twice")
    return found


def _check(tensors: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    """Return the names and the bytes of all tensors, which must lie end to end."""
    spans = []
    for name, tensor in tensors.items():
        if not isinstance(tensor, dict):
            raise BadHeaderError(f"tensor {_shown(name)} is not described by an object")
        start, end = _offsets(name, tensor.get("data_offsets"))
        if (end - start) * 8 != _bits(name, tensor):
            raise BadHeaderError(f"tensor {_shown(name)} has offsets that don't fit its shape")
        spans.append((start, end))
    return tuple(tensors), _end_to_end(spans)


def _offsets(name: str, value: Any) -> tuple[int, int]:
    if isinstance(value, list) and len(value) == 2 and all(type(item) is int for item in value):
        start, end = value
        if 0 <= start <= end:
            return start, end
    raise BadHeaderError(f"tensor {_shown(name)} has no usable offsets")


def _bits(name: str, tensor: dict[str, Any]) -> int:
    """Return the bits that a tensor's type and shape need."""
    kind, shape = tensor.get("dtype"), tensor.get("shape")
    if not isinstance(kind, str) or kind not in BITS:
        raise BadHeaderError(f"tensor {_shown(name)} has the unknown type {_shown(kind)}")
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise BadHeaderError(f"tensor {_shown(name)} has no usable shape")
    bits = BITS[kind]
    for length in shape:
        if type(length) is not int or not 0 <= length < 1 << 63:
            raise BadHeaderError(f"tensor {_shown(name)} has no usable shape")
        bits *= length
    return bits


def _end_to_end(spans: Iterable[tuple[int, int]]) -> int:
    at = 0
    for start, end in sorted(spans):
        if start != at:
            what = "overlap" if start < at else "leave a gap"
            raise BadHeaderError(f"its tensors {what} at byte {start}")
        at = end
    return at


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
