"""Downloads that end well, with the real client."""

from __future__ import annotations

import hashlib
import json
import os
import time

import pytest

from ascend_v4.errors import AscendV4Error
from ascend_v4.weights import transfer as module
from ascend_v4.weights.download import Request, preview
from ascend_v4.weights.lock import locked
from ascend_v4.weights.source import Source

from .conftest import INDEX, REPO, SHARD, Site

TOTAL = 3150147


def test_a_checkpoint_arrives_whole_with_its_manifest(site: Site) -> None:
    result = site.download()
    assert site.on_disk() == site.files
    assert (result.fetched, result.unhashed, site.hub.file_bytes()) == (TOTAL, (), TOTAL)
    manifest = json.loads((site.directory / ".ascend-v4/manifest.json").read_text())
    assert manifest == {
        "schema": 1,
        "hub": "modelscope",
        "repo": REPO,
        "endpoint": site.hub.url,
        "revision": "master",
        "commit": None,
        "complete": True,
        "selection": [],
        "files": [
            {"path": path, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
            for path, body in sorted(site.files.items())
        ],
    }
    assert site.shown.phases == [("download", TOTAL, 9, 0)]
    assert site.shown.seen[-1] == (TOTAL, 9)
    assert site.shown.seen == sorted(site.shown.seen)


def test_small_files_and_the_index_come_before_any_shard(site: Site) -> None:
    site.download()
    order = [seen.file for seen in site.hub.log if seen.file.startswith("quant_model_weights")]
    assert order[0] == INDEX


def test_a_complete_directory_costs_one_listing(site: Site) -> None:
    site.download()
    site.hub.log.clear()
    begin = time.monotonic()
    result = site.download()
    assert [(seen.file, result.fetched) for seen in site.hub.log] == [("listing", 0)]
    assert time.monotonic() - begin < 3
    assert site.shown.said[-1] == f"{site.directory} is complete, nothing to download"


def test_files_copied_by_hand_are_read_and_not_fetched(site: Site) -> None:
    site.directory.mkdir()
    for path, body in site.files.items():
        (site.directory / path).parent.mkdir(exist_ok=True)
        (site.directory / path).write_bytes(body)
    assert site.download().fetched == 0
    assert site.hub.file_bytes() == 0
    assert site.shown.phases == [("check", TOTAL, 9, 0)]
    assert site.shown.seen[-1] == (TOTAL, 0)
    assert site.complete


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_file_that_was_damaged_later_is_fetched_again(site: Site, keep_time: bool) -> None:
    site.download()
    site.hub.log.clear()
    path = site.directory / SHARD
    stat, body = path.stat(), bytearray(path.read_bytes())
    body[1000] ^= 1
    path.write_bytes(body[:-1] if keep_time else body)
    if keep_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert site.download().fetched == len(site.files[SHARD])
    assert site.on_disk() == site.files
    assert [seen.file for seen in site.hub.log if seen.bytes_sent > 5000] == [SHARD]


def test_an_old_part_is_resumed_where_it_ends(site: Site) -> None:
    site.download()
    body = site.files[SHARD]
    (site.directory / SHARD).unlink()
    (site.directory / f"{SHARD}.incomplete").write_bytes(body[:700_000])
    site.hub.log.clear()
    assert site.download().fetched == len(body) - 700_000
    assert site.hub.file_bytes() == len(body) - 700_000
    assert site.shown.phases[-1] == ("download", len(body), 1, 700_000)
    assert site.on_disk() == site.files


def test_a_part_of_a_file_that_changed_on_the_hub_is_dropped(site: Site) -> None:
    site.repo.hashes = False
    site.download()
    (site.directory / SHARD).unlink()
    (site.directory / f"{SHARD}.incomplete").write_bytes(b"old" * 1000)
    site.repo.files[SHARD] = site.files[SHARD] + b"longer"
    site.download()
    assert site.on_disk() == site.repo.files
    assert "1 file changed on the hub since the last download" in site.shown.said


def test_a_part_is_dropped_when_another_revision_has_no_hashes(site: Site) -> None:
    site.repo.hashes = False
    site.repo.revisions = ("master", "v2")
    site.download()
    (site.directory / SHARD).unlink()
    (site.directory / f"{SHARD}.incomplete").write_bytes(b"old" * 1000)
    site.download(revision="v2")
    assert site.on_disk() == site.files


def test_a_hub_without_hashes_is_said(site: Site) -> None:
    site.repo.hashes = False
    result = site.download()
    assert site.on_disk() == site.files
    assert result.unhashed == tuple(sorted(site.files))


def test_an_unknown_client_version_is_not_trusted_with_the_hashes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HASHING_CLIENTS", frozenset())
    site.download()
    assert site.shown.phases == [("download", TOTAL, 9, 0), ("check", TOTAL, 9, 0)]
    assert site.on_disk() == site.files


def test_bytes_that_a_client_let_through_are_found_by_reading_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HASHING_CLIENTS", frozenset())
    fetch = module.HubSession.fetch

    def spoil(self: object, *args: object) -> object:
        faults = fetch(self, *args)  # type: ignore[arg-type]
        if (site.directory / SHARD).exists():
            (site.directory / SHARD).write_bytes(b"\0" * len(site.files[SHARD]))
        return faults

    monkeypatch.setattr(module.HubSession, "fetch", spoil)
    assert site.fails() == (
        13,
        "corrupt-on-arrival",
        f"1 file could not be fetched from HUB ({SHARD}: the bytes don't have the listed sha256)",
    )
    assert SHARD not in site.on_disk()


def test_a_client_that_writes_nothing_and_reports_success_is_caught(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.HubSession, "fetch", lambda *_: [])
    index = site.directory / INDEX
    assert site.fails() == (
        4,
        "files-missing",
        f"{index} can't be read: No such file or directory",
    )
    monkeypatch.setattr(module, "check_index", lambda *_: None)
    assert site.fails() == (
        4,
        "files-missing",
        "the transfer ended, yet 9 files of 9 are not there or changed meanwhile, README.md first",
    )


def test_a_preview_writes_nothing(site: Site) -> None:
    request = Request(Source("modelscope", REPO), "master", site.hub.url, site.directory)
    plan = preview(request, site.env)
    assert (plan.missing, len(plan.manifest.files), plan.free > 0) == (TOTAL, 9, True)
    assert not site.directory.exists()


def test_one_downloader_at_a_time(site: Site) -> None:
    with locked(site.directory):
        code, kind, message = site.fails()
    assert (code, kind) == (7, "directory-busy")
    assert f"{site.directory} is being downloaded into by process {os.getpid()} on " in message


def test_another_model_in_the_directory_is_refused(site: Site) -> None:
    site.download()
    site.hub.repos["Eco-Tech/other-w8a8"] = site.repo
    with pytest.raises(AscendV4Error) as caught:
        site.download(repo="Eco-Tech/other-w8a8")
    assert (int(caught.value.code), caught.value.message) == (
        2,
        f"{site.directory} holds {REPO}, not Eco-Tech/other-w8a8",
    )
    assert site.complete


def test_a_disk_that_is_too_small_is_refused_before_the_first_byte(site: Site) -> None:
    site.repo.extra = [{"Path": "big.bin", "Type": "blob", "Size": 1 << 60}]
    code, kind, message = site.fails()
    assert (code, kind) == (6, "disk-full")
    assert "free, and 1048576.00 TiB are missing (with 256.0 MiB to spare)" in message
    assert site.hub.file_bytes() == 0


def test_a_directory_that_cannot_be_made(site: Site) -> None:
    site.directory.write_text("a file")
    assert site.fails() == (
        6,
        "cannot-write",
        f"{site.directory} can't be written: Not a directory",
    )
