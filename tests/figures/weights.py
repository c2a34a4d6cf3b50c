"""Figures of download and verify, side by side with other tools on the same files.

    python -m tests.figures.weights [--gib 1] [--rounds 3] [--work DIR]

Starts a server on loopback, and needs room for a few copies of the file. curl and
aria2c are measured where they are installed. Every tool starts into an empty directory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.figures.weights_server import REPO
from tests.support.checkpoints import sparse_checkpoint
from tests.support.hub import checkpoint

SHARD = "quant_model_weights-00001-of-00001.safetensors"


@contextmanager
def serving(root: Path, per_connection: int) -> Iterator[str]:
    argv = [sys.executable, "-m", "tests.figures.weights_server", str(root), str(per_connection)]
    server = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    finally:
        server.communicate()


def command(tool: str, url: str, target: Path) -> tuple[list[str], dict[str, str]]:
    """Return how a tool fetches everything, and what it needs in its environment."""
    file = f"{url}/{SHARD}"
    python = Path(sys.executable).parent
    ours = [sys.executable, "-m", "ascend_v4", "download", "--model", REPO, "--quiet"]
    ours += ["--endpoint", url, "--dir", str(target)]
    theirs = [str(python / "modelscope"), "download", "--model", REPO, "--local_dir", str(target)]
    aria = ["aria2c", "-q", "-k1M", "-d", str(target), file]
    return {
        "ascend-v4 download": (ours, {}),
        "ascend-v4 --connections 1": ([*ours, "--connections", "1"], {}),
        "modelscope CLI": (theirs, {"MODELSCOPE_ENDPOINT": url}),
        "modelscope CLI, 8 ranges": (
            theirs,
            {"MODELSCOPE_ENDPOINT": url, "MODELSCOPE_DOWNLOAD_PARALLEL_WORKERS": "8"},
        ),
        "curl (unverified)": (["curl", "-s", "-o", str(target / SHARD), file], {}),
        "aria2c -x8 (unverified)": ([*aria[:-1], "-x8", "-s8", file], {}),
        "aria2c -x8 --checksum": ([*aria[:-1], "-x8", "-s8", "CHECKSUM", file], {}),
    }[tool]


TOOLS = (
    "ascend-v4 download",
    "ascend-v4 --connections 1",
    "modelscope CLI",
    "modelscope CLI, 8 ranges",
    "curl (unverified)",
    "aria2c -x8 (unverified)",
    "aria2c -x8 --checksum",
)


def seconds(argv: list[str], env: dict[str, str]) -> float:
    begin = time.monotonic()
    subprocess.run(argv, env={**os.environ, **env}, check=True, capture_output=True)
    return time.monotonic() - begin


def fetched(tool: str, url: str, work: Path, digest: str) -> float:
    """Return the seconds a tool takes into an empty directory; the result is compared."""
    target = work / "target"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    argv, env = command(tool, url, target)
    argv = [f"--checksum=sha-256={digest}" if word == "CHECKSUM" else word for word in argv]
    took = seconds(argv, {**env, "HOME": str(work / "home")})
    with (target / SHARD).open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest, tool
    return took


def throughput(work: Path, hub: Path, rounds: int, digest: str) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for name, rate in (("no limit", 0), ("50 MB/s per connection", 50_000_000)):
        with serving(hub, rate) as url:
            tools = [t for t in TOOLS if shutil.which(t.split()[0]) or "C" in t or "ascend" in t]
            for tool in tools:
                took = [fetched(tool, url, work, digest) for _ in range(rounds if not rate else 1)]
                table.setdefault(tool, {})[name] = round(min(took), 2)
                print(f"{tool:28} {name:24} {min(took):6.2f} s", flush=True)
    return table


def again(work: Path, hub: Path) -> dict[str, float]:
    """Return the seconds of a second download of a complete directory."""
    found = {}
    with serving(hub, 0) as url:
        for tool in ("ascend-v4 download", "modelscope CLI"):
            target = work / "target"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            argv, env = command(tool, url, target)
            env["HOME"] = str(work / "home")
            seconds(argv, env)
            found[tool] = round(min(seconds(argv, env) for _ in range(3)), 2)
            print(f"{tool:28} complete directory       {found[tool]:6.2f} s", flush=True)
    return found


def killed(work: Path, hub: Path, size: int) -> dict[str, int]:
    """Return the bytes received beyond the file's size, killed with -9 half way."""
    found = {}
    from tests.support.hub import Hub, Repo

    files = {path.name: path.read_bytes() for path in hub.iterdir()}
    for tool in ("ascend-v4 download", "modelscope CLI"):
        target = work / "target"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        rate = 30_000_000 if tool != "modelscope CLI" else 200_000_000
        with Hub(per_connection=rate) as server:
            server.repos[REPO] = Repo(files)
            argv, env = command(tool, server.url, target)
            env |= {"HOME": str(work / "home")}
            process = subprocess.Popen(
                argv,
                env={**os.environ, **env},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while server.file_bytes() < size // 2 and process.poll() is None:
                time.sleep(0.02)
            process.kill()
            process.wait()
            time.sleep(0.5)
            seconds(argv, env)
            found[tool] = server.file_bytes() - sum(map(len, files.values()))
        print(f"{tool:28} sent again after kill -9 {found[tool] / 1e6:6.1f} MB", flush=True)
    return found


def deep(work: Path, files: int, size: int) -> dict[str, float]:
    """Return GB/s of a deep verify and of parallel sha256sum, on files in the page cache."""
    folder = work / "deep"
    folder.mkdir()
    block = os.urandom(1 << 24)
    total, lines = 0, []
    for i in range(files):
        path = folder / f"model-{i:05}.bin"
        with path.open("wb") as file:
            for _ in range(size >> 24):
                file.write(block)
        total += path.stat().st_size
    argv = f"cd {folder} && ls *.bin | xargs -P {len(os.sched_getaffinity(0))} -n1 sha256sum"
    lines = sorted(subprocess.check_output(["sh", "-c", argv], text=True).splitlines())
    listed = min(_timed(lambda: subprocess.check_output(["sh", "-c", argv])) for _ in range(2))
    from ascend_v4.weights.check import check_files
    from ascend_v4.weights.manifest import FileRow

    rows = [FileRow(line[66:], (folder / line[66:]).stat().st_size, line[:64]) for line in lines]
    jobs = len(os.sched_getaffinity(0))

    def ours() -> None:
        assert set(check_files(folder, rows, jobs, lambda _: None).values()) == {"good"}

    took = min(_timed(ours) for _ in range(2))
    shutil.rmtree(folder)
    found = {"ascend-v4": round(total / took / 1e9, 2), "sha256sum": round(total / listed / 1e9, 2)}
    print(f"deep verify {found['ascend-v4']} GB/s, parallel sha256sum {found['sha256sum']} GB/s")
    return found


def _timed(what: Callable[[], object]) -> float:
    begin = time.monotonic()
    what()
    return time.monotonic() - begin


def quick(work: Path) -> float:
    """Return the seconds of a quick verify of 74 sparse shards of 4 GiB, as a command."""
    folder = sparse_checkpoint(work / "sparse", 74, 4 << 30, 1000)
    argv = [sys.executable, "-m", "ascend_v4", "verify", str(folder), "--quiet"]
    took = min(seconds(argv, {}) for _ in range(3))
    shutil.rmtree(folder)
    print(f"quick verify, 74 shards of 4 GiB, 74,000 tensors: {took:.2f} s", flush=True)
    return round(took, 2)


def main() -> None:
    """Measure everything and print a JSON object at the end."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("--gib", type=float, default=1.0)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--work", type=Path)
    asked = options.parse_args()
    work = Path(tempfile.mkdtemp(prefix="ascend-v4-figures-", dir=asked.work))
    try:
        hub, size = work / "hub", int(asked.gib * (1 << 30))
        hub.mkdir()
        (work / "home").mkdir()
        for name, body in checkpoint(shards=1, shard_bytes=size).items():
            if "/" not in name:
                (hub / name).write_bytes(body)
        with (hub / SHARD).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found = {
            "bytes": size,
            "cores": len(os.sched_getaffinity(0)),
            "seconds": throughput(work, hub, asked.rounds, digest),
            "second_download_s": again(work, hub),
            "sent_again_bytes": killed(work, hub, size),
            "deep_gb_per_s": deep(work, 4, size),
            "quick_s": quick(work),
        }
        print(json.dumps(found, indent=1))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
