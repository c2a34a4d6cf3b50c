"""Whether another host answers on a TCP port."""

from __future__ import annotations

import socket
from typing import Literal

__all__ = ["tcp_reach"]


def tcp_reach(address: str, port: int, timeout_s: float) -> Literal["open", "closed", "silent"]:
    """Return ``open`` when something listens, ``closed`` when the host refuses (so it is
    there and no firewall swallows the packets), ``silent`` otherwise. Never raises.
    """
    try:
        with socket.create_connection((address, port), timeout=timeout_s):
            return "open"
    except ConnectionRefusedError:
        return "closed"
    except (OSError, UnicodeError, OverflowError):
        return "silent"
