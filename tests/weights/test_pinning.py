"""One resolution for one download: commits, offline, and what a later run goes on with."""

from __future__ import annotations

import pytest

from ascend_v4.errors import AscendV4Error
from ascend_v4.weights.manifest import load_manifest
from tests.support.hub import LISTING

from .conftest import SHARD, Site

OLD, NEW = "a" * 8 + "0" * 32, "b" * 8 + "0" * 32


def revisions(site: Site) -> set[str]:
    from urllib.parse import parse_qs, urlsplit

    asked = [urlsplit(s.path).query for s in site.hub.log if s.file not in ("", LISTING)]
    return {parse_qs(query)["Revision"][0] for query in asked}


def test_a_moving_branch_is_pinned_to_its_commit(site: Site) -> None:
    site.repo.commit = OLD
    assert site.download().manifest.commit == OLD
    assert revisions(site) == {OLD}
    manifest = load_manifest(site.directory)
    assert manifest is not None
    assert (manifest.revision, manifest.commit) == ("master", OLD)
    site.hub.log.clear()
    assert site.download().fetched == 0
    assert [seen.file for seen in site.hub.log] == [LISTING]


def test_a_commit_that_can_not_be_listed_is_not_used(site: Site) -> None:
    site.repo.commit = OLD
    listing = site.hub.protocol.listing
    site.hub.protocol.listing = lambda repo, files, url: (  # type: ignore[method-assign]
        {"Data": {"Files": []}} if OLD in url else listing(repo, files, url)
    )
    assert site.download().manifest.commit is None
    assert revisions(site) == {"master"}


def test_an_interrupted_download_stays_with_its_commit(site: Site) -> None:
    site.repo.commit = OLD
    site.hub.inject("status", SHARD, value=503)
    assert site.fails()[:2] == (17, "hub-unreachable")
    site.repo.push(NEW, {**site.files, SHARD: b"newer" * 1000})
    site.hub.faults.clear()
    assert site.download().manifest.commit == OLD
    assert site.on_disk() == site.files
    result = site.download()
    assert (result.manifest.commit, result.fetched) == (NEW, 5000)
    assert site.on_disk() == site.repo.files


def test_a_commit_that_is_gone_is_given_up(site: Site) -> None:
    site.repo.commit = OLD
    site.hub.inject("status", SHARD, value=503)
    site.fails()
    site.repo.push(NEW, dict(site.files))
    site.repo.commits.clear()
    site.hub.faults.clear()
    assert site.download().manifest.commit == NEW
    assert "the hub no longer lists commit aaaaaaaa0000; taking the newest" in site.shown.said


def test_a_complete_directory_needs_no_hub(site: Site) -> None:
    site.download()
    site.hub.__exit__()
    assert site.download().fetched == 0
    assert site.shown.said[-1].endswith(f"{site.directory} is complete as of its last download")
    (site.directory / SHARD).write_bytes(b"damaged")
    with pytest.raises(AscendV4Error) as caught:
        site.download()
    assert int(caught.value.code) == 17


def test_a_complete_commit_is_not_asked_for_again(site: Site) -> None:
    site.repo.commit = NEW
    site.download(revision=NEW)
    asked = len(site.hub.log)
    assert site.download(revision=NEW).fetched == 0
    assert len(site.hub.log) == asked
    (site.directory / SHARD).write_bytes(b"damaged")
    assert site.download(revision=NEW).fetched == len(site.files[SHARD])
    assert site.on_disk() == site.files
