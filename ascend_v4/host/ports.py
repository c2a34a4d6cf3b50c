"""Whether a TCP port can be taken, and who has it."""

from __future__ import annotations

import errno
import socket
from typing import NamedTuple

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host

__all__ = ["PortHolder", "holder_of_port", "port_free"]

UNKNOWN_HOLDER = "unknown holder"
# The address the caller gave can't be bound here, whoever holds the port.
_NOT_OURS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL)


class PortHolder(NamedTuple):
    """The process behind a port; ``pid`` is None where this user may not see it."""

    pid: int | None
    name: str


def holder_of_port(host: Host, port: int) -> PortHolder | None:
    """Return who listens on TCP ``port`` of this machine, None if no listener is seen.

    Without the right to look into other users' processes the pid is None and the name
    ``unknown holder``. The sockets are the real machine's whatever ``host.root``, only
    the name is looked up below it first. Never raises.
    """
    import psutil

    try:
        sockets = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return PortHolder(None, UNKNOWN_HOLDER)
    held = [s for s in sockets if s.laddr and s.laddr.port == port and s.status == "LISTEN"]
    pids = sorted({s.pid for s in held if s.pid})
    if not held:
        return None
    if not pids:
        return PortHolder(None, UNKNOWN_HOLDER)
    name = (host.read_text(f"/proc/{pids[0]}/comm") or "").strip()
    if not name:
        try:
            name = psutil.Process(pids[0]).name()
        except psutil.Error:
            name = UNKNOWN_HOLDER
    return PortHolder(pids[0], name)


def port_free(address: str, port: int) -> bool:
    """Whether a server could bind TCP ``port`` on ``address`` now; 0 is always free.

    Sees through SO_REUSEPORT: two vLLM servers of one user can share a port without an
    error, so the bind here asks for it alone. Connections of an earlier server
    that linger in TIME_WAIT do not count as taken.
    Raises AscendV4Error (usage, host not ready) if the address is not this
    host's or the port is reserved to root.
    """
    if not 0 <= port <= 65535:
        raise AscendV4Error(
            ExitCode.USAGE, "bad-port", f"{port} is no TCP port", "give --port 1024 to 65535"
        )
    family, where = _resolve(address, port)
    if _can_bind(family, where, reuse=False):
        return True
    # A bound socket that does not listen yet, as of a vLLM that is still loading,
    # shows in no table: only lingering connections may excuse the first failure.
    return _can_bind(family, where, reuse=True) and _lingering(port)


def _resolve(address: str, port: int) -> tuple[int, tuple[str, int]]:
    # vLLM binds every interface if --host is empty.
    try:
        found = socket.getaddrinfo(
            address or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise _bad_address(address, str(error)) from None
    family, _, _, _, where = found[0]
    return family, where  # type: ignore[return-value]


def _can_bind(family: int, where: tuple[str, int], reuse: bool) -> bool:
    """Bind and listen once; raises AscendV4Error where the port is not the reason."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if reuse:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
            probe.listen(1)
        except OSError as error:
            if error.errno in _NOT_OURS:
                raise _bad_address(where[0], error.strerror or str(error)) from None
            if error.errno in (errno.EACCES, errno.EPERM):
                raise AscendV4Error(
                    ExitCode.HOST_NOT_READY,
                    "port-forbidden",
                    f"this user may not bind port {where[1]}",
                    "use a port above 1023: --port 8000",
                ) from None
            return False
    return True


def _lingering(port: int) -> bool:
    """Whether closed or closing connections still carry ``port`` as their own."""
    import psutil

    try:
        sockets = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return False
    closing = {"TIME_WAIT", "FIN_WAIT1", "FIN_WAIT2", "CLOSE_WAIT", "LAST_ACK", "CLOSING"}
    return any(s.laddr and s.laddr.port == port and s.status in closing for s in sockets)


def _bad_address(address: str, cause: str) -> AscendV4Error:
    return AscendV4Error(
        ExitCode.USAGE,
        "bad-address",
        f"can't listen on {address!r}: {cause}",
        "give --host an address of this machine, such as 127.0.0.1 or 0.0.0.0",
    )
