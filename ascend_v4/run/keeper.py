"""Holds the claims of a run while a process of it can't be killed.

The kernel may not let a process die, such as one stuck in a device's driver. It still has
the device's memory, so nobody else may be promised the device. The locks come to us as
open descriptors; they are free when the last of the named processes is gone.

Started by path as ``python -I -S keeper.py PID:START …``; standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import time

if not __package__:
    here = os.path.abspath(__file__)  # noqa: PTH100
    sys.path.insert(0, here.rsplit(os.sep, 3)[0])

from ascend_v4.run.procs import Proc, alive, identify, title

__all__ = ["main"]

POLL_S = 0.5


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


def sign(handle: int, left: list[Proc]) -> None:
    """Write into a lock's file who is left."""
    try:
        claim = json.loads(os.pread(handle, 65536, 0))
        claim["left"] = [{"pid": proc.pid, "title": title(proc.pid)} for proc in left]
        text = json.dumps(claim).encode()
        os.ftruncate(handle, 0)
        os.pwrite(handle, text, 0)
    except (OSError, ValueError, TypeError):
        return


def main(argv: list[str]) -> int:
    """Wait for the end of the named processes, then give the locks back."""
    wanted = [tuple(map(int, word.split(":"))) for word in argv]
    locks = lock_files()
    left = [proc for pid, start in wanted if (proc := identify(pid)) and proc.start == start]
    for handle in locks:
        sign(handle, left)
    while any(alive(pid, start) for pid, start in wanted):
        time.sleep(POLL_S)
    from ascend_v4.run.claims import remove_free

    for handle, path in locks.items():
        os.close(handle)
        remove_free(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
