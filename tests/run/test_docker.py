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

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.request import LaunchRequest
from ascend_v4.render.docker import docker_argv
from ascend_v4.run import outside
from ascend_v4.run.links import linked_places
from ascend_v4.run.procs import descendants
from ascend_v4.run.state import lock_held
from tests.support.fake_docker_run import Docker
from tests.support.fake_tree_run import parent, runs, until
from tests.support.fakehost import FakeHost


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


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            "docker: Error response from daemon: pull access denied for x, repository does not"
            " exist or may require 'docker login'.",
            "docker can't get the image",
        ),
        (
            "docker: Error response from daemon: manifest for quay.io/x:y not found: manifest"
            " unknown: manifest unknown",
            "docker can't get the image",
        ),
        (
            "docker: Error response from daemon: error gathering device information while adding"
            ' custom device "/dev/davinci8": no such file or directory',
            "docker can't hand a device to the container",
        ),
        (
            "docker: Error response from daemon: failed to create task for container: failed to"
            " create shim task: OCI runtime create failed: runc create failed",
            "docker can't start the container",
        ),
    ],
)
def test_what_docker_refuses_is_the_host_and_never_restarted(docked, said, cause):
    docked.docker.refuse("Unable to find image 'x:y' locally", said)
    serving = docked.serve("--runtime", "docker", "--restart", "on-failure")
    assert serving.end() == 6
    assert f"first error: {cause}: {said}" in serving.err()
    assert docked.read("state")["starts"] == 1


def volumes(words):
    return [words[n + 1] for n, word in enumerate(words) if word == "--volume"]


def test_relative_directory_is_mounted_by_its_whole_path(docked):
    docked.model = "weights"
    serving = docked.serve("--runtime", "docker", cwd=docked.place)
    serving.ready()
    words = docked.docker.calls("run")[0]["argv"]
    whole = str(docked.place / "weights")
    assert volumes(words) == [f"{whole}:{whole}:ro"]
    assert words[words.index("serve") + 1] == whole
    assert serving.end(signal.SIGTERM) == 143


def test_blobs_behind_a_snapshots_links_are_mounted(docked):
    """As ``huggingface-cli download`` leaves it, and one file that lies elsewhere."""
    repo = docked.place / "models--o--n"
    blobs, snapshot = repo / "blobs", repo / "snapshots" / "0a1b"
    for made in (blobs, snapshot):
        made.mkdir(parents=True)
    for number, file in enumerate(sorted(docked.model.iterdir())):
        file.rename(blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    extra = docked.place / "notes.txt"
    extra.touch()
    (snapshot / "README").symlink_to(extra)
    (snapshot / "dangling").symlink_to("../../blobs/none")
    docked.model = snapshot
    serving = docked.serve("--runtime", "docker")
    serving.ready()
    assert volumes(docked.docker.calls("run")[0]["argv"]) == [
        f"{place}:{place}:ro" for place in (snapshot, docked.place, blobs)
    ]
    assert serving.end(signal.SIGTERM) == 143


def test_linked_places_of_a_linked_directory(tmp_path):
    """In the container the folder is no link, so its links mean other places there."""
    (tmp_path / "hub/blobs").mkdir(parents=True)
    (tmp_path / "hub/snapshot").mkdir()
    (tmp_path / "hub/blobs/a").touch()
    (tmp_path / "hub/snapshot/a.json").symlink_to("../blobs/a")
    (tmp_path / "hub/snapshot/b.json").symlink_to("a.json")
    (tmp_path / "hub/snapshot/old").symlink_to("../blobs")
    (tmp_path / "m").symlink_to("hub/snapshot")
    real = str(tmp_path / "hub/blobs")
    assert linked_places(str(tmp_path / "m")) == [(real, str(tmp_path / "blobs"))]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["serve", "--profile", "cpu", "--runtime", "docker"],
            "there is no official image of vllm",
        ),
        (["render", "docker", "--profile", "cpu"], "there is no official image of vllm"),
        (["render", "compose", "--profile", "cpu"], "there is no official image of vllm"),
        (
            ["render", "docker", "--chip", "a3", "--model-dir", "w"],
            "docker mounts absolute paths only, and the weights are in w",
        ),
    ],
)
def test_what_no_container_can_run_is_refused(ascend, words, said):
    done = ascend(*words)
    assert (done.code, done.out) == (3, "")
    assert said in done.err


def test_files_that_variables_name_are_mounted(tmp_path):
    """For the KV pool's back-ends; in the run where the host has them, else docker makes a
    folder."""
    env = {"MOONCAKE_CONFIG_PATH": "/etc/mooncake.json", "MMC_LOCAL_CONFIG_PATH": "/etc/mmc.conf"}
    request = LaunchRequest(chip="a3", model_dir="/w", env=env)
    plan = compile_plan(request, catalog()).plan
    fake = FakeHost(tmp_path).file("/etc/mooncake.json")
    assert volumes(docker_argv(plan, plan.processes[0]))[-3:-1] == [
        f"{path}:{path}:ro" for path in env.values()
    ]
    words = docker_argv(plan, plan.processes[0], host=fake.host())
    assert volumes(words) == ["/etc/mooncake.json:/etc/mooncake.json:ro", "/w:/w:ro"]
    assert "MOONCAKE_CONFIG_PATH=/etc/mooncake.json" in words


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
