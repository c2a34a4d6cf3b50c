"""The way to the hub: a private CA and HTTP proxies, for both hubs."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ascend_v4.errors import AscendV4Error
from tests.support.hub import Hub
from tests.support.hub_hf import HuggingFace
from tests.support.hub_net import Proxy, private_ca

from .conftest import BIG, REPO, Big

VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
Make = Callable[..., Big]


class Behind(Big):
    """A site whose environment says nothing of CAs and proxies yet."""

    def __init__(self, hub: Hub, home: Path, hub_name: str) -> None:
        super().__init__(hub, home)
        self.hub_name = hub_name
        self.repo.commit = "c" * 40
        upper = tuple(name.upper() for name in PROXIES)
        for name in (*VARIABLES, *PROXIES, *upper, "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
            self.env.pop(name, None)

    def download(self, revision: str = "", repo: str = REPO, **more: object):  # type: ignore[no-untyped-def]
        moving = "main" if self.hub_name == "huggingface" else "master"
        return super().download(revision or moving, repo, **more)


@pytest.fixture(params=["modelscope", "huggingface"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as stack:

        def made(tls: ssl.SSLContext | None = None) -> Big:
            protocol = HuggingFace() if request.param == "huggingface" else None
            hub = stack.enter_context(Hub(protocol, tls=tls))
            return Behind(hub, tmp_path, request.param)

        yield made


@pytest.mark.parametrize("variable", VARIABLES[::2])
def test_either_variable_makes_a_private_ca_trusted(
    make: Make, tmp_path: Path, variable: str
) -> None:
    ca, context = private_ca(tmp_path)
    site = make(context)
    site.env[variable] = str(ca)
    site.download()
    assert site.on_disk() == site.files
    assert site.ranges(BIG)


def test_a_folder_of_cas(make: Make, tmp_path: Path) -> None:
    import subprocess

    ca, context = private_ca(tmp_path)
    folder = tmp_path / "trusted"
    folder.mkdir()
    words = ["openssl", "x509", "-hash", "-noout", "-in", str(ca)]
    name = subprocess.check_output(words, text=True).strip()
    (folder / f"{name}.0").write_bytes(ca.read_bytes())
    site = make(context)
    site.env["SSL_CERT_DIR"] = str(folder)
    site.download()
    assert site.on_disk() == site.files


def test_a_ca_that_is_not_trusted_is_the_cause_named(make: Make, tmp_path: Path) -> None:
    _, context = private_ca(tmp_path)
    site = make(context)
    assert site.fails() == (
        17,
        "hub-unreachable",
        f"{REPO} can't be listed on HUB: its certificate isn't trusted on this machine",
    )
    assert not site.directory.exists()


def test_a_ca_file_that_is_not_there(make: Make) -> None:
    site = make()
    site.env["SSL_CERT_FILE"] = "/nowhere/ca.pem"
    assert site.fails() == (
        2,
        "no-ca-file",
        "SSL_CERT_FILE names /nowhere/ca.pem, and there is no such file",
    )


def test_a_ca_file_without_a_certificate(make: Make, tmp_path: Path) -> None:
    site, junk = make(), tmp_path / "junk.pem"
    junk.write_text("no certificate\n")
    site.env["REQUESTS_CA_BUNDLE"] = str(junk)
    why = f"REQUESTS_CA_BUNDLE names {junk}, and it holds no certificate"
    assert site.fails() == (2, "no-ca-file", why)


def test_a_socks_proxy_needs_its_package(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make()
    monkeypatch.setattr("ascend_v4.weights.way.find_spec", lambda _name: None)
    site.env["ALL_PROXY"] = "socks5://127.0.0.1:9"
    why = "ALL_PROXY names a SOCKS proxy, for which a package is missing"
    assert site.fails() == (2, "socks-proxy", why)
    site.env["NO_PROXY"] = "127.0.0.1"
    if site.hub_name == "modelscope":
        site.download()
        assert site.on_disk() == site.files
    else:
        assert site.fails() == (2, "socks-proxy", why)


@pytest.mark.parametrize("login", ["", "me:s3cret"])
def test_https_goes_through_the_proxy(make: Make, tmp_path: Path, login: str) -> None:
    ca, context = private_ca(tmp_path)
    site = make(context)
    with Proxy(login) as proxy:
        site.env |= {"SSL_CERT_FILE": str(ca), "HTTPS_PROXY": proxy.url}
        site.download()
    assert site.on_disk() == site.files
    assert len(proxy.log) >= 3
    assert set(proxy.log) == {f"CONNECT {urlsplit(site.hub.url).netloc}"}


def test_http_goes_through_the_proxy(make: Make) -> None:
    site = make()
    with Proxy() as proxy:
        site.env["HTTP_PROXY"] = proxy.url
        site.download()
    assert site.on_disk() == site.files
    assert len(proxy.log) == len(site.hub.log)


def test_no_proxy_goes_past_it(make: Make) -> None:
    site = make()
    with Proxy() as proxy:
        site.env |= {"HTTP_PROXY": proxy.url, "NO_PROXY": "127.0.0.1"}
        site.download()
    assert site.on_disk() == site.files
    assert proxy.log == []


@pytest.mark.parametrize(
    ("login", "why"),
    [("", "the proxy can't be reached or refuses"), ("me:s3cret", "(HTTP 407)")],
)
def test_a_proxy_that_fails_is_the_cause_named(make: Make, login: str, why: str) -> None:
    site = make()
    with Proxy(login) as proxy:
        address = proxy.url.replace(f"{login}@", "me:wrong@") if login else "http://127.0.0.1:9"
        site.env["HTTP_PROXY"] = address
        with pytest.raises(AscendV4Error) as caught:
            site.download()
    error = caught.value
    assert (int(error.code), error.kind) == (17, "hub-unreachable")
    # What huggingface_hub raises for a dead proxy doesn't say that it is the proxy.
    assert why in error.message or (not login and site.hub_name == "huggingface")
    assert "HTTPS_PROXY" in error.next
