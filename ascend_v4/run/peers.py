"""Servers on other nodes that a member can't do without.

Two ranks that a cut link has parted notice nothing: the head goes on answering with its
own ranks, and requests for the others wait for ever (observed 2026-11-24 with vLLM 0.32.0,
``--headless``). So a headless node asks its head, and a router's node asks its servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ascend_v4.errors import ExitCode

from .outcome import Failure
from .ready import NOTHING_LISTENS, ReadyProbe

__all__ = ["Answers", "Peers"]

#: Refusals in a row before they count as silence: a dying engine lets go of its port some
#: 15 s before its last process ends (observed 2026-11-24, vLLM 0.32.0 with NIXL).
PATIENCE = 6


@dataclass(frozen=True)
class Answers:
    """Which servers answered ``/health`` at all, by base URL, and which hosts refused.

    A refused connection is a host that is reached and a server that is gone: its own node
    says so, with the reason, as soon as the last process has ended.
    """

    by_url: dict[str, bool]
    refused: frozenset[str] = frozenset()


@dataclass
class Peers:
    """The judgement: one that was there, and then ``failures`` times gave no answer, is lost."""

    urls: Sequence[str]
    key: str = ""
    failures: int = 3
    failed: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)

    def ask(self, timeout_s: float) -> Answers:
        """Ask every server; waits for each at most ``timeout_s`` seconds."""
        found, refused = {}, set()
        for url in self.urls:
            probe = ReadyProbe(url, "", self.key)
            # A head that hangs is its own node's to judge: here any answer will do.
            found[url] = probe.healthy(timeout_s) or probe.last.startswith("/health says")
            if probe.last == NOTHING_LISTENS:
                refused.add(url)
        return Answers(found, frozenset(refused))

    def judge(self, answers: Answers, *, serving: bool = False) -> tuple[str, int]:
        """Return the server that failed most often in a row and how often, ``""`` and 0.

        Before its first answer a server is still starting, unless all are known to serve.
        """
        for url, answered in answers.by_url.items():
            if answered:
                self.failed[url] = self.refusals[url] = 0
            elif not (serving or url in self.failed):
                continue
            elif url in answers.refused and self.refusals.get(url, 0) < PATIENCE:
                self.refusals[url] = self.refusals.get(url, 0) + 1
            else:
                self.failed[url] = self.failed.get(url, 0) + 1
        return max(self.failed.items(), key=lambda pair: pair[1], default=("", 0))

    def lost(self, name: str, url: str, tail: list[str]) -> Failure:
        """Return the failure of a member that lost a server."""
        text = f"{name} lost the server at {url}: {self.failures} questions had no answer"
        hint = "see the network between the two nodes, and the log of the other"
        return Failure(int(ExitCode.UNREACHABLE), "peer-lost", text, hint, name, tail=tail)
