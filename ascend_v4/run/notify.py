"""Telling scripts and systemd: a descriptor, a file, the notify socket.

Protocol of sd_notify: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .state import write_atomic

__all__ = ["Notifier", "Watchdog", "sd_notify", "watchdog_period"]


def sd_notify(address: str, *lines: str) -> bool:
    """Send state lines (``READY=1``) to systemd; False when nobody listens."""
    if not address or address[0] not in "/@":
        return False
    where = "\0" + address[1:] if address[0] == "@" else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(1.0)
            sock.sendto("\n".join(lines).encode(), where)
    except OSError:
        return False
    return True


def watchdog_period(env: Mapping[str, str], pid: int) -> float:
    """Return how often systemd wants to hear that we live, seconds; 0 when it doesn't.

    Half of what it allows, as sd_watchdog_enabled(3) asks for.
    """
    wanted, meant = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", str(pid))
    return int(wanted) / 2e6 if wanted.isdecimal() and meant == str(pid) else 0.0


@dataclass
class Notifier:
    """Who wants to hear: ``fd`` gets one line and is closed, ``file`` appears when ready and
    goes when not, ``address`` is ``$NOTIFY_SOCKET``, which hears every ``watchdog_s`` seconds
    that we live. Nobody hears when all are absent.
    """

    fd: int | None = None
    file: Path | None = None
    address: str = ""
    watchdog_s: float = 0.0

    @classmethod
    def of(cls, fd: int | None, file: Path | None, env: Mapping[str, str]) -> Notifier:
        """Return who wants to hear, systemd as its variables say."""
        return cls(fd, file, env.get("NOTIFY_SOCKET", ""), watchdog_period(env, os.getpid()))

    def forget(self) -> None:
        """Take away a ready file that says what no longer holds."""
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.unlink()

    def status(self, text: str) -> None:
        """Tell systemd what is being done; also asks for more time to start."""
        if self.address:
            sd_notify(self.address, f"STATUS={text}", "EXTEND_TIMEOUT_USEC=90000000")

    def ready(self, news: Mapping[str, Any]) -> None:
        """Tell everyone that the server is ready."""
        if self.file is not None:
            with contextlib.suppress(OSError):
                write_atomic(self.file, dict(news))
        if self.fd is not None:
            with contextlib.suppress(OSError):
                os.write(self.fd, json.dumps(dict(news)).encode() + b"\n")
            with contextlib.suppress(OSError):
                os.close(self.fd)
            self.fd = None
        sd_notify(self.address, "READY=1", f"STATUS=serving {news.get('endpoint', '')}")

    def not_ready(self, text: str, *, stopping: bool = False) -> None:
        """Take the ready file away, and tell systemd."""
        self.forget()
        sd_notify(self.address, *(["STOPPING=1"] if stopping else []), f"STATUS={text}")


class Watchdog:
    """Tells systemd that we live, as long as ``healthy`` says so; a context manager.

    A thread of its own, because the loop that it vouches for may sleep for longer than
    systemd's patience. ``healthy`` is called from that thread.
    """

    def __init__(self, notifier: Notifier, healthy: Callable[[], bool]) -> None:
        self.notifier, self.healthy = notifier, healthy
        self.over = threading.Event()

    def __enter__(self) -> Watchdog:
        """Begin, if systemd asked for it."""
        if self.notifier.address and self.notifier.watchdog_s > 0:
            threading.Thread(target=self._feed, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.over.set()

    def _feed(self) -> None:
        while not self.over.wait(self.notifier.watchdog_s):
            if self.healthy():
                sd_notify(self.notifier.address, "WATCHDOG=1")
