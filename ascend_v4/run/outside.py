"""Commands that end what is no process of ours, such as a container; standard library only."""

from __future__ import annotations

import os
import signal
import time

__all__ = ["asking_docker", "succeeds"]

#: Seconds that such a command may take.
OUTSIDE_S = 20.0
TICK_S = 0.05


def succeeds(command: list[str], env: dict[str, str]) -> bool:
    """Whether a command ends well within 20 s; one that doesn't is killed with its children."""
    pid = os.posix_spawn(command[0], command, env, setpgroup=0)
    deadline = time.monotonic() + OUTSIDE_S
    done, status = os.waitpid(pid, os.WNOHANG)
    while not done and time.monotonic() < deadline:
        time.sleep(TICK_S)
        done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return bool(done) and status == 0


def asking_docker(env: dict[str, str]) -> dict[str, str]:
    """Return what of an environment a container's engine is reached with."""
    prefixes = ("DOCKER_", "CONTAINER_", "XDG_")
    return {n: v for n, v in env.items() if n in ("PATH", "HOME") or n.startswith(prefixes)}
