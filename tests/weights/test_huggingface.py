"""Downloads from Hugging Face: the same manifest, verification and resume as from ModelScope."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ascend_v4.weights.parts import CHUNK, Part
from tests.support.hub import Hub
from tests.support.hub_hf import HuggingFace

from .conftest import BIG, REPO, Big

COMMIT = "7872f01b1d1fe23eabc4c98b48bffcef5a386062"


class Face(Big):
    hub_name = "huggingface"

    def __init__(self, hub: Hub, home: Path) -> None:
        super().__init__(hub, home)
        self.repo.commit = COMMIT
        for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
            self.env.pop(name, None)

    def download(self, revision: str = "main", repo: str = REPO, **more: object):  # type: ignore[no-untyped-def]
        return super().download(revision, repo, **more)


@pytest.fixture
def face(tmp_path: Path) -> Iterator[Face]:
    with Hub(HuggingFace()) as hub:
        yield Face(hub, tmp_path)


def test_everything_arrives_at_one_commit_and_is_verified(face: Face) -> None:
    result = face.download()
    assert face.on_disk() == face.files
    assert (result.manifest.commit, result.unhashed) == (COMMIT, ())
    assert {s.path.split("/")[4] for s in face.hub.log if "/resolve/" in s.path} == {COMMIT}
    assert face.download().fetched == 0
    assert face.leftovers() == []


@pytest.mark.parametrize("path", [BIG, "config.json"])
def test_a_damaged_byte_is_noticed(face: Face, path: str) -> None:
    face.hub.inject("corrupt", path, at=9)
    assert face.fails()[:2] == (13, "corrupt-on-arrival")
    face.hub.faults.clear()
    face.hub.inject("corrupt", path, at=9, times=1)
    face.download()
    assert face.on_disk() == face.files


def test_it_goes_on_where_another_run_ended(face: Face) -> None:
    part = Part(face.directory, face.row(BIG))
    part.write(0, memoryview(face.files[BIG])[:CHUNK])
    part.close()
    face.download()
    assert face.on_disk() == face.files
    assert face.hub.file_bytes(BIG) == len(face.files[BIG]) - CHUNK


@pytest.mark.parametrize(
    ("kind", "how"),
    [("reset", {"at": 5_000_000, "times": 2}), ("status", {"value": 503, "times": 1})],
)
def test_what_its_own_client_gives_up_on(face: Face, kind: str, how: dict[str, int]) -> None:
    face.hub.inject(kind, BIG, **how)
    face.download()
    assert face.on_disk() == face.files


def test_tokens_and_names(face: Face) -> None:
    face.repo.token = "hf_s3cret"
    assert face.fails()[:2] == (2, "not-authorised")
    face.download(token="hf_s3cret")
    assert face.on_disk() == face.files
    assert face.hub.log[-1].headers["authorization"] == "Bearer hf_s3cret"
    assert not [p for p in (face.directory / ".ascend-v4").iterdir() if "hf_s3" in p.read_text()]


def test_a_repository_that_is_not_there(face: Face) -> None:
    face.hub.repos.clear()
    assert face.fails()[:2] == (2, "not-on-hub")


def test_hub_down(face: Face) -> None:
    face.download()
    face.hub.__exit__()
    assert face.download().fetched == 0
    (face.directory / BIG).unlink()
    from ascend_v4.errors import AscendV4Error

    with pytest.raises(AscendV4Error) as caught:
        face.download()
    assert int(caught.value.code) == 17
