"""Nodes as network namespaces of one machine, on one bridge: each has its own address."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``ip``; raises CalledProcessError with what it said."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Net:
    """Some namespaces ``NAME0``, ``NAME1`` … with the addresses 10.77.X.1, 10.77.X.2 …"""

    name: str
    octet: int
    count: int

    def space(self, node: int) -> str:
        return f"{self.name}{node}"

    def address(self, node: int) -> str:
        return f"10.77.{self.octet}.{node + 1}"

    def words(self, node: int) -> list[str]:
        """Return the words before a command that run it on a node."""
        return ["ip", "netns", "exec", self.space(node)]

    def cut(self, node: int) -> None:
        """Pull the plug of a node."""
        ip("-n", self.space(node), "link", "set", "eth0", "down")

    def hold_back(self, *ports: int) -> None:
        """Drop what TCP brings from other nodes, but not to or from these ports."""
        for node in range(self.count):
            rule = ("-n", self.space(node), "rule")
            ip(*rule, "add", "pref", "30", "lookup", "local")
            for port in ports:
                for way in ("dport", "sport"):
                    let = ["iif", "eth0", "ipproto", "tcp", way, str(port), "lookup", "local"]
                    ip(*rule, "add", "pref", "10", *let)
            ip(*rule, "add", "pref", "20", "iif", "eth0", "ipproto", "tcp", "blackhole")
            ip(*rule, "del", "pref", "0")

    def let_through(self) -> None:
        """End what :meth:`hold_back` began."""
        for node in range(self.count):
            rule = ("-n", self.space(node), "rule")
            ip(*rule, "flush")
            for pref, table in (("0", "local"), ("32766", "main"), ("32767", "default")):
                ip(*rule, "add", "pref", pref, "lookup", table)

    def pids(self, node: int) -> list[int]:
        """Return every process on a node."""
        done = subprocess.run(
            ["ip", "netns", "pids", self.space(node)], capture_output=True, text=True, check=False
        )
        return [int(word) for word in done.stdout.split()]

    def make(self) -> None:
        ip("link", "add", self.name, "type", "bridge")
        ip("addr", "add", f"10.77.{self.octet}.254/24", "dev", self.name)
        ip("link", "set", self.name, "up")
        for node in range(self.count):
            space, outer = self.space(node), f"{self.name}v{node}"
            ip("netns", "add", space)
            peer = ["peer", "name", "eth0", "netns", space]
            ip("link", "add", outer, "type", "veth", *peer)
            ip("link", "set", outer, "master", self.name, "up")
            ip("-n", space, "addr", "add", f"{self.address(node)}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                ip("-n", space, "link", "set", device, "up")

    def remove(self) -> None:
        for node in range(self.count):
            # The kernel keeps a space while a connection of it waits for its other end.
            for words in (
                ("link", "del", f"{self.name}v{node}"),
                ("netns", "del", self.space(node)),
            ):
                with contextlib.suppress(subprocess.CalledProcessError):
                    ip(*words)
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("link", "del", self.name)


def why_not() -> str:
    """Return why there can be no namespaces here, ``""`` if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "curl"):
        if shutil.which(tool) is None:
            return f"there is no {tool} here"
    probe = Net(f"p{secrets.token_hex(2)}", 0, 1)
    try:
        probe.make()
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    finally:
        probe.remove()
    return ""


@contextlib.contextmanager
def network(count: int) -> Iterator[Net]:
    """Make ``count`` nodes, and remove them at the end."""
    net = Net(f"a{secrets.token_hex(2)}", secrets.randbelow(200) + 10, count)
    try:
        net.make()
        yield net
    finally:
        net.remove()
