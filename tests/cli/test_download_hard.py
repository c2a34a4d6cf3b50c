"""Downloads under hard conditions, as whole processes: kill -9, two users, a full disk."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub import Hub, Repo, checkpoint
from tests.support.hub_hf import HuggingFace

REPO = "Eco-Tech/tiny-w8a8"
BIG = "quant_model_weights-00001-of-00002.safetensors"
SHARD_BYTES = 40 << 20
#: What the kernel and one read may hold of each connection when a process is killed.
LOST = 8 * (3 << 20)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return checkpoint(shards=2, shard_bytes=SHARD_BYTES)


def start(hub: Hub, home: Path, directory: Path, *args: str) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MODELSCOPE", "HF_", "XDG"))}
    env |= {"HOME": str(home), "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "2"}
    words = ["download", "--model", REPO, "--dir", str(directory), "--endpoint", hub.url, "-q"]
    return subprocess.Popen(
        [sys.executable, "-m", "ascend_v4", *words, *args],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def whole(directory: Path, files: dict[str, bytes]) -> bool:
    return all((directory / path).read_bytes() == body for path, body in files.items())


@pytest.mark.parametrize("source", ["modelscope", "huggingface"])
def test_kill_9_at_any_moment_until_it_is_complete(
    tmp_path: Path, files: dict[str, bytes], source: str
) -> None:
    protocol = HuggingFace() if source == "huggingface" else None
    directory, dice, kills = tmp_path / "weights", random.Random(7), 0
    # So slow that it is never complete before the fourth kill.
    with Hub(protocol, per_connection=2_000_000) as hub:
        hub.repos[REPO] = Repo(files, commit="c" * 40)
        for _ in range(12):
            hub.per_connection = 2_000_000 if kills < 5 else 0
            process = start(hub, tmp_path, directory, "--source", source)
            try:
                process.wait(timeout=dice.uniform(1.2, 3.0) if kills < 5 else 60)
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
            process.communicate()
            if process.returncode == 0:
                break
        assert (process.returncode, kills >= 3) == (0, True)
        assert whole(directory, files)
        again = hub.file_bytes() - sum(map(len, files.values()))
    assert again <= kills * LOST
    assert not [*directory.rglob("*.incomplete"), *directory.rglob(".ascend-v4/parts/*")]


def test_two_users_with_their_own_caches_on_one_directory(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    directory = tmp_path / "weights"
    with Hub(per_connection=20_000_000) as hub:
        hub.repos[REPO] = Repo(files)
        homes = [tmp_path / "a", tmp_path / "b"]
        for home in homes:
            home.mkdir()
        both = [start(hub, home, directory) for home in homes]
        said = [process.communicate(timeout=60) for process in both]
        codes = sorted(process.returncode for process in both)
        assert codes == [0, 7], said
        assert whole(directory, files)
        assert start(hub, homes[1], directory).wait(timeout=60) == 0
        assert hub.file_bytes() == sum(map(len, files.values()))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "disk"
    point.mkdir()
    size = (256 << 20) + 110 * (1 << 20)
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "ascend-v4-test", str(point)]
    if os.geteuid() != 0 or subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root and CAP_SYS_ADMIN")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


@pytest.mark.parametrize("connections", ["8", "1"])
def test_a_disk_that_fills_and_is_enlarged(
    tmp_path: Path, small_disk: Path, files: dict[str, bytes], connections: str
) -> None:
    directory, filler = small_disk / "weights", small_disk / "filler"
    # So slow in all that the filler is written before the rest of the disk is.
    with Hub(per_connection=8_000_000 // int(connections)) as hub:
        hub.repos[REPO] = Repo(files)
        process = start(hub, tmp_path, directory, "--connections", connections)
        deadline = time.monotonic() + 30
        while hub.file_bytes() < 8_000_000:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - (16 << 20))
        _, err = process.communicate(timeout=60)
        assert process.returncode == 6, err
        assert "No space left on device" in err
        process = start(hub, tmp_path, directory)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 6
        assert "can't be written: No space left on device" in err
        subprocess.run(["mount", "-o", "remount,size=2G", str(small_disk)], check=True)
        before, hub.per_connection = hub.file_bytes(), 0
        process = start(hub, tmp_path, directory, "--connections", connections)
        assert process.wait(timeout=60) == 0
        assert whole(directory, files)
        assert hub.file_bytes() - before < sum(map(len, files.values())) - 4_000_000
