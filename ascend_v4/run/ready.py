"""Ready means generated: one real completion, not a 200 from /health."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .http import request

if TYPE_CHECKING:
    from .transfer import Transfers

__all__ = ["GATES", "NOTHING_LISTENS", "Gate", "ReadyProbe"]

NOTHING_LISTENS = "nothing listens yet"

#: A check of answers: None when they are right, else what is wrong with them.
Gate = Callable[["ReadyProbe"], "str | None"]
#: Answer checks by name, put here by the part that has one.
GATES: dict[str, Gate] = {}


@dataclass
class ReadyProbe:
    """Asks a server whether it has generated a token.

    ``url`` is its base (``http://127.0.0.1:8000``), ``model`` the served name, ``key`` the
    API key or ``""``, ``timeout_s`` the seconds a completion may take. ``health`` is the
    path that must say 200 first; ``""`` for a proxy that has none. With ``transfers`` each
    completion has a prompt of its own that needs the KV cache of another server.
    """

    url: str
    model: str
    key: str = ""
    timeout_s: float = 60.0
    last: str = NOTHING_LISTENS
    health: str = "/health"
    transfers: Transfers | None = None

    def listening(self) -> bool:
        """Return whether anything accepts a connection."""
        url = urlsplit(self.url)
        try:
            socket.create_connection((url.hostname or "127.0.0.1", url.port or 80), 5.0).close()
        except OSError:
            return False
        return True

    def healthy(self, timeout_s: float = 5.0) -> bool:
        """Return whether ``/health`` says 200; no proof that the engine works."""
        if not self.health:
            return self.listening()
        try:
            status = request(self.url, self.health, key=self.key, timeout_s=timeout_s).status
        except ConnectionRefusedError:
            self.last = NOTHING_LISTENS
            return False
        except OSError as error:
            self.last = f"/health: {error}"
            return False
        self.last = f"/health says {status}"
        return status == 200

    def generated(self, timeout_s: float | None = None) -> bool:
        """Return whether the server answered one completion with at least one token.

        Never raises; ``last`` says why not.
        """
        if not self.healthy():
            return False
        prompt = self.transfers.prompt() if self.transfers else "Hello"
        body = {"model": self.model, "prompt": prompt, "max_tokens": 1, "temperature": 0}
        wait = timeout_s or self.timeout_s
        try:
            reply = request(self.url, "/v1/completions", body=body, key=self.key, timeout_s=wait)
            if reply.status != 200:
                text = reply.body[:200].decode(errors="replace")
                self.last = f"the completion was refused with {reply.status}: {text}"
                return False
            tokens = int(reply.json()["usage"]["completion_tokens"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.last = f"the completion failed: {type(error).__name__}: {error}"
            return False
        self.last = f"the completion had {tokens} tokens"
        return tokens >= 1
