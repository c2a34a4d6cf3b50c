"""Prefill and decode apart: whether the KV cache really gets from one to the other.

Every server may be well and every one-token probe answered while nothing can be fetched
any more. Observed on 2026-11-24 with vLLM 0.32.0 and NIXL over TCP: with the transfers'
packets dropped, requests wait without an end (TCP gives up after some 15 minutes); once a
connection has failed, every later request ends with 500 until prefill and decode are
started again. So the router of such a deployment is asked with prompts that need a
transfer, and the decode servers are asked whether one took place.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from ascend_v4.errors import ExitCode

from .http import request
from .member import Member
from .outcome import Failure, hangs
from .ready import ReadyProbe

__all__ = ["Transfers", "parse_transferred", "unanswered"]

#: More tokens than a KV block of any release has; only whole blocks are moved.
WORDS = 80
#: Prompt tokens whose cache came from another server; vLLM 0.20 and later.
TRANSFERRED = re.compile(
    rb"^vllm:prompt_tokens_by_source_total\{[^\n]*"
    rb'source="external_kv_transfer"[^\n]*\} (\S+)$',
    re.MULTILINE,
)


def parse_transferred(metrics: bytes) -> bytes:
    """Return the counters of transferred tokens in a ``/metrics`` page, b"" without any."""
    return b" ".join(TRANSFERRED.findall(metrics))


class Transfers:
    """The decode servers at ``urls``, and what they last said of transferred tokens."""

    def __init__(self, urls: Sequence[str], key: str = "") -> None:
        self.urls, self.key = tuple(urls), key
        self.last: dict[str, bytes] = {}

    def prompt(self) -> str:
        """Return a prompt that no cache has yet and that is longer than a block."""
        return " ".join(f"{random.getrandbits(32):08x}" for _ in range(WORDS))

    def progress(self, timeout_s: float) -> bytes:
        """Return a value that differs when a transfer took place, b"" if no server tells.

        Waits at most ``timeout_s`` seconds for each server; what one doesn't tell this
        time stays as it was.
        """
        for url in self.urls:
            try:
                reply = request(url, "/metrics", key=self.key, timeout_s=timeout_s)
            except OSError:
                continue
            if reply.status == 200 and (found := parse_transferred(reply.body)):
                self.last[url] = found
        return b" ".join(self.last[url] for url in self.urls if url in self.last)


def unanswered(member: Member, probe: ReadyProbe | None, failed: int, *, healthy: bool) -> Failure:
    """Return the failure of a server that generates nothing, of a router without transfers."""
    if probe is None or probe.transfers is None:
        return hangs(member, failed, healthy=healthy)
    text = (
        f"{member.name}: {failed} prompts in a row got no answer, and no KV cache came to a"
        f" decode server; {probe.last}"
    )
    hint = "see the network between prefill and decode, and start the deployment again"
    code = int(ExitCode.HUNG)
    return Failure(code, "no-kv-transfer", text, hint, member.name, tail=member.tail.text())
