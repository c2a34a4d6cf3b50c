"""What a start is made of: its members, and how they are watched."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .ready import Gate, ReadyProbe

if TYPE_CHECKING:
    from .lease import Lease
    from .remote import Remote

__all__ = ["FAIL_GRACE_S", "Options", "Spec", "front_probe"]

#: What the others get when one member failed.
FAIL_GRACE_S = 5.0


@dataclass(frozen=True)
class Spec:
    """One member to start: full path and arguments, environment, how to know it is ready.

    ``cleanup`` are commands for what is no process of ours, such as a container: ``sh -c``,
    a script that fails until it is gone, what it is called, and more words of the script.
    ``peers`` are base URLs of servers on other nodes that it needs while it serves.
    ``remote`` listens to a member that is a launcher itself. ``cuts_requests`` marks a server
    that must be idle before it is asked to end, see drain.py. A member without probe and
    remote is ready once it runs, one of role ``headless`` once its engine has loaded.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    probe: ReadyProbe | None = None
    starts_after: tuple[str, ...] = ()
    cleanup: tuple[tuple[str, ...], ...] = ()
    role: str = "mixed"
    peers: tuple[str, ...] = ()
    remote: Remote | None = None
    cuts_requests: bool = False

    @property
    def fronts(self) -> bool:
        """Whether it stands before the other members and takes what is for them."""
        return self.role == "router" or (self.remote is not None and self.remote.fronts)

    @property
    def tells_loading(self) -> bool:
        """Whether only its log tells that the engine has loaded, and does tell it."""
        level = self.env.get("VLLM_LOGGING_LEVEL", "INFO").upper()
        silent = level not in ("INFO", "DEBUG") or self.env.get("VLLM_CONFIGURE_LOGGING") == "0"
        return self.role == "headless" and not silent

    @property
    def may_end(self) -> bool:
        """Whether an end with 0 is the user's wish: a rank or a node alone never ends so.

        ``vllm serve --headless`` exits 0 when its engine core was killed (observed
        2026-11-24 with vLLM 0.32.0).
        """
        return self.role not in ("headless", "node")


@dataclass(frozen=True)
class Options:
    """How a run is watched; times in seconds.

    When one member fails the others get ``fail_signal`` and ``fail_grace_s``. Members that
    are launchers themselves get ``end_s`` after QUIT to end their own, before a KILL.
    """

    deadline_s: float = 1800.0
    drain_s: float = 60.0
    ready_check: str = "generate"
    gate: Gate | None = None
    probe_interval_s: float = 30.0
    probe_timeout_s: float = 15.0
    probe_failures: int = 3
    fail_signal: int = signal.SIGTERM
    fail_grace_s: float = FAIL_GRACE_S
    end_s: float = 0.0
    lease: Lease | None = None


def front_probe(specs: Sequence[Spec]) -> ReadyProbe | None:
    """Return the probe of what clients talk to: the router, else the first server."""
    probes = [spec.probe for spec in specs if spec.probe and spec.role == "router"]
    probes += [spec.probe for spec in specs if spec.probe]
    return probes[0] if probes else None
