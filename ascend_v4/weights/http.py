"""One connection to a hub: requests for bounded ranges, and what may come back.

It stands on ``requests``, as the ModelScope client does, so both take the same
``HTTPS_PROXY``, ``NO_PROXY`` and ``REQUESTS_CA_BUNDLE``. Addresses and credentials of
files come from the hubs' own libraries.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .classify import Answer

__all__ = ["Body", "Remote", "Wire"]

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
#: The host whose answer says that a cached address is no good any more.
_EXPIRED = (400, 401, 403, 404, 410)


@dataclass
class Remote:
    """Where files are: ``url`` gives a path's address, ``headers`` go to the hub's host only.

    Timeouts are seconds: to connect, until the first byte and (``stall_s``) without
    another one. A connection slower than ``floor`` bytes a second over ``window_s`` is
    given up for a new one.
    """

    url: Callable[[str], str]
    headers: Mapping[str, str]
    connect_s: float = 10.0
    idle_s: float = 30.0
    stall_s: float = 10.0
    floor: int = 1024
    window_s: float = 60.0
    #: Path -> the address that the hub redirected to, asked directly from then on.
    moved: dict[str, str] = field(default_factory=dict)


class Body:
    """The body of an answer; ``whole`` when it is the whole file, not the range."""

    def __init__(self, answer: Any, remote: Remote, whole: bool) -> None:
        self._raw, self._remote, self.whole = answer.raw, remote, whole
        self._since, self._got = time.monotonic(), 0

    def read(self, most: int) -> bytes:
        """Return bytes as soon as there are some, ``b""`` at the end."""
        data: bytes = self._raw.read1(most, decode_content=False)
        self._got += len(data)
        elapsed = time.monotonic() - self._since
        if elapsed > self._remote.window_s:
            if self._got < self._remote.floor * elapsed:
                raise Answer("network", None, "the connection is too slow")
            self._since, self._got = time.monotonic(), 0
        return data


class Wire:
    """One thread's connection."""

    def __init__(self, remote: Remote) -> None:
        import requests

        self._remote = remote
        self._session = requests.Session()
        self._session.headers.clear()
        # Anything callable keeps requests from looking for a password in ~/.netrc.
        self._session.auth = lambda request: request

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    @contextmanager
    def get(self, path: str, start: int, end: int, size: int) -> Iterator[Body]:
        """Ask for bytes ``start`` up to, without, ``end`` of a file of ``size`` bytes.

        Raises Answer for an answer that isn't those bytes, and the library's own errors.
        """
        remote = self._remote
        hub = remote.url(path)
        address = remote.moved.get(path, hub)
        near = urlsplit(address).netloc == urlsplit(hub).netloc
        headers = {"Accept-Encoding": "identity", "User-Agent": "ascend-v4"}
        headers |= {**(remote.headers if near else {}), "Range": f"bytes={start}-{end - 1}"}
        times = (remote.connect_s, remote.idle_s)
        with self._session.get(address, headers=headers, timeout=times, stream=True) as answer:
            if answer.history:
                remote.moved[path] = answer.url
            elif address != hub and answer.status_code in _EXPIRED:
                remote.moved.pop(path, None)
                raise Answer("server", answer.status_code, "the address has expired")
            whole = _is_whole(answer, start, size)
            # A hub may take its time for the first byte, hardly for another one. Without
            # a socket to tell, ``idle_s`` holds on.
            with suppress(AttributeError, OSError):
                answer.raw.connection.sock.settimeout(remote.stall_s)
            yield Body(answer, remote, whole)


def _is_whole(answer: Any, start: int, size: int) -> bool:
    """Return whether an answer is the whole file (or else the range asked for).

    Raises Answer when it is neither.
    """
    status, headers = answer.status_code, answer.headers
    if status == 206:
        found = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != start:
            raise Answer("network", status, "it sends another range")
        if found[3] not in ("*", str(size)):
            raise Answer("size", status, "another size")
        return False
    if status == 200:
        length = headers.get("Content-Length")
        if length is None or int(length) != size:
            raise Answer("size", status, "another size")
        return True
    raise _refused(status, headers)


def _refused(status: int, headers: Mapping[str, str]) -> Answer:
    """Return the error for a status that brings no bytes."""
    if status in (401, 403):
        return Answer("denied", status, "")
    if status in (404, 410):
        return Answer("missing", status, "")
    if status == 407:
        return Answer("proxy", status, "")
    if status == 416:
        return Answer("size", status, "another size")
    wait = None
    with suppress(ValueError):
        wait = float(headers.get("Retry-After", ""))
    return Answer("server", status, "", wait)
