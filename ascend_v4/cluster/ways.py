"""How a node is reached: over ssh, here, or through a command to prefix."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from ascend_v4.errors import ExitCode

if TYPE_CHECKING:
    from ascend_v4.host.system import Host
    from ascend_v4.topology.model import Node

__all__ = ["PROGRAM", "Way", "judge_end", "last_value", "way_of"]

#: The name of this program on other nodes.
PROGRAM = "ascend-v4"
#: A dead link shows after 15 s; no question is ever asked, so that nothing waits for ever.
SSH_OPTIONS = (
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=5"),
    *("-o", "ServerAliveCountMax=3"),
)
#: ssh's own exit status when it can't reach the host or loses it (ssh(1), EXIT STATUS).
SSH_FAILED = 255

#: What ssh says, and what to do about it; ``{to}`` is the destination.
#: https://man.openbsd.org/ssh and the messages of OpenSSH 9.2
HINTS = (
    ("permission denied", "put your public key there: ssh-copy-id {to}"),
    ("identification has changed", "if that is right: ssh-keygen -R {host}, then {ssh}"),
    ("host key verification failed", "look at the host's key once: {ssh}"),
    ("could not resolve", "write the node's address, or what ~/.ssh/config calls it, into connect"),
    ("connection refused", "start sshd there, or name the port: connect: ssh://user@host:port"),
    ("timed out", "see whether the machine is up and the address right: {ssh}"),
    ("no route to host", "see whether the machine is up and the address right: {ssh}"),
)


@dataclass(frozen=True)
class Way:
    """The words before a command that run it on a node; ``to`` is how people call the place."""

    node: str
    kind: Literal["ssh", "local", "exec"]
    words: tuple[str, ...]
    to: str
    program: tuple[str, ...] = (PROGRAM,)

    def argv(self, *command: str) -> list[str]:
        """Return the argument list that runs ``ascend-v4 COMMAND…`` on the node."""
        words = [*self.program, *command]
        if self.kind == "ssh":
            # ssh joins its arguments with spaces for the shell there.
            return [*self.words, shlex.join(words)]
        return [*self.words, *words]


def way_of(node: Node, host: Host, program: str = PROGRAM) -> Way:
    """Return the way to a node; ``$ASCEND_V4_SSH`` replaces the word ``ssh`` (``ssh -F FILE``)."""
    connect = node.connect or node.address
    if connect == "local":
        here = (sys.executable, "-m", "ascend_v4") if program == PROGRAM else (program,)
        return Way(node.name, "local", (), "this machine", here)
    if connect.startswith("exec:"):
        words = tuple(shlex.split(connect.removeprefix("exec:")))
        return Way(node.name, "exec", words, shlex.join(words), (program,))
    ssh = shlex.split(host.env.get("ASCEND_V4_SSH") or "ssh")
    return Way(node.name, "ssh", (*ssh, *SSH_OPTIONS, "--", connect), connect, (program,))


def judge_end(way: Way, status: int, lines: Sequence[str]) -> tuple[int, str, str, str] | None:
    """Return code, kind, cause and next step of a way that failed itself, None if it didn't.

    ``lines`` are the last that it said; ssh's own words are the last of them.
    """
    if status != SSH_FAILED or way.kind == "local":
        return None
    said = next((line.strip() for line in reversed(lines) if line.strip()), "no word")
    text = " ".join(lines[-20:]).lower()
    look = f"ssh {way.to}" if way.kind == "ssh" else f"{way.to} true"
    hint = next((hint for words, hint in HINTS if words in text), "try it by hand: {ssh}")
    hint = hint.replace("{to}", way.to).replace("{ssh}", look).replace("{host}", host_of(way.to))
    return int(ExitCode.UNREACHABLE), "unreachable", f"can't be reached ({way.to}): {said}", hint


def last_value(text: str, kind: type) -> Any:
    """Return the last JSON value of a kind (``dict``, ``list``) in what a node printed.

    A login shell may print before it, with or without an end of its line. None without one.
    """
    return next((value for value in reversed(list(values(text))) if type(value) is kind), None)


def values(text: str) -> Iterator[Any]:
    """Yield the JSON objects and lists in a text, outermost only."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        if text[at] in "{[":
            try:
                value, at = decoder.raw_decode(text, at)
            except ValueError:
                at += 1
                continue
            yield value
        else:
            at += 1


def host_of(destination: str) -> str:
    """Return the name that known_hosts has for an ssh destination."""
    if not destination.startswith("ssh://"):
        return destination.rpartition("@")[2]
    url = urlsplit(destination)
    return shlex.quote(f"[{url.hostname}]:{url.port}") if url.port else str(url.hostname)
