"""``ascend-v4 verify`` as a command: output, exit codes, repair, manifests, other nodes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ascend_v4.host.system import Host
from ascend_v4.rehearsal.build import rehearsal_files
from tests.support.checkpoints import checkpoint_files, write_files
from tests.support.hub import Hub, Repo

REPO = "Eco-Tech/tiny-w8a8"
SHARD = "quant_model_weights-00002-of-00003.safetensors"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.repos[REPO] = Repo(checkpoint_files(), commit="a" * 40)
        yield running


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_files(tmp_path / "weights", checkpoint_files())


@pytest.mark.parametrize(
    ("option", "word", "kind"),
    [("--chip", "zz", "unknown-chip"), ("--model", "zz", "unknown-model")],
)
def test_an_unknown_word_is_a_usage_error(ascend, tmp_path, option, word, kind):
    done = ascend("verify", tmp_path, option, word, "--json")
    assert (done.code, done.out) == (2, "")
    assert json.loads(done.err)["error"]["kind"] == kind


@pytest.mark.parametrize(
    ("name", "args", "then"),
    [
        ("empty", (), "ascend-v4 download --profile ascend --dir DIR (or --model ID)"),
        ("empty", ("--model", "flash-fp4"), "ascend-v4 verify DIR --repair --model flash-fp4"),
        ("Eco-Tech--DeepSeek-V4-Flash-w8a8-mtp", (), "ascend-v4 verify DIR --repair"),
    ],
)
def test_an_empty_directory_names_a_command_that_fills_it(
    ascend, tmp_path: Path, name: str, args: tuple[str, ...], then: str
) -> None:
    place = tmp_path / name
    place.mkdir()
    done = ascend("verify", place, *args, "--json")
    error = json.loads(done.err)["error"]
    assert (done.code, error["code"], error["kind"]) == (4, 4, "weights-incomplete")
    assert error["next"] == then.replace("DIR", str(place))


def test_an_empty_directory_has_no_fingerprint(ascend, tmp_path: Path) -> None:
    for place, what in ((tmp_path, "has no *.safetensors file"), (tmp_path / "x", "isn't there")):
        done = ascend("verify", place, "--fingerprint")
        text = f"error: {place} {what}\nnext:  ascend-v4 verify {place}\n"
        assert (done.code, done.out, done.err) == (4, "", text)


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        (("--profile", "asend"), "unknown-profile"),
        (("--engine-version", "9.9"), "unknown-release"),
        (("--hosts", "/dev/null"), "no-nodes"),
        (("--repair",), "model-needed"),
        (("--manifest", "fetch"), "model-needed"),
    ],
)
def test_what_is_asked_wrongly(ascend, tmp_path: Path, args: tuple[str, ...], kind: str) -> None:
    done = ascend("verify", tmp_path, *args, "--json")
    assert (done.code, json.loads(done.err)["error"]["kind"]) == (2, kind)


def test_the_rehearsal_is_mended_by_building_it_again(ascend, tmp_path: Path) -> None:
    place = tmp_path / "rehearsal"
    assert ascend("download", "--profile", "cpu", "--dir", place).code == 0
    (place / "tokenizer.json").unlink()
    with (place / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    assert ascend("verify", place, "-q").code == 13
    assert ascend("verify", place, "--repair", "-q").code == 0
    assert ascend("verify", place, "--profile", "auto", "-q").code == 0
    done = ascend("verify", place, "--manifest", "fetch")
    assert (done.code, done.err.splitlines()[1]) == (2, f"next:  ascend-v4 verify {place}")


def test_the_rehearsal_is_checked_in_full_by_building_it(ascend, tmp_path: Path) -> None:
    place = tmp_path / "rehearsal"
    assert ascend("download", "--profile", "cpu", "--dir", place).code == 0
    done = ascend("verify", place, "--deep", "-q")
    assert done.code == 15
    assert done.err.splitlines()[-1].startswith(
        f"next:  ascend-v4 verify {place} --repair builds it again"
    )
    with (place / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    assert ascend("verify", place, "--repair", "-q").code == 0
    assert (place / "model.safetensors").read_bytes() == rehearsal_files()["model.safetensors"]


def test_good_weights_take_one_line(ascend, weights: Path) -> None:
    outcome = ascend("verify", weights)
    size = sum(map(len, checkpoint_files().values()))
    text = f"{weights}: flash-w8a8-mtp, 7 files, {size / 1024:.1f} KiB: good"
    assert (outcome.code, outcome.out) == (0, f"{text} (headers and sizes checked)\n")
    assert outcome.err == ""


def test_json_lists_every_file(ascend, weights: Path) -> None:
    (weights / SHARD).unlink()
    outcome = ascend("verify", weights, "--json")
    found = json.loads(outcome.out)
    assert outcome.code == 4
    assert found["checkpoint"] == "flash-w8a8-mtp"
    assert {file["path"]: file["verdict"] for file in found["files"]} == {
        **dict.fromkeys(checkpoint_files(), "good"),
        SHARD: "absent",
    }
    assert json.loads(outcome.err)["error"]["kind"] == "weights-incomplete"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("--model", "flash-w8a8-mtp"), 0),
        (("--model", "flash-fp4"), 14),
        (("--chip", "a3"), 0),
        (("--chip", "h200"), 14),
        (("--profile", "cuda"), 14),
        (("--chip", "a3", "--engine-version", "0.23.0.post1"), 0),
        (("--deep",), 15),
        (("--manifest", "/nonexistent"), 2),
    ],
)
def test_exit_codes(ascend, weights: Path, args: tuple[str, ...], code: int) -> None:
    assert ascend("verify", weights, "-q", *args).code == code


def test_sha256sum_serves_as_a_manifest(ascend, weights: Path, tmp_path: Path) -> None:
    sums = tmp_path / "sums"
    lines = [
        f"{hashlib.sha256(b).hexdigest()}  {p}\n" for p, b in sorted(checkpoint_files().items())
    ]
    sums.write_text("".join(lines))
    assert ascend("verify", weights, "--deep", "--manifest", sums, "-q").code == 0
    body = bytearray(checkpoint_files()[SHARD])
    body[-1] ^= 1
    (weights / SHARD).write_bytes(body)
    outcome = ascend("verify", weights, "--deep", "--manifest", sums, "-q")
    assert outcome.code == 13
    assert outcome.out.splitlines()[1].split() == [
        "hash",
        SHARD,
        *["its", "bytes", "are", "not", "those", "of", "the", "manifest"],
    ]
    sums.write_text("not sums\n")
    assert ascend("verify", weights, "--manifest", sums).code == 2


def test_the_hub_gives_the_hashes_and_repairs_only_what_is_bad(
    ascend, weights: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("--model", REPO, "--endpoint", hub.url)
    outcome = ascend("verify", weights, "--deep", "--manifest", "fetch", "-q", *place)
    assert (outcome.code, hub.file_bytes()) == (0, 0)
    body = bytearray(checkpoint_files()[SHARD])
    body[-1] ^= 1
    (weights / SHARD).write_bytes(body)
    (weights / "tokenizer.json").unlink()
    outcome = ascend("verify", weights, "--deep", "-q")
    assert outcome.code == 13
    outcome = ascend("verify", weights, "--deep", "--repair", "-q")
    assert outcome.code == 0
    assert outcome.out.endswith(": good (every byte checked)\n")
    assert hub.file_bytes() == len(body) + len(checkpoint_files()["tokenizer.json"])
    assert (weights / SHARD).read_bytes() == checkpoint_files()[SHARD]


def test_nodes_are_compared_by_a_line_each_can_print(ascend, weights: Path, tmp_path: Path) -> None:
    outcome = ascend("verify", weights, "--fingerprint")
    line = outcome.out
    assert (outcome.code, line.split()[:2]) == (0, ["v1", "7"])
    programs = tmp_path / "bin"
    programs.mkdir()
    ssh = programs / "ssh"
    ssh.write_text(
        '#!/bin/sh\ncase "$4" in\n'
        f"good) echo '{line.strip()}' ;;\n"
        "bad) echo v1 7 1 00000000 ;;\n"
        "*) echo no route to host >&2; exit 255 ;;\nesac\n"
    )
    ssh.chmod(0o755)
    host = Host(env={"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path)})
    hosts = tmp_path / "hosts"
    for names, code in (("good\n# all\n", 0), ("good\nbad\naway\n", 13), ("away\n", 17)):
        hosts.write_text(names)
        outcome = ascend("verify", weights, "--hosts", hosts, "--json", host=host)
        assert outcome.code == code
    assert json.loads(outcome.out)[1] == {
        "node": "away",
        "verdict": "unreachable",
        "fingerprint": "no route to host",
    }
    (weights / SHARD).write_bytes(b"other")
    assert ascend("verify", weights, "--fingerprint").out != line
