"""Ready means generated: one real completion, not a 200 from /health."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

__all__ = ["ReadyProbe"]


@dataclass
class ReadyProbe:
    """Asks a server whether it has generated a token.

    ``url`` is its base (``http://127.0.0.1:8000``), ``model`` the served name, ``key`` the
    API key or ``""``, ``timeout_s`` the seconds a completion may take.
    """

    url: str
    model: str
    key: str = ""
    timeout_s: float = 60.0
    last: str = "nothing listens yet"

    def generated(self) -> bool:
        """Return whether the server answered one completion with at least one token.

        Never raises; ``last`` says why not.
        """
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        body = {"model": self.model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        # Proxies are for the internet; the server is ours and local.
        with httpx.Client(base_url=self.url, headers=headers, trust_env=False) as client:
            try:
                client.get("/health", timeout=5.0).raise_for_status()
                reply = client.post("/v1/completions", json=body, timeout=self.timeout_s)
                reply.raise_for_status()
                tokens = int(reply.json()["usage"]["completion_tokens"])
            except httpx.ConnectError:
                self.last = "nothing listens yet"
                return False
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                self.last = f"{type(error).__name__}: {error}"
                return False
        self.last = f"the completion had {tokens} tokens"
        return tokens >= 1
