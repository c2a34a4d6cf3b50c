"""One small HTTP request to a server of ours, with the standard library only.

The supervisor stays small in memory without an HTTP client library, and proxies of the
environment are never asked: the server is local.
"""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple
from urllib.parse import urlsplit

__all__ = ["Reply", "request"]

MAX_BYTES = 8 * 1024 * 1024


class Reply(NamedTuple):
    """A reply: HTTP status and body."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON; raises ValueError."""
        return json.loads(self.body)


def request(
    base: str, path: str, *, body: object = None, key: str = "", timeout_s: float = 5.0
) -> Reply:
    """GET, or POST a JSON body, and return the reply; redirects are not followed.

    ``timeout_s`` bounds each wait for the server, in seconds. Raises OSError (also for
    a reply that isn't HTTP, and for a key that can't be in a header).
    """
    url = urlsplit(base)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "127.0.0.1", url.port, timeout=timeout_s)
    headers = {"Connection": "close"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
    try:
        connection.request("GET" if data is None else "POST", path, data, headers)
        reply = connection.getresponse()
        return Reply(reply.status, reply.read(MAX_BYTES))
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
