"""A real sshd on a high port with keys of its own, and a client that knows only it."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.support.fake_tree_run import free_port, until

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def why_not() -> str:
    """Return why there can be no sshd here, ``""`` if there can."""
    if SSHD is None or shutil.which("ssh") is None:
        return "no OpenSSH server and client here"
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        # The directory that sshd, started by root, locks its unprivileged half into.
        Path("/run/sshd").mkdir(mode=0o755)
    return ""


def key(path: Path) -> Path:
    """Make a key pair."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


class Sshd:
    """An sshd below ``place`` on ``address``; ``env`` is what its commands see.

    ``words`` stand before its command, to run it on a node of a network.
    """

    def __init__(
        self, place: Path, env: Mapping[str, str], address: str, words: Sequence[str] = ()
    ) -> None:
        self.place, self.address = place, address
        self.port = free_port()
        self.host_key = key(place / "host_key")
        self.user_key = key(place / "user_key")
        shutil.copy(f"{self.user_key}.pub", place / "authorized_keys")
        pairs = " ".join(f'{name}="{value}"' for name, value in env.items())
        config = place / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress {address}\nHostKey {self.host_key}\n"
            f"AuthorizedKeysFile {place / 'authorized_keys'}\nPidFile {place / 'pid'}\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
            f"StrictModes no\nPermitRootLogin prohibit-password\nSetEnv {pairs}\n"
        )
        self.log = place / "sshd.log"
        self.process = subprocess.Popen(
            [*words, str(SSHD), "-D", "-f", str(config), "-E", str(self.log)],
            stdin=subprocess.DEVNULL,
        )
        until(lambda: "Server listening" in self.read_log(), 30)

    def read_log(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def known(self, other: Path | None = None) -> str:
        """Return the line of known_hosts for it, with the key of another if one is given."""
        kind, value, *_ = Path(f"{other or self.host_key}.pub").read_text().split()
        return f"[{self.address}]:{self.port} {kind} {value}\n"

    def destination(self) -> str:
        """Return how a topology reaches it."""
        return f"ssh://{getpass.getuser()}@{self.address}:{self.port}"

    def close(self) -> None:
        """End it with its sessions: one whose link was cut would wait for minutes."""
        sessions = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        self.process.wait(10)
        for session in sessions:
            with contextlib.suppress(psutil.NoSuchProcess):
                session.kill()


def client(place: Path, user_key: Path, known: str) -> str:
    """Return the ssh command of a user with one key who knows some hosts."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "known_hosts").write_text(known)
    config = place / "config"
    config.write_text(
        f"IdentityFile {user_key}\nIdentitiesOnly yes\nStrictHostKeyChecking yes\n"
        f"UserKnownHostsFile {place / 'known_hosts'}\nGlobalKnownHostsFile /dev/null\n"
    )
    return f"ssh -F {config}"
