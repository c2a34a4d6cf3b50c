"""Hubs that misbehave: the right exit code, a sentence, and nothing that claims to be whole."""

from __future__ import annotations

import pytest

from .conftest import INDEX, REPO, SHARD, Site

SIZE = 1 << 20


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (
            ("status", {"value": 404}),
            (2, "not-on-hub", f"HUB has no model {REPO} with revision master, or it is private"),
        ),
        (
            ("status", {"value": 403}),
            (2, "not-authorised", f"HUB refuses access to {REPO} (HTTP 403)"),
        ),
        (
            ("status", {"value": 503}),
            (17, "hub-unreachable", f"{REPO} can't be listed on HUB: the hub answers HTTP 503"),
        ),
        (
            ("html", {}),
            (
                17,
                "hub-unreachable",
                f"{REPO} can't be listed on HUB: "
                "the answer is not the hub's: a login page or a proxy",
            ),
        ),
        *(
            (
                (kind, {}),
                (
                    17,
                    "empty-listing",
                    f"HUB lists no files for {REPO} at revision master: "
                    "the request failed on the hub, or the repository is empty",
                ),
            )
            for kind in ("refuse", "empty")
        ),
    ],
)
def test_a_listing_that_fails(
    site: Site, fault: tuple[str, dict[str, int]], expected: tuple[int, str, str]
) -> None:
    site.hub.inject(fault[0], "listing", **fault[1])
    assert site.fails() == expected
    assert not site.directory.exists()


def test_a_hub_that_is_down(site: Site) -> None:
    site.hub.__exit__()
    code, kind, message = site.fails()
    assert (code, kind) == (17, "hub-unreachable")
    assert message == f"{REPO} can't be listed on HUB: the connection failed"


@pytest.mark.parametrize("path", ["../evil.json", "/etc/evil", "a/../../b", "a\\b", ".ascend-v4/x"])
def test_a_path_that_leaves_the_directory(site: Site, path: str) -> None:
    site.repo.extra = [{"Path": path, "Type": "blob", "Size": 3}]
    assert site.fails() == (
        3,
        "unsafe-listing",
        f"the listing of {REPO} names the file {path!r}, outside the directory; "
        "nothing was downloaded",
    )
    assert not site.directory.exists()


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        ("config.json", "it has no config.json"),
        ("tokenizer.json", "it has no tokenizer.json"),
        (INDEX, "3 shards and no *.safetensors.index.json"),
        (
            "quant_model_description.json",
            "it is quantised and has no quant_model_description.json",
        ),
        (SHARD, f"{INDEX} names {SHARD}, which the hub doesn't list"),
    ],
)
def test_a_listing_that_lacks_a_part(site: Site, gone: str, says: str) -> None:
    del site.repo.files[gone]
    assert site.fails() == (
        4,
        "listing-incomplete",
        f"{REPO} as the hub lists it is not a whole checkpoint: {says}",
    )
    assert not [path for path in site.on_disk() if path.startswith("quant_model_weights-")]


@pytest.mark.parametrize(
    ("kind", "how", "expected"),
    [
        ("status", {"value": 404}, (4, "files-missing", "the hub doesn't have it (HTTP 404)")),
        ("status", {"value": 403}, (4, "files-missing", "the hub refuses access (HTTP 403)")),
        ("status", {"value": 503}, (17, "hub-unreachable", "the hub answers HTTP 503")),
        ("html", {}, (13, "corrupt-on-arrival", "the hub sends another size than it lists")),
        (
            "corrupt",
            {"at": 1234},
            (13, "corrupt-on-arrival", "the bytes don't have the listed sha256"),
        ),
        (
            "length",
            {"value": 1000},
            (13, "corrupt-on-arrival", "the hub sends another size than it lists"),
        ),
        ("drop", {"at": 0}, (17, "hub-unreachable", "the connection failed")),
        ("reset", {"at": 0}, (17, "hub-unreachable", "the connection failed")),
    ],
)
def test_a_file_that_cannot_be_had(
    site: Site, kind: str, how: dict[str, int], expected: tuple[int, str, str]
) -> None:
    site.hub.inject(kind, SHARD, **how)
    code, word, why = expected
    assert site.fails() == (code, word, f"1 file could not be fetched from HUB ({SHARD}: {why})")
    there = {path: body for path, body in site.on_disk().items() if path != f"{SHARD}.incomplete"}
    assert there == {path: body for path, body in site.files.items() if path != SHARD}


def test_after_a_failure_only_the_missing_file_is_fetched(site: Site) -> None:
    site.hub.inject("status", SHARD, value=404, times=1)
    site.fails()
    before = site.hub.file_bytes()
    assert site.download().fetched == SIZE
    assert site.on_disk() == site.files
    assert site.hub.file_bytes() - before == SIZE


def test_faults_that_pass_are_got_over(site: Site) -> None:
    first, second, third = (path for path in sorted(site.files) if path.startswith(SHARD[:21]))
    site.hub.inject("corrupt", first, times=1, at=1234)
    site.hub.inject("drop", second, times=1, at=600_000)
    site.hub.inject("reset", third, times=1, at=600_000)
    site.hub.inject("status", "config.json", times=1, value=503)
    site.hub.inject("length", "tokenizer.json", times=1, value=-5)
    site.download()
    assert site.on_disk() == site.files
    assert site.hub.file_bytes(first) == 2 * SIZE
    assert site.hub.file_bytes(second) == SIZE


def test_an_index_that_is_not_one(site: Site) -> None:
    site.repo.files[INDEX] = b"[]"
    code, kind, message = site.fails()
    assert (code, kind) == (13, "index-unreadable")
    assert message.startswith(f"{site.directory / INDEX} is not a safetensors index: ")


def test_a_token_opens_a_private_repository(site: Site) -> None:
    site.repo.token = "s3cret-token"
    assert site.fails()[:2] == (2, "not-authorised")
    assert site.fails(token="wrong")[:2] == (2, "not-authorised")
    site.download(token="s3cret-token")
    assert site.on_disk() == site.files


def test_a_login_stored_for_the_official_hub_is_not_sent_to_a_mirror(site: Site) -> None:
    import subprocess
    import sys

    login = "from modelscope_hub.config import HubConfig; HubConfig().save_token('stored-login')"
    subprocess.run([sys.executable, "-c", login], env=site.env, check=True)
    site.download()
    sent = [str(seen.headers) for seen in site.hub.log]
    assert sent
    assert not [headers for headers in sent if "stored-login" in headers]
