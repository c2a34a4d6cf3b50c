"""Claims on devices and ports, seen by every user of the host.

One file a resource, locked with flock. The guardians inherit the locks, so a claim ends
when the last process of a run has ended, also when the launcher was killed or the kernel
won't let one die. The
directory is the first of these that exists, else the first that can be made; it is
writable by all and sticky, like /tmp.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ascend_v4.errors import AscendV4Error, ExitCode

__all__ = ["Claims", "busy", "claimed_by", "lock_directory", "removal_of", "remove_free"]

DIRECTORIES = ("/run/lock/ascend-v4", "/tmp/ascend-v4-locks")
VARIABLE = "ASCEND_V4_LOCK_DIR"


def lock_directory(env: Mapping[str, str]) -> Path:
    """Return the host's lock directory, made when there is none.

    Raises AscendV4Error (host not ready) where no directory can be used.
    """
    wanted = [env[VARIABLE]] if env.get(VARIABLE) else list(DIRECTORIES)
    for name in wanted:
        if usable(Path(name)):
            return Path(name)
    for name in wanted:
        with contextlib.suppress(OSError):
            path = Path(name)
            path.mkdir(parents=bool(env.get(VARIABLE)))
            path.chmod(0o1777)
            return path
    raise AscendV4Error(
        ExitCode.HOST_NOT_READY,
        "no-lock-directory",
        f"none of {', '.join(wanted)} can be used for locks",
        f"sudo mkdir -m 1777 {wanted[0]}",
    )


def usable(path: Path) -> bool:
    """Whether a path is a directory, no link, where this user may make files."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode) and os.access(path, os.W_OK | os.X_OK)
    except OSError:
        return False


def open_lock(path: Path) -> int:
    """Open a lock file of anybody, made when missing; raises OSError.

    Existing files are opened without O_CREAT: the kernel's protected_regular refuses it
    for other users' files in sticky directories, even to root.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            pass
        try:
            handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        os.fchmod(handle, 0o666)
        return handle


class Claims:
    """The claims of one run; ``fds`` are to be inherited by its guardians."""

    def __init__(self, directory: Path, run: Mapping[str, Any]) -> None:
        self.directory = directory
        self.run = dict(run)
        self.held: dict[str, int] = {}

    @property
    def fds(self) -> list[int]:
        """Return the descriptors of the locks."""
        return list(self.held.values())

    def take(self, names: Iterable[str]) -> None:
        """Claim all the resources or none.

        Raises AscendV4Error (busy) naming the run that has one of them.
        """
        for name in sorted(set(names)):
            try:
                handle = self._lock(name)
            except OSError as error:
                self.release()
                raise AscendV4Error(
                    ExitCode.HOST_NOT_READY,
                    "no-lock",
                    f"the lock {self.directory / name} can't be taken: {error.strerror}",
                    f"ls -l {self.directory}",
                ) from error
            if handle is None:
                holder = claimed_by(self.directory, name)
                self.release()
                raise busy(name, holder, self.run.get("user"))
            self.held[name] = handle
        for name, handle in self.held.items():
            self._sign(name, handle)

    def _lock(self, name: str) -> int | None:
        """Return the locked file, None when somebody else has it; raises OSError."""
        path = self.directory / f"{name}.lock"
        while True:
            handle = open_lock(path)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                os.close(handle)
                raise OSError(errno.EINVAL, "not a regular file")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return None
            # The holder before us may have removed the file after we opened it.
            with contextlib.suppress(OSError):
                if os.stat(path, follow_symlinks=False).st_ino == os.fstat(handle).st_ino:  # noqa: PTH116
                    return handle
            os.close(handle)

    def _sign(self, name: str, handle: int) -> None:
        text = json.dumps({**self.run, "resource": name}).encode()
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, text, 0)

    def release(self) -> None:
        """Give everything back.

        A claim that a process of the run still holds, because the kernel won't let some
        other process of it die, stays claimed until that one is gone.
        """
        for name, handle in self.held.items():
            os.close(handle)
            remove_free(str(self.directory / f"{name}.lock"))
        self.held.clear()


def remove_free(path: str) -> None:
    """Remove a lock file that nobody holds."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Ours while we hold the lock, unless it was replaced before we had it.
            if os.stat(path, follow_symlinks=False).st_ino == os.fstat(handle).st_ino:  # noqa: PTH116
                os.unlink(path)  # noqa: PTH108
        finally:
            os.close(handle)


def claimed_by(directory: Path, name: str) -> dict[str, Any]:
    """Return what the claim on a resource says of its run; {} if nothing readable."""
    try:
        found = json.loads((directory / f"{name}.lock").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def busy(name: str, holder: Mapping[str, Any], user: object) -> AscendV4Error:
    """Return the error of a resource that another run has, as ``user`` is told it.

    Anybody may write a claim, so nothing in it is relied on.
    """
    what = name.replace("-", " ", 1)
    run = holder.get("run_id")
    who = f"run {run} of {holder.get('user')} (pid {holder.get('pid')})" if run else "another run"
    left = holder.get("left")
    hint = next_step(run, holder.get("user"), user)
    if run and left and isinstance(left, list):
        pairs = [(one.get("pid"), one.get("title")) for one in left if isinstance(one, dict)]
        stuck = ", ".join(f"pid {pid} ({title})" for pid, title in pairs if pid)
        boxes = [str(title) for pid, title in pairs if not pid]
        said = [f"can't be killed: {stuck}"] if stuck else []
        said += [f"is not known to be gone: {', '.join(boxes)}"] if boxes else []
        who = f"what is left of run {run} of {holder.get('user')} and {'; '.join(said)}"
        hint = hint if stuck or not boxes else removal_of(boxes)
    return AscendV4Error(ExitCode.BUSY, "claimed", f"{what} is in use by {who}", hint)


def next_step(run: object, owner: object, user: object) -> str:
    """Return what ``user`` can do about a claim of a run: only its owner can stop it."""
    if not run or owner in (user, None):
        return f"ascend-v4 stop {run or ''}".strip()
    return f"ask {owner} to type: ascend-v4 stop {run}"


def removal_of(titles: Iterable[str]) -> str:
    """Return the command that removes containers, by what the reports call them."""
    return " ".join(["docker rm --force", *(t.removeprefix("container ") for t in titles)])
