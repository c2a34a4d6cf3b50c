"""Our own transfer: ranges over several connections, resumed and verified, on both hubs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ascend_v4.errors import AscendV4Error
from ascend_v4.weights.manifest import FileRow
from ascend_v4.weights.parts import CHUNK, Part, present_bytes
from tests.support.hub import Hub

from .conftest import BIG, REPO, SHARD, Big, Site


def test_a_large_shard_comes_over_several_connections(big: Big) -> None:
    big.download()
    assert big.on_disk() == big.files
    asked = sorted(big.ranges(BIG))
    assert asked[0][0] == 0
    assert asked[-1][1] == len(big.files[BIG]) - 1
    assert len(asked) >= 3
    assert big.hub.file_bytes() == sum(map(len, big.files.values()))
    assert big.leftovers() == []


def test_one_connection_is_the_modelscope_client(big: Big) -> None:
    big.download(connections=1)
    assert big.on_disk() == big.files
    assert big.ranges(BIG) == []


def test_a_part_of_the_client_is_taken_over(big: Big) -> None:
    part = big.directory / f"{BIG}.incomplete"
    part.parent.mkdir()
    part.write_bytes(big.files[BIG][: CHUNK + 1000])
    big.download()
    assert big.on_disk() == big.files
    assert big.hub.file_bytes(BIG) == len(big.files[BIG]) - CHUNK - 1000


def test_a_part_of_ours_is_taken_over_by_the_client(big: Big) -> None:
    part = Part(big.directory, big.row(BIG))
    body = memoryview(big.files[BIG])
    part.write(0, body[:CHUNK])
    part.write(2, body[2 * CHUNK : 2 * CHUNK + 500])
    part.close()
    assert present_bytes(big.directory, big.row(BIG)) == CHUNK + 500
    big.download(connections=1)
    assert big.on_disk() == big.files
    assert big.hub.file_bytes(BIG) == len(big.files[BIG]) - CHUNK
    assert big.leftovers() == []


def test_a_part_of_another_version_is_not_gone_on_with(big: Big) -> None:
    other = FileRow(BIG, len(big.files[BIG]), "0" * 64)
    part = Part(big.directory, other)
    part.write(0, memoryview(b"\1" * 1000))
    part.close()
    big.download()
    assert big.on_disk() == big.files
    assert big.hub.file_bytes(BIG) == len(big.files[BIG])


def test_a_rotten_part_is_found_and_fetched_again(big: Big) -> None:
    part = Part(big.directory, big.row(BIG))
    part.write(1, memoryview(b"\1" * 1000))
    part.close()
    big.download()
    assert big.on_disk() == big.files


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("corrupt", {"at": CHUNK + 5, "times": 1}),
        ("drop", {"at": 5_000_000, "times": 8}),
        ("reset", {"at": 5_000_000, "times": 3}),
        ("status", {"value": 503, "times": 2}),
        ("status", {"value": 429, "at": 1, "times": 2}),
        ("norange", {}),
        ("stall", {"at": 1_000_000, "times": 2}),
    ],
)
def test_faults_that_pass(big: Big, kind: str, how: dict[str, int]) -> None:
    big.env["MODELSCOPE_DOWNLOAD_MAX_RETRIES"] = "3"
    big.env["MODELSCOPE_DOWNLOAD_TIMEOUT"] = "1"
    big.hub.inject(kind, BIG, **how)
    begin = time.monotonic()
    big.download()
    assert big.on_disk() == big.files
    assert big.leftovers() == []
    assert time.monotonic() - begin < 25


@pytest.mark.parametrize(
    ("kind", "how", "expected"),
    [
        ("status", {"value": 404}, (4, "files-missing", "the hub doesn't have it (HTTP 404)")),
        ("status", {"value": 401}, (4, "files-missing", "the hub refuses access (HTTP 401)")),
        ("status", {"value": 503}, (17, "hub-unreachable", "the hub answers HTTP 503")),
        ("html", {}, (13, "corrupt-on-arrival", "the hub sends another size than it lists")),
        (
            "length",
            {"value": 9},
            (13, "corrupt-on-arrival", "the hub sends another size than it lists"),
        ),
        (
            "corrupt",
            {"at": 9},
            (13, "corrupt-on-arrival", "the bytes don't have the listed sha256"),
        ),
        ("drop", {"at": 0}, (17, "hub-unreachable", "the connection failed")),
    ],
)
def test_faults_that_stay(
    big: Big, kind: str, how: dict[str, int], expected: tuple[int, str, str]
) -> None:
    big.hub.inject(kind, BIG, **how)
    code, word, why = expected
    assert big.fails() == (code, word, f"1 file could not be fetched from HUB ({BIG}: {why})")
    assert BIG not in big.on_disk()
    big.hub.faults.clear()
    before = big.hub.file_bytes(BIG)
    big.download()
    assert big.on_disk() == big.files
    assert big.hub.file_bytes(BIG) - before == len(big.files[BIG])
    assert big.leftovers() == []


def test_where_a_full_get_stalls_bounded_ranges_are_taken(site: Site) -> None:
    site.env["MODELSCOPE_DOWNLOAD_TIMEOUT"] = "1"
    site.hub.inject("stall", SHARD, at=1000, open_only=True)
    site.download(connections=1)
    assert site.on_disk() == site.files
    assert f"going on after: {SHARD}: the connection failed" in site.shown.said


def test_a_trickle_is_cut_and_asked_for_again(big: Big) -> None:
    big.env["MODELSCOPE_DOWNLOAD_MIN_BYTES_PER_SECOND"] = "1000000"
    big.env["MODELSCOPE_DOWNLOAD_LOW_SPEED_WINDOW_SECONDS"] = "1"
    big.hub.inject("trickle", BIG, times=1, at=1000, value=20_000)
    begin = time.monotonic()
    big.download()
    assert big.on_disk() == big.files
    assert time.monotonic() - begin < 15


def test_a_connection_far_behind_the_others_is_overtaken(hub: Hub, tmp_path: Path) -> None:
    """200 kB/s is steady and no fault, yet 16 MiB of it would take 84 s."""
    hub.per_connection = 8_000_000
    site = Big(hub, tmp_path)
    hub.inject("trickle", BIG, times=1, value=200_000)
    begin = time.monotonic()
    site.download()
    assert time.monotonic() - begin < 20
    assert site.on_disk() == site.files
    # Little was on its way when it was given up, and nothing is asked for twice.
    assert 0 <= hub.file_bytes(BIG) - len(site.files[BIG]) < 300_000


def test_a_stall_ends_sooner_than_a_late_first_byte(big: Big) -> None:
    big.hub.inject("stall", BIG, times=1, at=1_000_000)
    begin = time.monotonic()
    big.download()
    assert big.on_disk() == big.files
    assert 9 < time.monotonic() - begin < 25


def test_a_rate_limit_holds_over_all_connections(site: Site) -> None:
    begin = time.monotonic()
    site.download(limit=2_000_000)
    assert 1.3 < time.monotonic() - begin < 6
    assert site.on_disk() == site.files


def test_a_redirect_is_followed_once_and_without_the_token(big: Big) -> None:
    from tests.support.hub import Repo

    with Hub() as cdn:
        cdn.repos[REPO] = Repo(big.files)
        big.repo.token = "s3cret-token"
        big.repo.redirect = cdn.url.replace("127.0.0.1", "localhost")
        big.download(token="s3cret-token")
        assert big.on_disk() == big.files
        assert len([seen for seen in big.hub.log if seen.file == BIG]) <= 8
        assert not [seen for seen in cdn.log if "s3cret-token" in str(seen.headers)]
        assert len([seen for seen in cdn.log if seen.file == BIG]) >= 3


def test_patterns_pick_files_and_are_kept(big: Big) -> None:
    result = big.download(include=("*.json",), exclude=("quant*",))
    assert sorted(big.on_disk()) == ["config.json", "tokenizer.json"]
    assert result.manifest.selection == ("+*.json", "-quant*")
    big.download()
    assert big.on_disk() == big.files
    with pytest.raises(AscendV4Error) as caught:
        big.download(include=("*.gguf",))
    assert caught.value.message == (
        f"none of the {len(big.files)} files of {REPO} is picked by --include and --exclude"
    )
