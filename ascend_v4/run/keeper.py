"""Holds the claims of a run while a process or a container of it can't be ended.

The kernel may not let a process die, such as one stuck in a device's driver; a container
lives on while docker's daemon can't be asked to remove it. They still have the device's
memory, so nobody else may be promised the device. The locks come to us as open
descriptors; they are free when the last of the named processes is gone and each command
that removes a container, tried again and again, has succeeded.

Started by path as ``python -I -S keeper.py PID:START … '["COMMAND", …]' …``; standard
library only.
"""

from __future__ import annotations

import json
import os
import sys
import time

if not __package__:
    here = os.path.abspath(__file__)  # noqa: PTH100
    sys.path.insert(0, here.rsplit(os.sep, 3)[0])

from ascend_v4.run.outside import succeeds
from ascend_v4.run.procs import KEEPER_VARIABLE, Proc, alive, identify, title

__all__ = ["main"]

POLL_S = 0.5
#: Seconds between two tries to remove what is no process of ours.
AGAIN_S = 2.0


def lock_files() -> dict[int, str]:
    """Return the inherited locks by descriptor, with their paths."""
    found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            path = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
        except OSError:
            continue
        if int(name) > 2 and path.endswith(".lock"):
            found[int(name)] = path
    return found


def sign(handle: int, left: list[dict[str, object]]) -> None:
    """Write into a lock's file what is left."""
    try:
        claim = json.loads(os.pread(handle, 65536, 0))
        claim["left"] = left
        text = json.dumps(claim).encode()
        os.ftruncate(handle, 0)
        os.pwrite(handle, text, 0)
    except (OSError, ValueError, TypeError):
        return


def described(left: list[Proc], outside: list[list[str]]) -> list[dict[str, object]]:
    """Return what is left; a command names what it removes in the word after its script."""
    found: list[dict[str, object]] = [{"pid": p.pid, "title": title(p.pid)} for p in left]
    return found + [{"pid": 0, "title": command[3]} for command in outside]


def main(argv: list[str]) -> int:
    """Wait for the end of the named processes and of what is removed, then free the locks."""
    wanted = [tuple(map(int, word.split(":"))) for word in argv if not word.startswith("[")]
    outside: list[list[str]] = [json.loads(word) for word in argv if word.startswith("[")]
    env = {name: value for name, value in os.environ.items() if name != KEEPER_VARIABLE}
    locks = lock_files()
    left = [proc for pid, start in wanted if (proc := identify(pid)) and proc.start == start]
    for handle in locks:
        sign(handle, described(left, outside))
    while outside := [command for command in outside if not succeeds(command, env)]:
        time.sleep(AGAIN_S)
    while any(alive(pid, start) for pid, start in wanted):
        time.sleep(POLL_S)
    from ascend_v4.run.claims import remove_free

    for handle, path in locks.items():
        os.close(handle)
        remove_free(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
