"""The header reader: right files are read, wrong ones are an error and nothing else."""

from __future__ import annotations

import json
import resource
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ascend_v4.weights.safetensors import BITS, BadHeaderError, Header, read_header
from tests.support.checkpoints import header_bytes, tensor

CALM = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def written(path: Path, header: bytes, data: int, length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header)
    with path.open("r+b") as file:
        file.truncate(8 + len(header) + data)
    return path


def says(path: Path) -> str:
    with pytest.raises(BadHeaderError) as caught:
        read_header(path)
    return str(caught.value)


@CALM
@given(
    shapes=st.lists(
        st.tuples(st.sampled_from(sorted(BITS)), st.lists(st.integers(0, 16), max_size=3)),
        max_size=8,
    ),
    metadata=st.booleans(),
)
def test_a_right_file_is_read(tmp_path, shapes, metadata) -> None:
    shapes = [(k, [8, *s]) for k, s in shapes]
    header, data = header_bytes({f"t{i}": s for i, s in enumerate(shapes)}, metadata)
    path = written(tmp_path / "a", header, data)
    names = tuple(f"t{i}" for i in range(len(shapes)))
    assert read_header(path) == Header(names, 8 + len(header) + data)


@CALM
@given(junk=st.binary(max_size=300))
def test_any_bytes_at_all(tmp_path, junk) -> None:
    path = tmp_path / "a"
    path.write_bytes(junk)
    try:
        read_header(path)
    except BadHeaderError as error:
        assert str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@CALM
@given(
    value=JSON
    | st.dictionaries(
        st.text(max_size=4),
        st.fixed_dictionaries(
            {},
            optional={
                "dtype": st.sampled_from(["F32", "BF16", "F4", "X"]) | JSON,
                "shape": st.lists(st.integers(-5, 1 << 70), max_size=40) | JSON,
                "data_offsets": st.lists(st.integers(-5, 1 << 70), max_size=3) | JSON,
            },
        ),
    ),
    data=st.integers(0, 64),
)
def test_any_json_at_all(tmp_path, value, data) -> None:
    path = written(tmp_path / "a", json.dumps(value).encode(), data)
    try:
        header = read_header(path)
    except BadHeaderError as error:
        assert len(str(error)) < 400
    else:
        assert header.file_size == path.stat().st_size


@pytest.mark.parametrize("length", [1 << 20, 100_000_001, 1 << 40, (1 << 64) - 1])
def test_a_huge_header_takes_no_memory(tmp_path, length) -> None:
    path = written(tmp_path / "a", b"{}", 0, length)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert says(path) == f"its header would be {length} bytes long, the file has 10"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


def test_a_header_that_fits_and_is_still_too_long(tmp_path) -> None:
    path = written(tmp_path / "a", b"{}", 200_000_000, 100_000_001)
    assert says(path) == "its header would be 100000001 bytes long, more than 100000000"


T = tensor("F32", [2], 0)


@pytest.mark.parametrize(
    ("header", "data", "why"),
    [
        (b"{", 0, "its header is not JSON"),
        (b"\xff\xfe", 0, "its header is not JSON"),
        (b"[" * 60_000, 0, "its header is not JSON"),
        (b"1" * 5000, 0, "its header is not JSON"),
        (b"[]", 0, "its header is not a JSON object"),
        (b'{"__metadata__": 1}', 0, "its __metadata__ is not an object"),
        (b'{"a": 1}', 0, "tensor 'a' is not described by an object"),
        (b'{"a": {}, "a": {}}', 0, "its header names a tensor twice"),
        (json.dumps({"a": T}).encode(), 7, "its header describes 77 bytes, the file has 76"),
        (json.dumps({"a": T}).encode(), 9, "its header describes 77 bytes, the file has 78"),
        (json.dumps({"a": T, "b": T}).encode(), 16, "its tensors overlap at byte 0"),
        (
            json.dumps({"a": tensor("F32", [2], 4)}).encode(),
            12,
            "its tensors leave a gap at byte 4",
        ),
        (
            json.dumps({"a": {**T, "shape": [3]}}).encode(),
            8,
            "tensor 'a' has offsets that don't fit its shape",
        ),
        (
            json.dumps({"a": {**T, "shape": [True, 2]}}).encode(),
            8,
            "tensor 'a' has no usable shape",
        ),
        (
            json.dumps({"a": {**T, "data_offsets": [8, 0]}}).encode(),
            8,
            "tensor 'a' has no usable offsets",
        ),
        (
            json.dumps({"a": {**T, "dtype": "F99"}}).encode(),
            8,
            "tensor 'a' has the unknown type 'F99'",
        ),
    ],
)
def test_why_a_file_is_refused(tmp_path, header, data, why) -> None:
    assert says(written(tmp_path / "a", header, data)) == why


def test_short_files(tmp_path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1234")
    assert says(path) == "the file has 4 bytes, too few for a header"
