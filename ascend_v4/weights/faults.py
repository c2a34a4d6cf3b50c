"""What the hub's client can fail with, and the error each becomes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ascend_v4.errors import AscendV4Error, ExitCode

__all__ = ["AGAIN", "Fault", "fetch_error", "listing_error"]

AGAIN = "run the same command again; finished files and parts are kept"
#: What is between here and the hub -> what to do about it.
_WAYS = {
    "tls": "export SSL_CERT_FILE=FILE with the certificate of the CA that signed it",
    "proxy": "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
}


class Fault(NamedTuple):
    """One failure: the file (``""`` for none), its kind, the HTTP status and a detail.

    Kinds: ``denied missing server network proxy tls not-json size hash disk other``.
    """

    path: str
    kind: str
    status: int | None
    detail: str

    @classmethod
    def read(cls, faults: Iterable[dict[str, Any]]) -> list[Fault]:
        """Return the faults of a child's ``failed`` event."""
        return [cls(f["path"], f["kind"], f["status"], str(f["detail"])) for f in faults]

    def says(self) -> str:
        """Return what happened in a few words."""
        words = {
            "denied": f"the hub refuses access (HTTP {self.status})",
            "missing": f"the hub doesn't have it (HTTP {self.status})",
            "server": f"the hub answers HTTP {self.status}",
            "network": "the connection failed",
            "proxy": "the proxy can't be reached or refuses"
            + (f" (HTTP {self.status})" if self.status else ""),
            "tls": "its certificate isn't trusted on this machine",
            "not-json": "the answer is not the hub's: a login page or a proxy",
            "size": "the hub sends another size than it lists",
            "hash": "the bytes don't have the listed sha256",
            "disk": self.detail,
        }
        return words.get(self.kind, self.detail)


def listing_error(fault: Fault, repo: str, revision: str, endpoint: str) -> AscendV4Error:
    """Return the error for a listing that failed."""
    if fault.kind == "denied":
        return AscendV4Error(
            ExitCode.USAGE,
            "not-authorised",
            f"{endpoint} refuses access to {repo} (HTTP {fault.status})",
            "give a token that may read it: --token-file FILE or MODELSCOPE_API_TOKEN",
        )
    if fault.kind == "missing":
        return AscendV4Error(
            ExitCode.USAGE,
            "not-on-hub",
            f"{endpoint} has no model {repo} with revision {revision}, or it is private",
            "check --model and --revision; a private model needs --token-file",
        )
    if fault.kind in ("server", "network", "not-json", *_WAYS):
        then = "check the network and the proxy (HTTPS_PROXY), or name a mirror with --endpoint"
        return AscendV4Error(
            ExitCode.UNREACHABLE,
            "hub-unreachable",
            f"{repo} can't be listed on {endpoint}: {fault.says()}",
            _WAYS.get(fault.kind, then),
        )
    return AscendV4Error(
        ExitCode.FAULT, "listing-failed", f"listing {repo} failed: {fault.says()}", AGAIN
    )


#: The most telling first: what to do about a full disk comes before anything else.
_FETCH: Sequence[tuple[tuple[str, ...], ExitCode, str, str]] = (
    (("disk",), ExitCode.HOST_NOT_READY, "cannot-write", "make room or choose another --dir"),
    (("size", "hash"), ExitCode.WEIGHTS_CORRUPT, "corrupt-on-arrival", AGAIN),
    (("denied", "missing"), ExitCode.WEIGHTS_INCOMPLETE, "files-missing", AGAIN),
    *(((kind,), ExitCode.UNREACHABLE, "hub-unreachable", then) for kind, then in _WAYS.items()),
    (("server", "network", "not-json"), ExitCode.UNREACHABLE, "hub-unreachable", AGAIN),
)


def fetch_error(faults: Sequence[Fault], endpoint: str) -> AscendV4Error:
    """Return the one error for files that couldn't be fetched."""
    for kinds, code, word, then in _FETCH:
        found = [fault for fault in faults if fault.kind in kinds]
        if found:
            return AscendV4Error(code, word, _sentence(found, len(faults), endpoint), then)
    return AscendV4Error(
        ExitCode.FAULT, "download-failed", _sentence(faults, len(faults), endpoint), AGAIN
    )


def _sentence(found: Sequence[Fault], failed: int, endpoint: str) -> str:
    """Return the count, the first three files and why."""
    first = ", ".join(f"{fault.path or 'the client'}: {fault.says()}" for fault in found[:3])
    more = f" and {failed - 3} more" if failed > 3 else ""
    files = "1 file" if failed == 1 else f"{failed} files"
    return f"{files} could not be fetched from {endpoint} ({first}{more})"
