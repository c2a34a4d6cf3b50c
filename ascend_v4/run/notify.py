"""Telling scripts and systemd: a descriptor, a file, the notify socket.

Protocol of sd_notify: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .state import write_atomic

__all__ = ["Notifier", "sd_notify"]


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


@dataclass
class Notifier:
    """Who wants to hear: ``fd`` gets one line and is closed, ``file`` appears when ready and
    goes when not, ``address`` is ``$NOTIFY_SOCKET``. Nobody hears when all are absent.
    """

    fd: int | None = None
    file: Path | None = None
    address: str = ""

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
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.unlink()
        sd_notify(self.address, *(["STOPPING=1"] if stopping else []), f"STATUS={text}")
