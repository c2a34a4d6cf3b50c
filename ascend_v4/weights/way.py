"""The way to a hub as the environment describes it: private CAs and proxies."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from ascend_v4.errors import AscendV4Error, ExitCode

__all__ = ["refuse_socks", "trusted"]

#: What names a private CA. requests looks at the first two only (requests 2.34,
#: sessions.py, ``merge_environment_settings``), what huggingface_hub uses at the others.
_CA = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
#: Hub -> the packages that its libraries and ours need for a SOCKS proxy.
_SOCKS = {"modelscope": ("socks",), "huggingface": ("socks", "socksio")}


def trusted(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to add so that all libraries trust the private CA that one names.

    Raises AscendV4Error (usage) for a CA that isn't there or holds no certificate.
    """
    given = [(name, env[name]) for name in _CA if env.get(name)]
    for name, value in given:
        _refuse_no_ca(name, Path(value))
    if not given:
        return {}
    value, found = given[0][1], {}
    if not any(name in _CA[:2] for name, _ in given):
        found["REQUESTS_CA_BUNDLE"] = value
    if not any(name in _CA[2:] for name, _ in given):
        found["SSL_CERT_DIR" if Path(value).is_dir() else "SSL_CERT_FILE"] = value
    return found


def _refuse_no_ca(name: str, path: Path) -> None:
    why = ""
    if not path.exists():
        why = "there is no such file"
    elif path.is_file():
        import ssl

        try:
            ssl.create_default_context(cafile=path)
        except OSError as error:
            bare = isinstance(error, ssl.SSLError)
            why = "it holds no certificate" if bare else (error.strerror or "it can't be read")
    if why:
        raise AscendV4Error(
            ExitCode.USAGE,
            "no-ca-file",
            f"{name} names {path}, and {why}",
            f"unset {name}, or let it name a file with the CA's certificate",
        )


def refuse_socks(env: Mapping[str, str], hub: str, endpoint: str) -> None:
    """Raise AscendV4Error (usage) where the way leads through a SOCKS proxy that can't be used.

    The libraries need packages for it that aren't among what ascend-v4 installs.
    """
    parts = urlsplit(endpoint)
    names = [f"{parts.scheme}_proxy", "all_proxy"]
    given = [(n, env[n]) for name in names for n in (name, name.upper()) if env.get(n)]
    if not given or not given[0][1].lower().startswith("socks"):
        return
    from requests.utils import should_bypass_proxies

    past = env.get("no_proxy") or env.get("NO_PROXY")
    # huggingface_hub's library wants the package whatever NO_PROXY says.
    if hub == "modelscope" and past and should_bypass_proxies(endpoint, past):
        return
    lacking = [package for package in _SOCKS[hub] if find_spec(package) is None]
    if lacking:
        packages = {"socks": "PySocks", "socksio": "socksio"}
        raise AscendV4Error(
            ExitCode.USAGE,
            "socks-proxy",
            f"{given[0][0]} names a SOCKS proxy, for which a package is missing",
            f"pip install {' '.join(packages[name] for name in lacking)}, or name an HTTP proxy",
        )
