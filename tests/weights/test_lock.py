"""The directory's lock: between processes, users, and file systems that don't honour it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ascend_v4.errors import AscendV4Error
from ascend_v4.host.system import Host
from ascend_v4.weights import lock
from ascend_v4.weights.lock import local_only, locked


def busy(directory: Path) -> str:
    with pytest.raises(AscendV4Error) as caught, locked(directory):
        pass
    assert (int(caught.value.code), caught.value.kind) == (7, "directory-busy")
    return caught.value.message


def test_it_is_free_again_after_its_holder(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            assert "is being downloaded into by process" in busy(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_meets_it_too(tmp_path: Path) -> None:
    shared = Path("/tmp") / f"ascend-v4-lock-{os.getpid()}"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from ascend_v4.weights.lock import locked\n"
        "from ascend_v4.errors import AscendV4Error\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    with locked(Path(sys.argv[1])): print('taken')\n"
        "except AscendV4Error as error: print(error.kind)\n"
    )

    def other() -> str:
        argv = [sys.executable, "-c", code, str(shared)]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    try:
        with locked(shared):
            assert other() == "directory-busy"
        assert other() == "taken"
        # Made by the other user, taken by this one.
        with locked(shared):
            assert other() == "directory-busy"
    finally:
        for path in (shared / ".ascend-v4" / "lock", shared / ".ascend-v4" / "manifest.json"):
            path.unlink(missing_ok=True)
        (shared / ".ascend-v4").rmdir()
        shared.rmdir()


@pytest.mark.parametrize("way", ["none", "given to all"])
def test_locks_that_are_not_honoured_are_said_and_a_heartbeat_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    def flock(_fd: int, _how: int) -> None:
        if way == "none":
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    said: list[str] = []
    with locked(tmp_path, said.append):
        why = {"none": "has no locks (No locks available)", "given to all": "gives one lock to two"}
        assert why[way] in said[0]
        path = tmp_path / ".ascend-v4" / "lock"
        path.write_text("process 1 on elsewhere\n")
        assert busy(tmp_path).endswith("is being downloaded into by process 1 on elsewhere")
        old = time.time() - 100
        os.utime(path, (old, old))
        with locked(tmp_path):
            pass


@pytest.mark.parametrize(
    ("mount", "found"),
    [
        ("nfs rw,vers=3,nolock", "nolock"),
        ("nfs4 rw,vers=4.2,local_lock=none", ""),
        ("nfs rw,local_lock=all", "local_lock=all"),
        ("lustre rw,localflock", "localflock"),
        ("lustre rw,flock", ""),
        ("cifs rw,nobrl", "nobrl"),
        ("fuse.juicefs rw", ""),
        ("ext4 rw", ""),
    ],
)
def test_mounts_whose_locks_stay_on_one_host(tmp_path: Path, mount: str, found: str) -> None:
    kind, options = mount.split()
    proc = tmp_path / "root" / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "mountinfo").write_text(
        "21 1 0:1 / / rw shared:1 - ext4 /dev/vda rw\n"
        f"22 21 0:2 / {tmp_path} rw shared:2 - {kind} server:/x {options}\n"
    )
    why = local_only(tmp_path / "lock", Host(root=tmp_path / "root"))
    text = f"{tmp_path} is {kind} mounted with {found}: its locks hold on this host only"
    assert why == (text if found else "")


@pytest.mark.parametrize("kind", ["fuse.sshfs", "fuse", "virtiofs", "beegfs"])
def test_file_systems_that_may_keep_locks_on_one_host(tmp_path: Path, kind: str) -> None:
    proc = tmp_path / "root" / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "mountinfo").write_text(f"22 21 0:2 / {tmp_path} rw shared:2 - {kind} far:/x rw\n")
    why = local_only(tmp_path / "lock", Host(root=tmp_path / "root"))
    assert why == f"{tmp_path} is {kind}: its locks may hold on this host only"


def test_whoever_is_turned_away_leaves_the_holders_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(tmp_path):
        assert busy(tmp_path) == busy(tmp_path)
        assert "process" in busy(tmp_path)
    monkeypatch.setattr(lock, "local_only", lambda _path, _host: "it doesn't carry locks")
    path = tmp_path / ".ascend-v4" / "lock"
    path.write_text("process 1 on elsewhere\n")
    for _ in range(2):
        assert busy(tmp_path).endswith("is being downloaded into by process 1 on elsewhere")


@pytest.mark.skipif(shutil.which("bindfs") is None or os.geteuid() != 0, reason="needs bindfs")
def test_two_mounts_that_do_not_see_each_others_locks(tmp_path: Path) -> None:
    """Two FUSE mounts of one directory are like two hosts on a share without locks."""
    shared, mounts = tmp_path / "shared", [tmp_path / "one", tmp_path / "two"]
    shared.mkdir()
    done: list[Path] = []
    try:
        for mount in mounts:
            mount.mkdir()
            subprocess.run(["bindfs", str(shared), str(mount)], check=True)
            done.append(mount)
        said: list[str] = []
        with locked(mounts[0], said.append):
            assert f"{mounts[0]} is fuse: its locks may hold on this host only" in said[0]
            # As another process would: the holder's name is of another one then.
            assert "directory-busy" in other_process(mounts[1])
        assert "taken" in other_process(mounts[1])
    finally:
        for mount in done:
            subprocess.run(["umount", str(mount)], check=True)


def other_process(directory: Path) -> str:
    code = (
        "import sys; from pathlib import Path\n"
        "from ascend_v4.weights.lock import locked\n"
        "from ascend_v4.errors import AscendV4Error\n"
        "try:\n"
        "    with locked(Path(sys.argv[1])): print('taken')\n"
        "except AscendV4Error as error: print(error.kind)\n"
    )
    argv = [sys.executable, "-c", code, str(directory)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def test_a_child_keeps_it_while_it_lives(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with locked(tmp_path) as fd:
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=(fd,))
    try:
        busy(tmp_path)
    finally:
        child.communicate()
    with locked(tmp_path):
        pass
