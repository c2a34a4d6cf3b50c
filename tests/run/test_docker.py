"""``--runtime docker`` with a fake docker: no real daemon was available to these tests.

The fake runs the program on the host, outside the tree of its client as a daemon does,
and knows run, rm and inspect. It proves our argument lists and our clean-up, not docker.
"""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.support.fake_tree_run import parent, until

FAKE = '''#!{python} -IS
"""Enough of docker: run starts a container that outlives its client, rm kills it."""
import json, os, signal, subprocess, sys, time
HERE = os.path.dirname(os.path.abspath(__file__))
words = sys.argv[1:]
with open(HERE + "/docker.jsonl", "a") as file:
    file.write(json.dumps({{"argv": words, "key": os.environ.get("VLLM_API_KEY")}}) + "\\n")
box = lambda name: HERE + "/box-" + name
def pid_of(name):
    try:
        return int(open(box(name)).read() or 0)
    except OSError:
        return 0
if words[0] == "run":
    name = words[words.index("--name") + 1]
    inner = [words[words.index("--entrypoint") + 1], *words[words.index("IMAGE") + 1:]]
    if inner[:2] == ["/bin/bash", "-c"]:
        inner = inner[4:]
    inner[0] = HERE + "/vllm"
    env = {{k: v for k, v in os.environ.items() if not k.startswith("ASCEND_V4")}}
    code = "import os,sys,json; os.setsid(); p=os.fork(); p and os._exit(0); " \\
        "open(sys.argv[1],'w').write(str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"
    daemon = subprocess.Popen(
        ["setsid", sys.executable, "-IS", HERE + "/daemon.py", box(name), *inner], env=env)
    daemon.wait()
    while not pid_of(name):
        time.sleep(0.01)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: os.kill(pid_of(name), n))
    while os.path.exists("/proc/%d" % pid_of(name)):
        time.sleep(0.02)
    os.unlink(box(name))
elif words[0] == "rm":
    pid = pid_of(words[-1])
    if pid:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.unlink(box(words[-1]))
elif words[0] == "inspect":
    sys.exit(0 if pid_of(words[-1]) else 1)
'''


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
    tree = trees()
    fake = FAKE.replace("{{", "{").replace("}}", "}").replace("{python}", sys.executable)
    image = "quay.io/ascend/vllm-ascend:v0.23.0.post1-a3"
    tree.fake.program("docker", fake.replace('"IMAGE"', repr(image)))
    (tree.fake.bin / "daemon.py").write_text(
        "import os, sys\n"
        "if os.fork():\n    os._exit(0)\n"
        "os.setsid()\n"
        "for fd in (0,):\n    os.close(fd)\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "words = sys.argv[2:]\n"
        "if words[1:2] == ['-u']:\n"
        "    words = words[[n for n, w in enumerate(words) if w == 'vllm'][0]:]\n"
        "    words[0] = os.path.dirname(sys.argv[1]) + '/vllm'\n"
        "os.execv(words[0], words)\n"
    )
    return tree


def calls(tree):
    return [json.loads(line) for line in (tree.fake.bin / "docker.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["SIGTERM", "client", "launcher", "launcher and guardian"])
def test_container_never_outlives_the_run(docked, kind):
    key = docked.place / "key"
    key.write_text("swordfish")
    serving = docked.serve("--runtime", "docker", "--api-key-file", key, "--drain-timeout", "1")
    serving.ready()
    engine = docked.pids("api")[0]
    assert not any(engine == proc for proc in docked.carriers())
    name = f"ascend-v4-{docked.run_dirs()[-1].name}-server"
    started = calls(docked)[0]
    assert (started["argv"][0], started["key"]) == ("run", "swordfish")
    assert started["argv"][started["argv"].index("--name") + 1] == name
    if kind == "SIGTERM":
        assert serving.end(signal.SIGTERM) == 143
    elif kind == "client":
        os.kill(docked.read("state")["members"][0]["main"]["pid"], signal.SIGKILL)
        assert serving.end() == 9
    else:
        if kind != "launcher":
            serving.send(signal.SIGSTOP)
            os.kill(parent(docked.read("state")["members"][0]["main"]["pid"]), signal.SIGKILL)
        serving.process.kill()
        serving.end()
    until(lambda: engine not in docked.alive(), 5.0)
    removal = until(lambda: [c["argv"] for c in calls(docked) if c["argv"][0] == "rm"])
    assert removal[-1] == ["rm", "--force", name]
    until(lambda: not docked.strays(), 5.0)


def test_no_docker(tree):
    done = tree.run(*tree.serve_words("--runtime", "docker"), PATH=str(tree.fake.bin))
    assert done.returncode == 6
    assert "there is no docker on PATH" in done.stderr
