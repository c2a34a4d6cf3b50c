"""One downloader at a time in a directory, by a lock inside it.

``flock`` on a file in the directory holds between users and containers, and between
hosts where the file system carries it over the network. Where it doesn't, that is
found out and said, and a heartbeat in the same file takes its place.
"""

from __future__ import annotations

import fcntl
import os
import platform
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host

from .manifest import SIDECAR

__all__ = ["local_only", "locked"]

#: Seconds between two signs of life, and the age at which a holder counts as gone.
BEAT_S = 10.0
STALE_S = 60.0
_TOKEN = secrets.token_hex(3)
#: File system -> mount options with which flock holds on this host only
#: (nfs(5), "local_lock" and "nolock"; mount.lustre(8), "localflock").
_LOCAL = {
    "nfs": ("nolock", "local_lock=all", "local_lock=flock"),
    "nfs4": ("local_lock=all", "local_lock=flock"),
    "lustre": ("localflock",),
    "cifs": ("nobrl",),
    "smb3": ("nobrl",),
}
#: File systems that keep locks on this host unless a setting, which no mount option shows,
#: says otherwise (virtiofsd's "flock", BeeGFS's "tuneUseGlobalFileLocks": both off).
#: Of those by FUSE nearly all do, sshfs, s3fs and bindfs among them.
_QUIET = ("virtiofs", "beegfs")
#: Those by FUSE that hand locks on to their servers.
_CARRYING = ("fuse.glusterfs", "fuse.juicefs", "fuse.ceph", "fuse.ceph-fuse", "fuse.moosefs")


@contextmanager
def locked(
    directory: Path, warn: Callable[[str], None] = lambda _text: None, host: Host | None = None
) -> Iterator[int]:
    """Hold the directory's lock and yield its file descriptor; the directory is made.

    ``warn`` is told when the file system doesn't carry locks to other hosts. Raises
    AscendV4Error: busy when another downloader holds it (two would write the same
    partial files), host not ready when the directory can't be written.
    """
    path = directory / SIDECAR / "lock"
    try:
        _make(directory / SIDECAR)
        fd = _open(path)
    except OSError as error:
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "cannot-write",
            f"{directory} can't be written: {error.strerror}",
            "choose another --dir",
        ) from error
    stop, mine = threading.Event(), False
    try:
        weak = _take(fd, path, directory) or local_only(path, host or Host())
        if weak:
            warn(
                f"warning: {weak}; other hosts are held off by a heartbeat only, so don't "
                "start two downloads into this directory at the same moment"
            )
            _refuse_alive(fd, path, directory)
            _sign(fd)
            threading.Thread(target=_beat, args=(fd, path, stop), daemon=True).start()
        mine = True
        _sign(fd)
        yield fd
    finally:
        stop.set()
        if mine:
            # Another one's name stays: where locks aren't honoured it is all that holds.
            with suppress(OSError):
                os.ftruncate(fd, 0)
        os.close(fd)


def _make(sidecar: Path) -> None:
    """Make the sidecar usable by whoever may write the directory itself."""
    if sidecar.is_dir():
        return
    sidecar.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        sidecar.chmod(stat.S_IMODE(sidecar.parent.stat().st_mode))


def _open(path: Path) -> int:
    """Open the lock file, one of another user's included."""
    flags = os.O_CLOEXEC
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except PermissionError:
        # A lock needs no right to write, on local file systems at least.
        return os.open(path, os.O_RDONLY | flags)
    with suppress(OSError):
        os.fchmod(fd, 0o666)
    return fd


def _take(fd: int, path: Path, directory: Path) -> str:
    """Take the lock; return why it is worth nothing, ``""`` when it holds.

    Raises AscendV4Error (busy) when another process has it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _busy(fd, directory) from error
    except OSError as error:
        return f"the file system of {directory} has no locks ({error.strerror})"
    second = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return ""
    finally:
        os.close(second)
    return f"the file system of {directory} gives one lock to two at once"


def _busy(fd: int, directory: Path) -> AscendV4Error:
    holder = os.pread(fd, 200, 0).decode(errors="replace").strip() or "another process"
    return AscendV4Error(
        ExitCode.BUSY,
        "directory-busy",
        f"{directory} is being downloaded into by {holder}",
        "wait for it to end, then run the same command again",
    )


def local_only(path: Path, host: Host) -> str:
    """Return why locks on ``path`` don't reach other hosts, ``""`` if nothing says so."""
    best: tuple[str, str, list[str]] = ("", "", [])
    real = str(path.resolve())
    for line in (host.read_text("/proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        fields, rest = left.split(), right.split()
        if len(fields) < 6 or len(rest) < 3:
            continue
        point = fields[4].replace("\\040", " ")
        inside = f"{real}/".startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, rest[0], fields[5].split(",") + rest[2].split(","))
    point, kind, options = best
    found = [option for option in _LOCAL.get(kind, ()) if option in options]
    if found:
        return f"{point} is {kind} mounted with {found[0]}: its locks hold on this host only"
    fuse = kind == "fuse" or (kind.startswith("fuse.") and kind not in _CARRYING)
    if kind in _QUIET or fuse:
        return f"{point} is {kind}: its locks may hold on this host only"
    return ""


def _refuse_alive(fd: int, path: Path, directory: Path) -> None:
    """Raise AscendV4Error (busy) while another holder's heartbeat is fresh."""
    holder = os.pread(fd, 200, 0).decode(errors="replace").strip()
    if not holder or holder == _me():
        return
    probe = path.with_name(f"clock-{platform.node()}-{os.getpid()}")
    probe.write_text("")
    # Both times are the file server's: hosts' clocks differ.
    age = probe.stat().st_mtime - path.stat().st_mtime
    probe.unlink()
    if age < STALE_S:
        raise _busy(fd, directory)


def _beat(fd: int, path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with suppress(OSError):
            _sign(fd)
            os.utime(path)


def _me() -> str:
    # Containers may share the host's name, and each has a process 7.
    return f"process {os.getpid()} on {platform.node()} ({_TOKEN})"


def _sign(fd: int) -> None:
    """Write who holds the lock; another user's file may refuse it, and the lock holds still."""
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{_me()}\n".encode(), 0)
