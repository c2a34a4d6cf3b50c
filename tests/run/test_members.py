"""Promise 3: several processes in one run; and runs of users who are not root."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress

import pytest

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.run.claims import Claims, claimed_by, lock_directory
from tests.support.fake_tree_run import ROOT, runs, until

NOBODY = 65534
AS_NOBODY = {"user": NOBODY, "group": NOBODY, "extra_groups": []}

#: Runs members given as JSON through the supervisor and prints its outcome.
RUNNER = """
import json, os, sys
from pathlib import Path
from ascend_v4.run.attempt import Options, Spec
from ascend_v4.run.logs import Terminal
from ascend_v4.run.notify import Notifier
from ascend_v4.run.ready import ReadyProbe
from ascend_v4.run.restart import RestartPolicy
from ascend_v4.run.state import RunDir
from ascend_v4.run.supervisor import Supervisor

asked = json.loads(sys.argv[1])
run = RunDir(Path(asked["directory"]))
(run.path / "logs").mkdir(parents=True, exist_ok=True)
run.lock({})
specs = [
    Spec(m["name"], tuple(m["argv"]), dict(os.environ), None, tuple(m.get("after", ())))
    for m in asked["members"]
]
gate = (lambda probe: asked["gate"]) if asked.get("gate") else None
if asked.get("url"):
    specs = [Spec(s.name, s.argv, s.env, ReadyProbe(asked["url"], "m")) for s in specs]
options = Options(deadline_s=20, drain_s=asked.get("drain_s", 1), gate=gate,
                  ready_check="gate" if gate else "generate")
supervisor = Supervisor(run, specs, options, RestartPolicy(False), Notifier(), Terminal(),
                        lambda s: print("ready", flush=True))
outcome = supervisor.supervise()
print(json.dumps(outcome.to_json()), flush=True)
"""


def sh(text, name, *after):
    return {"name": name, "argv": ["/bin/sh", "-c", text], "after": list(after)}


def members(tmp_path, *specs, **more):
    """Run members to their end; return the outcome, its run's folder and the seconds it took."""
    asked = {"directory": str(tmp_path / "20260101-000000-abcd"), "members": specs, **more}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(asked)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1]), asked["directory"], time.monotonic() - began


def test_06_first_failure_wins(tmp_path):
    ranks = [sh("sleep 60", f"rank{n}") for n in (0, 2, 3)]
    ranks.insert(1, sh("for i in $(seq 80); do echo line $i; done; sleep 1; exit 7", "rank1"))
    outcome, _, seconds = members(tmp_path, *ranks)
    failure = outcome["failure"]
    assert (outcome["code"], failure["member"], failure["engine_status"]) == (9, "rank1", 7)
    assert failure["message"].startswith("rank1 ended with exit code 7 while it served")
    assert failure["tail"] == [f"line {n}" for n in range(31, 81)]
    assert seconds < 5 + 1 + 1


def test_06_the_second_failure_changes_nothing(tmp_path):
    """Rank 0 fails because rank 1 failed: it is not the one to name."""
    slow = "trap 'exit 3' TERM; while :; do sleep 0.1; done"
    outcome, _, _ = members(tmp_path, sh(slow, "rank0"), sh("sleep 0.5; exit 7", "rank1"))
    assert (outcome["failure"]["member"], outcome["failure"]["engine_status"]) == ("rank1", 7)


def test_06_siblings_that_ignore_term_are_killed(tmp_path):
    stuck = "trap '' TERM; while :; do sleep 0.1; done"
    outcome, _, seconds = members(tmp_path, sh(stuck, "rank0"), sh("exit 7", "rank1"))
    assert outcome["code"] == 9
    assert seconds < 5 + 3


def test_members_start_in_order(tmp_path):
    """By the kernel's start times: what a busy machine lets them write first proves nothing."""
    mark = tmp_path / "order"
    write = f"echo $0 $(cut -d' ' -f22 /proc/$$/stat) >> {mark}; sleep 4; exit 0"
    specs = [
        {"name": "proxy", "argv": ["/bin/sh", "-c", write, "proxy"], "after": ["p", "d"]},
        {"name": "p", "argv": ["/bin/sh", "-c", write, "p"]},
        {"name": "d", "argv": ["/bin/sh", "-c", write, "d"], "after": ["p"]},
    ]
    outcome, _, _ = members(tmp_path, *specs)
    assert outcome["code"] == 0
    started = dict(line.split() for line in mark.read_text().splitlines())
    assert int(started["p"]) <= int(started["d"]) <= int(started["proxy"])


def test_program_that_cannot_start(tmp_path):
    outcome, _, _ = members(tmp_path, {"name": "server", "argv": ["/no/such/program"]})
    assert outcome["failure"]["engine_status"] == 127
    assert outcome["failure"]["tail"][0].startswith("ascend-v4: can't start /no/such/program")


def test_10_gate_that_finds_wrong_answers(tree, tmp_path):
    """The server generates tokens, and they are wrong: never ready, exit code 11."""
    argv = [str(tree.fake.bin / "vllm"), "serve", "m", "--port", str(tree.port)]
    argv += ["--served-model-name", "m"]
    outcome, _, _ = members(
        tmp_path,
        {"name": "server", "argv": argv},
        url=f"http://127.0.0.1:{tree.port}",
        gate="the same token 64 times",
    )
    assert (outcome["code"], outcome["ready_s"]) == (11, None)
    message = "the answers of server are wrong: the same token 64 times"
    assert outcome["failure"]["message"] == message


def interpreter():
    """Return a Python that nobody may run: ours may lie in root's home."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        code = "import sys; sys.path.insert(0, sys.argv[1]); import ascend_v4.run.supervisor"
        try:
            subprocess.run([python, "-c", code, ROOT], **AS_NOBODY, check=True, cwd="/",
                           stderr=subprocess.DEVNULL)  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            continue
        return python
    pytest.skip("nobody can't run any Python here")


@pytest.mark.skipif(os.geteuid() != 0, reason="drops root")
@pytest.mark.parametrize("kind", ["SIGTERM", "SIGKILL"])
def test_unprivileged_run_leaves_nothing(open_place, kind):
    """Guardian, subreaper and run id need no rights: the same promise as nobody."""
    stubborn = "trap '' TERM; (setsid sh -c \"trap '' TERM; while :; do sleep 1; done\" &) ; wait"
    asked = {
        "directory": str(open_place / "20260101-000000-beef"),
        "members": [sh(f"{stubborn}; while :; do sleep 1; done", "server")],
        "drain_s": 0,
    }
    process = subprocess.Popen(
        [interpreter(), "-c", RUNNER, json.dumps(asked)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", "ASCEND_V4_X": "1"},
        **AS_NOBODY,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"

    def ours():
        mark = b"ASCEND_V4_RUN_ID=20260101-000000-beef"
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/environ", "rb") as file:
                        found += [int(name)] if mark in file.read() else []
                except OSError:
                    continue
        return found

    until(lambda: len(ours()) >= 4)
    assert all(os.stat(f"/proc/{pid}").st_uid == NOBODY for pid in ours())
    process.send_signal(getattr(signal, kind))
    process.communicate(timeout=20)
    until(lambda: not ours(), 5.0)


# Claims


def test_18_claims_are_all_or_none(tmp_path):
    first = Claims(tmp_path, {"run_id": "one", "pid": 1, "user": "a"})
    second = Claims(tmp_path, {"run_id": "two", "pid": 2, "user": "b"})
    first.take(["npu-1"])
    with pytest.raises(AscendV4Error) as caught:
        second.take(["npu-0", "npu-1", "npu-2"])
    assert caught.value.code == ExitCode.BUSY
    assert caught.value.message == "npu 1 is in use by run one of a (pid 1)"
    assert second.held == {}
    first.release()
    second.take(["npu-0", "npu-1", "npu-2"])
    assert claimed_by(tmp_path, "npu-1")["run_id"] == "two"
    second.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="drops root")
def test_18_claims_hold_between_users(open_place):
    """Root has the claim; nobody is refused by name, and can take it afterwards."""
    env = {"ASCEND_V4_LOCK_DIR": str(open_place / "locks")}
    root = Claims(lock_directory(env), {"run_id": "of-root", "pid": os.getpid(), "user": "root"})
    root.take(["npu-0", "port-8000"])
    code = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from ascend_v4.errors import AscendV4Error
        from ascend_v4.run.claims import Claims, lock_directory
        directory = lock_directory(dict(os.environ))
        claims = Claims(directory, {"run_id": "of-nobody", "pid": os.getpid(), "user": "nobody"})
        try:
            claims.take(["npu-0"])
            print("taken")
        except AscendV4Error as error:
            print(error.code, error.message)
    """)

    python = interpreter()

    def nobody():
        done = subprocess.run(
            [python, "-c", code],
            cwd=ROOT,
            env={**env, "PATH": "/usr/bin:/bin"},
            **AS_NOBODY,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    assert nobody() == f"7 npu 0 is in use by run of-root of root (pid {os.getpid()})"
    root.release()
    assert nobody() == "taken"
    # Nobody died without a word; the file stays and root may take the claim over.
    root.take(["npu-0"])
    assert claimed_by(root.directory, "npu-0")["run_id"] == "of-root"
    root.release()


def test_lock_files_that_are_traps_are_refused(tmp_path):
    target = tmp_path / "precious"
    target.write_text("keep me")
    (tmp_path / "npu-0.lock").symlink_to(target)
    with pytest.raises(AscendV4Error) as caught:
        Claims(tmp_path, {"run_id": "x"}).take(["npu-0"])
    assert caught.value.code == ExitCode.HOST_NOT_READY
    assert target.read_text() == "keep me"
    os.mkfifo(tmp_path / "npu-1.lock")
    with pytest.raises(AscendV4Error):
        Claims(tmp_path, {"run_id": "x"}).take(["npu-1"])


def test_16_closed_and_stuck_terminals(trees):
    """Nobody reads our stderr, or it is closed: the engine logs on and serves."""
    tree = trees(stderr=["x" * 200] * 20000)
    read, write = os.pipe()
    serving = tree.serve(stderr=write)
    os.close(write)
    serving.ready()
    os.close(read)
    time.sleep(0.3)
    assert runs(tree.pids("api")[0])
    assert serving.end(signal.SIGTERM) == 143
    assert "Application startup complete" in (tree.run_dirs()[-1] / "logs/server.log").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_16_state_on_a_full_file_system(trees, tmp_path):
    """Log, state and exit report can't be written: the engine serves and stops all the same."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount here")
    try:
        tree = trees(stderr=["x" * 200] * 3000)
        tree.state = place
        serving = tree.serve()
        serving.ready()
        filler = place / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 512)
        assert os.statvfs(place).f_bavail == 0
        assert serving.end(signal.SIGTERM) == 143
        assert tree.alive() == []
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
