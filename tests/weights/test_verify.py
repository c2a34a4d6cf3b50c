"""What a check of weights on disk finds, quick and deep, and how it is said."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from ascend_v4.errors import AscendV4Error
from ascend_v4.weights.manifest import FileRow, Manifest, save_manifest
from ascend_v4.weights.place import sidecars, state_sidecar
from ascend_v4.weights.progress import Quiet
from ascend_v4.weights.verify import deepen, judge, quick, suits, survey
from tests.support.checkpoints import checkpoint_files, sparse_checkpoint, write_files

SHARD = "quant_model_weights-00002-of-00003.safetensors"
INDEX = "quant_model_weights.safetensors.index.json"
KINDS = [
    "flash-w8a8-mtp",
    "flash-0731-w8a8",
    "pro-w4a8-mtp",
    "flash-fp4",
    "flash-0731-fp4",
    "flash-nvfp4",
    "pro-fp4",
]


def manifest_of(files: dict[str, bytes], hashes: bool = True) -> Manifest:
    rows = [
        FileRow(path, len(body), hashlib.sha256(body).hexdigest() if hashes else None)
        for path, body in sorted(files.items())
    ]
    return Manifest("modelscope", "a/b", "https://modelscope.cn", "master", tuple(rows), True)


class Place:
    def __init__(self, home: Path) -> None:
        self.directory, self.files = home / "weights", checkpoint_files()
        self.env = {"HOME": str(home)}
        write_files(self.directory, self.files)

    def fails(self, checkpoint: str | None = None) -> tuple[int, str]:
        with pytest.raises(AscendV4Error) as caught:
            quick(self.directory, checkpoint, env=self.env)
        return int(caught.value.code), caught.value.message.replace(str(self.directory), "DIR")

    def deep(self, manifest: Manifest | None = None, stamps: bool = True):  # type: ignore[no-untyped-def]
        report = survey(self.directory, self.env, manifest)
        return deepen(report, self.env, Quiet(), 2, stamps)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_recognised_and_good(tmp_path: Path, kind: str) -> None:
    write_files(tmp_path, checkpoint_files(kind))
    report = survey(tmp_path, {"HOME": str(tmp_path)})
    assert (report.checkpoint, report.bad(), report.findings) == (kind, [], ())
    assert {file.verdict for file in quick(tmp_path, kind)} == {"good"}


def test_the_rehearsal_is_recognised(tmp_path: Path) -> None:
    from ascend_v4.rehearsal.build import build_rehearsal

    build_rehearsal(tmp_path / "r")
    assert {file.verdict for file in quick(tmp_path / "r", "rehearsal")} == {"good"}


@pytest.mark.parametrize(
    ("gone", "why"),
    [
        (SHARD, f"{INDEX} names it"),
        ("config.json", "it isn't there"),
        ("tokenizer.json", "it isn't there"),
        ("quant_model_description.json", "it isn't there"),
    ],
)
def test_what_is_missing_is_named(place: Place, gone: str, why: str) -> None:
    (place.directory / gone).unlink()
    assert place.fails() == (4, f"the weights in DIR can't be served: {gone}: {why}")


def test_an_index_is_needed_for_several_shards(place: Place) -> None:
    (place.directory / INDEX).unlink()
    code, said = place.fails()
    assert (code, said[-26:]) == (4, "json: 3 shards and no index"[-26:])


def test_an_empty_directory_and_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(AscendV4Error) as caught:
            quick(path)
        assert int(caught.value.code) == 4


def test_a_shard_that_was_cut_off(place: Place) -> None:
    body = place.files[SHARD]
    (place.directory / SHARD).write_bytes(body[:-10])
    why = f"its header describes {len(body)} bytes, the file has {len(body) - 10}"
    assert place.fails() == (13, f"the weights in DIR can't be served: {SHARD}: {why}")
    save_manifest(manifest_of(place.files), place.directory)
    why = f"it has {len(body) - 10} bytes, not {len(body)}"
    assert place.fails() == (4, f"the weights in DIR can't be served: {SHARD}: {why}")


def test_a_shard_of_another_place(place: Place) -> None:
    other = place.directory / SHARD.replace("00002-", "00003-")
    (place.directory / SHARD).write_bytes(other.read_bytes())
    code, said = place.fails()
    assert code == 13
    assert f"{SHARD}: 3 tensors of the index are not in it, layers.2." in said


def test_a_tensor_in_two_shards(place: Place) -> None:
    index = json.loads((place.directory / INDEX).read_text())
    name = "layers.2.norm.weight"
    index["weight_map"][name] = SHARD.replace("00002-", "00001-")
    (place.directory / INDEX).write_text(json.dumps(index))
    code, said = place.fails()
    assert code == 13
    assert f"{SHARD}: 1 of its tensors belong to another shard, {name} first" in said


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        (INDEX, b"{", "it is not JSON"),
        (INDEX, b"[]", "it is not a JSON object"),
        (INDEX, b"{}", "no weight map"),
        (INDEX, b"[" * 50_000, "it is not JSON"),
        ("config.json", b"{", "it is not JSON"),
        ("quant_model_description.json", b"{", "it is not JSON"),
        (
            "quant_model_description.json",
            b'{"other.weight": "FLOAT"}',
            "it describes none of the tensors that are there",
        ),
    ],
)
def test_damaged_json(place: Place, path: str, body: bytes, why: str) -> None:
    (place.directory / path).write_bytes(body)
    assert place.fails() == (13, f"the weights in DIR can't be served: {path}: {why}")


def test_what_is_odd_but_can_be_served_is_a_finding(place: Place) -> None:
    description = json.loads(place.files["quant_model_description.json"])
    del description["layers.1.norm.weight"]
    (place.directory / "quant_model_description.json").write_text(json.dumps(description))
    (place.directory / "old.safetensors").write_bytes(place.files[SHARD])
    report = survey(place.directory, place.env)
    assert report.bad() == []
    assert [(f.id, f.severity) for f in report.findings] == [
        ("weights-not-in-index", "warn"),
        ("weights-not-described", "risk"),
    ]


def test_another_kind_than_wanted(place: Place) -> None:
    assert place.fails("flash-fp4") == (
        14,
        "DIR holds flash-w8a8-mtp, and this launch is for flash-fp4",
    )


@pytest.mark.parametrize(
    ("checkpoint", "chip", "profile", "release", "why"),
    [
        ("flash-w8a8-mtp", "a3", "ascend", ("vllm-ascend", "0.23.0.post1"), ""),
        ("flash-w8a8-mtp", "h200", None, None, "flash-w8a8-mtp is for a2, a3, not for h200"),
        (
            "flash-w8a8-mtp",
            None,
            "cuda",
            None,
            "flash-w8a8-mtp is for a2, a3, not for the profile cuda",
        ),
        (
            "flash-0731-w8a8",
            None,
            "ascend",
            ("vllm-ascend", "0.23.0"),
            "flash-0731-w8a8 needs vllm-ascend 0.25.1rc1 or later, not 0.23.0",
        ),
        (
            "flash-nvfp4",
            None,
            None,
            ("vllm-ascend", "0.23.0"),
            "flash-nvfp4 isn't served by vllm-ascend",
        ),
        ("flash-fp4", None, "ascend", None, ""),
        (None, "a3", None, None, ""),
    ],
)
def test_what_it_is_for(checkpoint, chip, profile, release, why) -> None:
    assert suits(checkpoint, chip, profile, release) == why


def test_seventy_four_shards_take_about_a_second(tmp_path: Path) -> None:
    sparse_checkpoint(tmp_path, 74, 4 << 30, 1000)
    begin = time.monotonic()
    report = survey(tmp_path, {"HOME": str(tmp_path)})
    assert (report.checkpoint, report.bad()) == ("flash-w8a8-mtp", [])
    assert sum(file.size or 0 for file in report.files) > 290e9
    assert time.monotonic() - begin < 5


def test_a_deep_check_finds_one_bit_and_stamps_the_rest(place: Place) -> None:
    save_manifest(manifest_of(place.files), place.directory)
    first = place.deep()
    assert (first.bad(), first.read) == ([], sum(map(len, place.files.values())))
    second = place.deep()
    assert (second.read, second.stamped) == (0, len(place.files))
    assert place.deep(stamps=False).read == first.read
    body = bytearray(place.files[SHARD])
    body[-7] ^= 4
    (place.directory / SHARD).write_bytes(body)
    third = place.deep()
    assert [(file.path, file.verdict) for file in third.bad()] == [(SHARD, "hash")]
    assert third.read == len(body)
    with pytest.raises(AscendV4Error) as caught:
        judge(third)
    assert int(caught.value.code) == 13


def test_a_stamp_notices_time_and_inode(place: Place) -> None:
    save_manifest(manifest_of(place.files), place.directory)
    place.deep()
    path = place.directory / SHARD
    os.utime(path, ns=(1, 1))
    assert place.deep().read == len(place.files[SHARD])
    stat = path.stat()
    copy = path.with_suffix(".copy")
    copy.write_bytes(place.files[SHARD])
    os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    copy.replace(path)
    assert place.deep().read == len(place.files[SHARD])


def test_without_hashes_a_deep_check_says_so(place: Place) -> None:
    for manifest in (None, manifest_of(place.files, hashes=False)):
        report = place.deep(manifest)
        assert {file.verdict for file in report.files} == {"unhashed"}
        with pytest.raises(AscendV4Error) as caught:
            judge(report)
        assert int(caught.value.code) == 15


def test_git_ids_are_hashes_too(place: Place) -> None:
    from tests.support.hub_hf import git_sha1

    rows = [FileRow(p, len(b), None, git_sha1(b)) for p, b in sorted(place.files.items())]
    manifest = Manifest("huggingface", "a/b", "", "main", tuple(rows), True)
    assert place.deep(manifest).bad() == []
    (place.directory / "tokenizer.json").write_bytes(b"[]")
    assert [file.path for file in place.deep(manifest).bad()] == ["tokenizer.json"]


def test_on_a_read_only_mount_what_is_known_goes_to_the_state_directory(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ascend_v4.weights.place as module

    monkeypatch.setattr(
        module, "writable", lambda path: place.directory not in (path, *path.parents)
    )
    where = sidecars(place.directory, place.env)[0]
    assert where == state_sidecar(place.directory, place.env)
    save_manifest(manifest_of(place.files), place.directory, where)
    assert place.deep().read > 0
    assert (place.deep().read, place.deep().stamped) == (0, len(place.files))
    assert not (place.directory / ".ascend-v4").exists()
