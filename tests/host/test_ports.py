"""Ports: real sockets of this machine, in every state a server leaves them in."""

import os
import socket
import subprocess
import sys

import psutil
import pytest

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.ports import PortHolder, holder_of_port, port_free
from ascend_v4.host.system import Host


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_listener_takes_its_port_on_every_address(listener):
    port = listener.getsockname()[1]
    assert [port_free(where, port) for where in ("127.0.0.1", "0.0.0.0", "", "localhost")] == [
        False,
        False,
        False,
        False,
    ]
    listener.close()
    assert port_free("127.0.0.1", port)


def test_port_zero_is_free():
    assert port_free("127.0.0.1", 0)


@pytest.mark.parametrize("listening", [True, False])
def test_a_port_shared_by_reuse_is_taken(listening):
    """Loading vLLM binds with both reuse options long before it listens."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        if listening:
            held.listen(1)
        assert not port_free("127.0.0.1", held.getsockname()[1])


def test_connections_in_time_wait_do_not_hold_the_port(listener):
    port = listener.getsockname()[1]
    client = socket.create_connection(("127.0.0.1", port))
    served, _ = listener.accept()
    # The side that closes first is the one that lingers.
    served.close()
    client.close()
    listener.close()
    states = {s.status for s in psutil.net_connections("tcp") if s.laddr and s.laddr.port == port}
    assert states == {"TIME_WAIT"}
    assert port_free("127.0.0.1", port)


@pytest.mark.parametrize(
    ("address", "port", "kind"),
    [
        ("192.0.2.1", 8000, "bad-address"),
        ("no such host", 8000, "bad-address"),
        ("127.0.0.1", 70000, "bad-port"),
        ("127.0.0.1", -1, "bad-port"),
    ],
)
def test_what_can_not_be_bound_at_all_is_a_usage_error(address, port, kind):
    with pytest.raises(AscendV4Error) as caught:
        port_free(address, port)
    assert (caught.value.code, caught.value.kind) == (ExitCode.USAGE, kind)


def test_holder_is_the_process_that_listens(listener):
    holder = holder_of_port(Host(), listener.getsockname()[1])
    assert holder == PortHolder(os.getpid(), psutil.Process().name())


def test_nobody_holds_a_free_port(listener):
    port = listener.getsockname()[1]
    listener.close()
    assert holder_of_port(Host(), port) is None


UNPRIVILEGED = """
import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from ascend_v4.host.ports import holder_of_port, port_free
from ascend_v4.host.system import Host
port = int(sys.argv[1])
print(tuple(holder_of_port(Host(), port)), port_free("127.0.0.1", port))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_users_process_is_an_unknown_holder(listener):
    # Modules are loaded before the privileges go: the checkout may be closed to others.
    script = "import encodings.idna, psutil, ascend_v4.host.ports\n" + UNPRIVILEGED
    port = str(listener.getsockname()[1])
    done = subprocess.run(
        [sys.executable, "-c", script, port],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("(None, 'unknown holder') False\n", "")


def test_a_refusal_to_list_sockets_is_an_unknown_holder(monkeypatch):
    def refuse(kind):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refuse)
    assert holder_of_port(Host(), 8000) == PortHolder(None, "unknown holder")
