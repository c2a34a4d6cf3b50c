"""``ascend-v4 download`` as whole processes against a hub on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub import Hub, Repo, checkpoint

REPO = "Eco-Tech/tiny-w8a8"
SHARD = "quant_model_weights-00003-of-00003.safetensors"
SIZE = 1 << 20
TOTAL = 3150147


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.repos[REPO] = Repo(checkpoint())
        yield running


class Shell:
    """Runs the command line with a home of its own."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.hub, self.directory = hub, home / "models" / "Eco-Tech--tiny-w8a8"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MODELSCOPE", "ASCEND"))}
        self.env = {**kept, "HOME": str(home), "ASCEND_V4_MODELS": str(home / "models")}
        self.env["MODELSCOPE_ENDPOINT"] = hub.url

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ascend_v4", "download", *args],
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, **env: str) -> tuple[int, str, str]:
        process = self.start(*args, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def wait_for_part(self, size: int) -> None:
        """Wait until the slow shard's part has this many bytes, and all else is there."""
        part = self.directory / f"{SHARD}.incomplete"
        others = [self.directory / path for path in checkpoint() if path != SHARD]
        deadline = time.monotonic() + 30
        while not (
            part.exists() and part.stat().st_size >= size and all(o.exists() for o in others)
        ):
            assert time.monotonic() < deadline, "the shard doesn't arrive"
            time.sleep(0.02)


@pytest.fixture
def shell(hub: Hub, tmp_path: Path) -> Shell:
    return Shell(hub, tmp_path)


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


def gone(pid: int, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_it_prints_the_directory_where_serve_looks(shell: Shell) -> None:
    code, out, err = shell.run("--model", REPO)
    assert (code, out) == (0, f"{shell.directory}\n")
    assert err.splitlines()[:2] == [
        f"listing {REPO} at master on {shell.hub.url}",
        "downloading: 9 files, 3.0 MiB",
    ]
    code, out, err = shell.run("--model", REPO, "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "repo": REPO,
        "revision": "master",
        "commit": None,
        "directory": str(shell.directory),
        "bytes": TOTAL,
        "files": 9,
        "fetched_bytes": 0,
        "unhashed": [],
    }


def test_json_events_go_to_stderr(shell: Shell) -> None:
    code, out, err = shell.run("--model", REPO, "--json")
    events = [json.loads(line) for line in err.splitlines()]
    assert (code, json.loads(out)["fetched_bytes"]) == (0, TOTAL)
    assert [event["event"] for event in events[:2]] == ["status", "start"]
    assert (events[-1]["event"], events[-1]["done"]) == ("progress", TOTAL)


def test_a_dry_run_says_what_how_large_and_where_to(shell: Shell) -> None:
    code, out, err = shell.run("--model", REPO, "--dry-run")
    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 12)
    assert lines[-4] == "      19 B  tokenizer.json"
    assert lines[-3] == f"{REPO} at master: 9 files, 3.0 MiB, 3.0 MiB of it to fetch"
    assert lines[-2].startswith(f"to {shell.directory} (")
    assert lines[-1] == "takes 0 s at 12.5 MB/s, 0 s at 125 MB/s, 0 s at 1250 MB/s"
    assert not shell.directory.exists()


@pytest.mark.parametrize(
    ("number", "args"),
    [(signal.SIGINT, ()), (signal.SIGTERM, ("--connections", "2", "--json", "--quiet"))],
)
def test_a_signal_ends_it_and_the_same_command_goes_on(
    shell: Shell, number: signal.Signals, args: tuple[str, ...]
) -> None:
    shell.hub.inject("trickle", SHARD, times=1, at=600_000, value=100_000)
    process = shell.start("--model", REPO, *args)
    shell.wait_for_part(600_000)
    (child,) = children_of(process.pid)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (128 + number, "")
    said = f"interrupted; what has arrived is kept in {shell.directory}"
    again = (
        f"ascend-v4 download --model {REPO} --revision master "
        + ("--connections 2 " if args else "")
        + f"--endpoint {shell.hub.url} --dir {shell.directory}"
    )
    if args:
        assert json.loads(err)["error"] == {
            "code": 143,
            "kind": "interrupted",
            "message": said,
            "next": again,
        }
    else:
        assert err.splitlines()[-2:] == [said, f"next:  {again}"]
    assert gone(child)
    kept = (shell.directory / f"{SHARD}.incomplete").stat().st_size
    before = len(shell.hub.log)
    assert shell.run(*again.split()[2:])[0] == 0
    assert shell.hub.file_bytes(since=before) == SIZE - kept
    assert (shell.directory / SHARD).read_bytes() == checkpoint()[SHARD]


def test_kill_9_leaves_no_writer_and_only_missing_bytes_are_fetched(shell: Shell) -> None:
    shell.hub.inject("trickle", SHARD, times=1, at=600_000, value=100_000)
    process = shell.start("--model", REPO)
    shell.wait_for_part(600_000)
    (child,) = children_of(process.pid)
    process.kill()
    process.communicate(timeout=10)
    assert gone(child)
    kept = (shell.directory / f"{SHARD}.incomplete").stat().st_size
    manifest = json.loads((shell.directory / ".ascend-v4/manifest.json").read_text())
    assert manifest["complete"] is False
    before = len(shell.hub.log)
    assert shell.run("--model", REPO)[0] == 0
    assert shell.hub.file_bytes(since=before) == SIZE - kept
    assert (shell.directory / SHARD).read_bytes() == checkpoint()[SHARD]


@pytest.mark.parametrize("way", ["file", "variable"])
def test_the_token_is_used_and_never_shown(shell: Shell, tmp_path: Path, way: str) -> None:
    secret = "ms-0123456789abcdef"
    shell.hub.repos[REPO].token = secret
    (tmp_path / "token").write_text(secret + "\n")
    shell.hub.inject("trickle", SHARD, times=1, at=600_000, value=800_000)
    args = ("--token-file", str(tmp_path / "token")) if way == "file" else ()
    env = {} if way == "file" else {"MODELSCOPE_API_TOKEN": secret}
    process = shell.start("--model", REPO, "--json", *args, **env)
    shell.wait_for_part(600_000)
    (child,) = children_of(process.pid)
    seen = [Path(f"/proc/{pid}/cmdline").read_text() for pid in (process.pid, child)]
    seen.append(Path(f"/proc/{child}/environ").read_text())
    out, err = process.communicate(timeout=30)
    saved = [path.read_text() for path in (shell.directory / ".ascend-v4").iterdir()]
    assert process.returncode == 0
    assert not [text for text in (*seen, *saved, out, err) if secret in text]


@pytest.mark.parametrize(
    ("args", "code", "err"),
    [
        (
            (),
            2,
            "error: no model and no profile is given, so it isn't known which weights to download\n"
            "next:  ascend-v4 download --profile ascend (or cuda, cpu)\n",
        ),
        (
            ("--profile", "asend"),
            2,
            "error: 'asend' is not a profile; profiles are ascend, cuda and cpu. "
            "did you mean ascend?\nnext:  ascend-v4 profiles\n",
        ),
        (
            ("--model", REPO, "--token-file", "/nonexistent"),
            2,
            "error: --token-file: /nonexistent can't be read: No such file or directory\n"
            "next:  ls -l /nonexistent\n",
        ),
        (
            ("--model", "Eco-Tech/nothing", "--quiet"),
            2,
            "error: HUB has no model Eco-Tech/nothing with revision master, or it is private\n"
            "next:  check --model and --revision; a private model needs --token-file\n",
        ),
    ],
)
def test_bad_input(shell: Shell, args: tuple[str, ...], code: int, err: str) -> None:
    assert shell.run(*args) == (code, "", err.replace("HUB", shell.hub.url))
    assert not shell.directory.parent.exists()


@pytest.mark.parametrize(
    "word", ["foo", "ftp://mirror.example", "http://", "https://a b.c", "http://h:99999"]
)
def test_an_endpoint_that_is_no_address(shell: Shell, word: str) -> None:
    text = (
        f"error: the hub's endpoint '{word}' is not an address such as https://modelscope.cn\n"
        "next:  correct --endpoint, or the variable MODELSCOPE_ENDPOINT or HF_ENDPOINT\n"
    )
    assert shell.run("--model", REPO, "--endpoint", word, "--quiet") == (2, "", text)
    assert not shell.directory.parent.exists()


def test_an_empty_token_file_is_refused(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    code, out, err = shell.run("--model", REPO, "--token-file", str(tmp_path / "token"), "--json")
    assert (code, out, json.loads(err)["error"]["kind"]) == (2, "", "bad-token-file")
    assert shell.hub.log == []


def test_the_cpu_profile_downloads_nothing(shell: Shell, tmp_path: Path) -> None:
    code, out, _ = shell.run("--profile", "cpu")
    directory = tmp_path / "models" / "rehearsal"
    assert (code, out) == (0, f"{directory}\n")
    assert (directory / "config.json").exists()
    assert shell.hub.log == []
