"""One small layer over the operating system.

Everything that runs a program, reads the environment or looks at the file system
of the *host* (not of the user's own files) goes through a :class:`Host`, so a test
can hand in a fake root, a fake ``PATH`` and a fake environment.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

__all__ = ["Completed", "Host", "descriptor_channel", "receive_descriptor", "send_descriptor"]


@dataclass(frozen=True)
class Completed:
    """What a finished program left: exit status (-1: not started, -2: timed out) and output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether the program ran and exited 0."""
        return self.returncode == 0


@dataclass(frozen=True)
class Host:
    """A host seen through a root directory and an environment.

    ``root`` prefixes every absolute path looked at (``/`` on the real machine);
    ``env`` is the environment that programs are found and run with.
    """

    root: Path = Path("/")
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def path(self, absolute: str) -> Path:
        """Return ``absolute`` (such as ``/dev/davinci0``) below this host's root."""
        return self.root / absolute.lstrip("/")

    def exists(self, absolute: str) -> bool:
        """Whether ``absolute`` exists below the root."""
        return self.path(absolute).exists()

    def glob(self, directory: str, pattern: str) -> list[Path]:
        """Return the sorted entries of ``directory`` that match ``pattern``."""
        try:
            return sorted(self.path(directory).glob(pattern))
        except OSError:
            return []

    def read_text(self, absolute: str) -> str | None:
        """Return the text of ``absolute``, or None if it can't be read."""
        try:
            return self.path(absolute).read_text(errors="replace")
        except OSError:
            return None

    def which(self, program: str) -> str | None:
        """Return the full path of ``program`` on this host's PATH, or None."""
        return shutil.which(program, path=self.env.get("PATH", os.defpath))

    def run(self, argv: Sequence[str], timeout_s: float = 30.0, stdin: str = "") -> Completed:
        """Run ``argv`` to its end and return what it printed; never raises for a failure.

        ``timeout_s`` is wall time in seconds; past it the program is killed. ``stdin`` is
        the text it reads, empty by default.
        """
        try:
            done = subprocess.run(
                list(argv),
                env=dict(self.env),
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Completed(tuple(argv), -2, "", f"no answer within {timeout_s:g} s")
        except OSError as error:
            return Completed(tuple(argv), -1, "", str(error))
        return Completed(tuple(argv), done.returncode, done.stdout, done.stderr)

    def spawn(
        self, argv: Sequence[str], errors: IO[bytes], keep_fds: Sequence[int] = ()
    ) -> subprocess.Popen[str]:
        """Start ``argv`` in a session of its own and return it, stdin and stdout as text pipes.

        What it says on stderr goes to the file ``errors``; ``keep_fds`` stay open in it.
        Being in another session, it doesn't get a terminal's Ctrl-C. Raises OSError.
        """
        return subprocess.Popen(
            list(argv),
            env=dict(self.env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            start_new_session=True,
            pass_fds=tuple(keep_fds),
        )


def descriptor_channel() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a channel over which open files can be handed to a child."""
    return socket.socketpair()


def send_descriptor(channel: socket.socket, descriptor: int) -> None:
    """Hand an open file to the process at the other end; it stays open here too."""
    socket.send_fds(channel, [b"d"], [descriptor])


def receive_descriptor(channel: int) -> int:
    """Return the open file that comes in over an inherited channel."""
    with socket.socket(fileno=os.dup(channel)) as end:
        return int(socket.recv_fds(end, 1, 1)[1][0])
