"""``--runtime docker`` with a fake docker: no real daemon was available to these tests.

The fake's daemon owns the containers, outside the tree of any run, and its client only
talks to it. It proves our argument lists and our clean-up, not docker.
"""

import json
import os
import signal
import subprocess
import sys

import pytest

from ascend_v4.run import outside
from ascend_v4.run.procs import descendants
from ascend_v4.run.state import lock_held
from tests.support.fake_docker_run import Docker
from tests.support.fake_tree_run import parent, runs, until


def test_docker_line_of_each_chip(ascend, golden, isolated_user):
    lines = []
    for chip in ("a2", "a3", "a5", "h200"):
        done = ascend(
            "serve", "--chip", chip, "--runtime", "docker", "--dry-run", "--model-dir", "/w",
            "--api-key-file", "/run/secrets/it's", "--allow-unvalidated",
        )  # fmt: skip
        assert done.code == 0, done.err
        # What follows is the plan's own command, which other tests look at.
        lines.append(f"# {chip}\n{done.out.partition(' --env ')[0]}\n")
    golden("run/docker.txt", "\n".join(lines).replace(str(isolated_user), "/home/op"))


def test_docker_line_is_one_command(ascend, tmp_path):
    """A shell hands docker exactly the words, and the secret only in its environment."""
    done = ascend("serve", "--chip", "a3", "--runtime", "docker", "--dry-run", "--model-dir",
                  "/it's here", "--api-key-file", tmp_path / "key")  # fmt: skip
    (tmp_path / "key").write_text("swordfish")
    (tmp_path / "docker").write_text(
        f"#!{sys.executable}\nimport sys,os,json\n"
        "print(json.dumps([sys.argv[1:], os.environ['VLLM_API_KEY']]))\n"
    )
    (tmp_path / "docker").chmod(0o755)
    out = subprocess.run(
        ["sh", "-c", done.out], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    words, key = json.loads(out)
    assert key == "swordfish"
    assert not any("swordfish" in word for word in words)
    assert words[:3] == ["run", "--rm", "--init"]
    assert "/it's here:/it's here:ro" in words
    devices = [words[n + 1] for n, word in enumerate(words) if word == "--device"]
    assert devices == [f"/dev/davinci{n}" for n in range(16)] + [
        "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc",
    ]  # fmt: skip


@pytest.fixture
def docked(trees):
    """A host with docker and its daemon, which belongs to no run."""
    tree = trees()
    tree.docker = Docker(tree.fake.bin)
    yield tree
    assert tree.docker.close() == []


def box_of(tree):
    return f"ascend-v4-{tree.run_dirs()[-1].name}-server"


def claimed(tree):
    return [path.name for path in tree.locks.iterdir() if lock_held(path)]


@pytest.mark.parametrize("kind", ["SIGTERM", "client", "launcher", "launcher and guardian"])
def test_container_never_outlives_the_run(docked, kind):
    key = docked.place / "key"
    key.write_text("swordfish")
    serving = docked.serve("--runtime", "docker", "--api-key-file", key, "--drain-timeout", "1")
    serving.ready()
    engine = docked.pids("api")[0]
    main = docked.read("state")["members"][0]["main"]["pid"]
    # Only removal by the daemon ends it: it is neither ours by mark nor by descent.
    assert docked.docker.inside(engine)
    assert not {engine} & {*docked.carriers(), *(p.pid for p in descendants(parent(main)))}
    started = docked.docker.calls("run")[0]
    assert started["env"]["VLLM_API_KEY"] == "swordfish"
    assert started["argv"][started["argv"].index("--name") + 1] == box_of(docked)
    if kind == "SIGTERM":
        assert serving.end(signal.SIGTERM) == 143
    elif kind == "client":
        os.kill(main, signal.SIGKILL)
        assert serving.end() == 9
    else:
        if kind != "launcher":
            serving.send(signal.SIGSTOP)
            os.kill(parent(main), signal.SIGKILL)
        serving.process.kill()
        serving.end()
    until(lambda: engine not in docked.alive(), 5.0)
    removal = until(lambda: docked.docker.calls("rm"))
    assert removal[-1]["argv"] == ["rm", "--force", box_of(docked)]
    until(lambda: not docked.strays(), 5.0)
    until(lambda: not claimed(docked), 5.0)


@pytest.mark.parametrize("killed", [False, True])
def test_unreachable_daemon_keeps_the_claims(docked, killed):
    """What docker does not say is gone may still hold the devices."""
    serving = docked.serve("--runtime", "docker")
    serving.ready()
    engine, name = docked.pids("api")[0], box_of(docked)
    if killed:
        serving.send(signal.SIGSTOP)
    docked.docker.down()
    if killed:
        serving.end(signal.SIGKILL)
    else:
        assert serving.end() == 12
        assert f"container {name}" in serving.err()
        assert f"docker rm --force {name}" in serving.err()
        left = docked.read("exit")["left"]
        assert [(row["pid"], row["title"]) for row in left] == [(0, f"container {name}")]
    signed = f'"title": "container {name}"'
    until(lambda: any(signed in path.read_text() for path in docked.locks.iterdir()))
    assert engine in docked.alive()
    again = docked.run(*docked.serve_words("--runtime", "docker"))
    assert again.returncode == 7
    assert f"is not known to be gone: container {name}" in again.stderr
    assert f"next:  docker rm --force {name}" in again.stderr
    assert docked.docker.calls("rm") == []
    docked.docker.up()
    until(lambda: not claimed(docked))
    assert engine not in docked.alive()
    serving = docked.serve("--runtime", "docker")
    serving.ready()
    assert serving.end(signal.SIGTERM) == 143


def test_container_gets_the_devices_that_are_claimed(docked):
    """Not the first ones, which may be another tenant's."""
    shown = {"ASCEND_RT_VISIBLE_DEVICES": "8,9,10,11,12,13,14,15"}
    half = ("--runtime", "docker", "--devices", "8", "--allow-unvalidated")
    serving = docked.serve(*half, env=shown)
    serving.ready()
    words = docked.docker.calls("run")[0]["argv"]
    devices = [words[n + 1] for n, word in enumerate(words) if word == "--device"]
    assert devices[:8] == [f"/dev/davinci{n}" for n in range(8, 16)]
    held = [name for name in claimed(docked) if name.startswith("npu-")]
    assert sorted(held) == sorted(f"npu-{n}.lock" for n in range(8, 16))
    assert serving.end(signal.SIGTERM) == 143


def test_removal_that_hangs_has_failed(monkeypatch, tmp_path):
    monkeypatch.setattr(outside, "OUTSIDE_S", 0.3)
    script = 'sleep 60 & echo $! > "$1"; wait'
    pid = tmp_path / "pid"
    assert not outside.succeeds(
        ["/bin/sh", "-c", script, "container x", str(pid)], dict(os.environ)
    )
    until(lambda: not runs(int(pid.read_text())))


def test_no_docker(tree):
    done = tree.run(*tree.serve_words("--runtime", "docker"), PATH=str(tree.fake.bin))
    assert done.returncode == 6
    assert "there is no docker on PATH" in done.stderr
