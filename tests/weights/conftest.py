"""A hub with one checkpoint, a directory, and the download through both."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ascend_v4.errors import AscendV4Error
from ascend_v4.weights.download import Request, Result, download
from ascend_v4.weights.manifest import FileRow, load_manifest
from ascend_v4.weights.parts import CHUNK
from ascend_v4.weights.source import Source
from tests.support.hub import Hub, Repo, checkpoint

REPO = "Eco-Tech/tiny-w8a8"
SHARD = "quant_model_weights-00002-of-00003.safetensors"
BIG = "quant_model_weights-00001-of-00001.safetensors"
INDEX = "quant_model_weights.safetensors.index.json"
#: Budgets that a test can wait for; the client's own are minutes.
QUICK = {
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
    "MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS": "1",
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
}


class Shown:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.phases: list[tuple[str, int, int, int]] = []
        self.seen: list[tuple[int, int]] = []
        self.stops = 0

    def status(self, text: str) -> None:
        self.said.append(text)

    def start(self, phase: str, size: int, files: int, done: int = 0) -> None:
        self.phases.append((phase, size, files, done))

    def progress(self, done: int, files_done: int) -> None:
        self.seen.append((done, files_done))

    def stop(self) -> None:
        self.stops += 1


class Site:
    """A user's directory and environment in front of a hub."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.hub = hub
        self.directory = home / "weights"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MODELSCOPE")}
        self.env = {**inherited, "HOME": str(home), **QUICK}
        self.shown = Shown()
        self.files = checkpoint()
        hub.repos[REPO] = Repo(dict(self.files))

    @property
    def repo(self) -> Repo:
        return self.hub.repos[REPO]

    hub_name = "modelscope"

    def download(self, revision: str = "master", repo: str = REPO, **more: object) -> Result:
        source = Source(self.hub_name, repo)
        request = Request(source, revision, self.hub.url, self.directory, **more)
        return download(request, self.env, self.shown)

    def fails(self, **more: object) -> tuple[int, str, str]:
        """Return code, kind and message of a download that must fail."""
        with pytest.raises(AscendV4Error) as caught:
            self.download(**more)
        assert not self.complete
        error = caught.value
        return int(error.code), error.kind, error.message.replace(self.hub.url, "HUB")

    @property
    def complete(self) -> bool:
        manifest = load_manifest(self.directory)
        return manifest is not None and manifest.complete

    def on_disk(self) -> dict[str, bytes]:
        """Return the files in the directory, ours in ``.ascend-v4`` left out."""
        found = (p for p in self.directory.rglob("*") if p.is_file())
        named = {p.relative_to(self.directory).as_posix(): p for p in found}
        return {n: p.read_bytes() for n, p in named.items() if not n.startswith(".ascend-v4/")}

    def leftovers(self) -> list[str]:
        """Return what there is of files that aren't whole."""
        found = [*self.directory.rglob("*.incomplete"), *self.directory.rglob(".ascend-v4/parts")]
        return [str(path) for path in found]


class Big(Site):
    """The same with one shard of three chunks."""

    def __init__(self, hub: Hub, home: Path) -> None:
        super().__init__(hub, home)
        self.files = big_files()
        hub.repos[REPO] = Repo(dict(self.files))

    def row(self, path: str) -> FileRow:
        body = self.files[path]
        return FileRow(path, len(body), hashlib.sha256(body).hexdigest())

    def ranges(self, path: str) -> list[tuple[int, int]]:
        """Return first and last byte of each bounded request for a file."""
        heads = [seen.headers.get("Range", "") for seen in self.hub.log if seen.file == path]
        found = [re.fullmatch(r"bytes=(\d+)-(\d+)", head) for head in heads]
        return [(int(hit[1]), int(hit[2])) for hit in found if hit]


@cache
def big_files() -> dict[str, bytes]:
    return checkpoint(shards=1, shard_bytes=2 * CHUNK + 5_000_000)


@pytest.fixture
def big(hub: Hub, tmp_path: Path) -> Big:
    return Big(hub, tmp_path)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def site(hub: Hub, tmp_path: Path) -> Site:
    return Site(hub, tmp_path)
