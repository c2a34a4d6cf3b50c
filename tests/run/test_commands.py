"""Promise 8 and the commands on runs: detach, status, wait, stop, logs, ps, reap."""

import json
import os
import signal
import socket
import subprocess

from ascend_v4.run.procs import boot_id, start_of
from ascend_v4.run.state import RunDir, write_atomic
from tests.support.fake_tree_run import runs, until


def detach(tree, *options):
    done = tree.run(*tree.serve_words("--detach", *options))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_life_of_a_detached_run(trees):
    tree = trees(dp=2, stderr=["token: hunter2-hunter2-hunter2"])
    key = tree.place / "key"
    key.write_text("swordfish-1234\n")
    run_id = detach(tree, "--api-key-file", key)
    waited = tree.run("wait", "--for", "ready", "--timeout", "30")
    assert waited.stdout == f"http://127.0.0.1:{tree.port}/v1\n"
    seen = json.loads(tree.run("status", "--json").stdout)
    assert (seen["run_id"], seen["state"], seen["starts"]) == (run_id, "ready", 1)
    assert {proc["pid"] for proc in seen["processes"]} >= set(tree.alive())
    assert sorted(seen["resources"]) == sorted(
        [f"port-{tree.port}", *(f"npu-{number}" for number in range(16))]
    )
    assert run_id in tree.run("ps").stdout
    assert json.loads(tree.run("reap", run_id, "--json").stdout)["strays"] == []
    stopped = tree.run("stop", run_id)
    assert (stopped.returncode, stopped.stderr.splitlines()[-1]) == (0, f"{run_id} is stopped")
    assert tree.strays() == []
    again = tree.run("stop", run_id)
    assert (again.returncode, again.stderr) == (0, f"{run_id} is stopped\n")
    assert (tree.run("stop").returncode, tree.run("stop").stderr) == (0, "no run is alive\n")
    assert tree.run("wait", run_id, "--for", "stopped").stdout == f"{run_id}\n"
    assert tree.run("ps").stdout == "RUN  STATE  AGE  MODEL  ENDPOINT  CODE\n"
    logs = tree.run("logs", run_id, "-n", "1000").stdout
    assert "Application startup complete." in logs
    assert all(line[4] == "-" and line[10] == "T" and line[23] == "Z" for line in logs.splitlines())
    everything = "".join(p.read_text() for p in tree.run_dirs()[0].rglob("*") if p.is_file())
    assert "swordfish" not in everything
    assert "hunter2" not in everything
    assert "token: ***" in logs
    rows = [json.loads(line) for line in tree.run("logs", "--json", "-n", "9").stdout.splitlines()]
    assert [f"{row['time']} {row['text']}" for row in rows] == logs.splitlines()[-9:]
    assert {row["member"] for row in rows} == {"server"}


def test_detached_failures_reach_the_caller(tree):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", tree.port))
        holder.listen()
        done = tree.run(*tree.serve_words("--detach"))
    assert (done.returncode, done.stdout) == (7, "")
    assert f"port {tree.port} (OpenAI-compatible API) is held by" in done.stderr
    assert tree.run_dirs() == []
    assert list(tree.locks.iterdir()) == []


def test_wait_gives_the_exit_code_of_a_run_that_failed(trees):
    tree = trees(load_s=0.3, die_phase="weights", code=1, stderr=["MemoryError: NPU out of memory"])
    detach(tree)
    done = tree.run("wait", "--for", "ready")
    assert done.returncode == 5
    assert "does not fit into device memory" in done.stderr
    assert tree.run("wait", "last", "--for", "stopped").returncode == 0


def test_wait_gives_up(trees):
    tree = trees(load_s=30)
    run_id = detach(tree)
    done = tree.run("wait", "--timeout", "0.5")
    assert (done.returncode, run_id in done.stderr) == (8, True)
    assert json.loads(tree.run("status", "--json").stdout)["state"] == "starting"
    assert tree.run("stop", "--now").returncode == 0
    assert tree.read("exit")["stopped_by"] == "SIGQUIT"


def test_which_run(trees):
    tree = trees()
    none = tree.run("status")
    assert (none.returncode, "this user has no run" in none.stderr) == (2, True)
    ids = []
    for _ in range(2):
        ids.append(detach(tree))
        tree.run("stop", "--now")
    both = tree.run("status")
    assert both.returncode == 2
    assert "there are 2 runs and none was named" in both.stderr
    assert all(run_id in both.stderr for run_id in ids)
    assert json.loads(tree.run("status", "last", "--json").stdout)["run_id"] == ids[-1]


def test_logs_follow_until_the_end(trees):
    # The follower comes before the log does, and stays for all of it.
    tree = trees(load_s=1)
    run_id = detach(tree)
    follower = subprocess.Popen(
        tree.command("logs", run_id, "-f", "-n", "0", "--json"),
        env=tree.env(),
        stdout=subprocess.PIPE,
        text=True,
    )
    tree.run("wait")
    tree.run("stop")
    out, _ = follower.communicate(timeout=20)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [set(row) for row in rows] == [{"member", "time", "text"}] * len(rows)
    assert "INFO:     Application startup complete." in [row["text"] for row in rows]


def test_a_torn_line_of_a_log_is_shown_whole(tree):
    """Where a full disk cut a line, its text has no time of its own."""
    path = tree.state / "ascend-v4" / "runs" / "20200101-000000-aaaa" / "logs"
    path.mkdir(parents=True)
    (path / "b.log").write_text("2026-11-23T20:51:12.001Z whole \u00e4\n12.002Z torn\n")
    (path / "a.log").write_text("2026-11-23T20:51:13.001Z \n")
    assert tree.run("logs", "--json").stdout.splitlines() == [
        '{"member": "a", "time": "2026-11-23T20:51:13.001Z", "text": ""}',
        '{"member": "b", "time": "2026-11-23T20:51:12.001Z", "text": "whole \u00e4"}',
        '{"member": "b", "time": null, "text": "12.002Z torn"}',
    ]
    assert tree.run("logs").stdout.splitlines() == [
        "a | 2026-11-23T20:51:13.001Z ",
        "b | 2026-11-23T20:51:12.001Z whole \u00e4",
        "b | 12.002Z torn",
    ]


def test_status_of_a_killed_launcher_tells_the_truth(tree):
    """The state file still says ready; the kernel says otherwise."""
    run_id = detach(tree)
    tree.run("wait")
    os.kill(tree.read("state")["launcher"]["pid"], signal.SIGKILL)
    until(lambda: not tree.strays(), 5.0)
    assert tree.read("state")["state"] == "ready"
    seen = json.loads(tree.run("status", run_id, "--json").stdout)
    assert (seen["state"], seen["launcher"], seen["processes"]) == ("lost", None, [])
    assert tree.run("wait", run_id, "--timeout", "5").returncode == 9
    assert tree.run("stop", run_id).returncode == 0


def test_15_recycled_pid_is_not_signalled(tree):
    """A state file names the pid of a stranger, with the start time of another process."""
    stranger = subprocess.Popen(["sleep", "60"])
    path = tree.state / "ascend-v4" / "runs" / "20200101-000000-aaaa"
    (path / "logs").mkdir(parents=True)
    entry = {"pid": stranger.pid, "start": start_of(stranger.pid) - 1}
    state = {
        "run_id": path.name,
        "boot_id": boot_id(),
        "state": "ready",
        "launcher": entry,
        "members": [{"name": "server", "guardian": entry, "main": entry, "processes": [entry]}],
    }
    write_atomic(path / "state.json", state)
    assert tree.run("stop", path.name).returncode == 0
    assert tree.run("reap", path.name, "--yes").stderr == "no strays\n"
    assert runs(stranger.pid)
    # With the true start time, but of another boot, it is a stranger as well.
    entry["start"] += 1
    write_atomic(path / "state.json", {**state, "boot_id": "another"})
    assert RunDir(path).recorded() == []
    assert tree.run("stop", path.name).returncode == 0
    assert runs(stranger.pid)
    stranger.kill()
    stranger.wait()


def test_damaged_state_is_survived(tree):
    path = tree.state / "ascend-v4" / "runs" / "20200101-000000-aaaa"
    (path / "logs").mkdir(parents=True)
    for text in ("", "{", "[]", '{"members": [{"main": {"pid": "x"}}, {}]}', "\0\0"):
        (path / "state.json").write_text(text)
        assert tree.run("status").returncode == 0
        assert tree.run("stop", path.name).returncode == 0


def test_17_cycles_leave_nothing(tree):
    """Ten starts and stops: no process, lock or temporary file more than before."""
    for _ in range(10):
        serving = tree.serve()
        serving.ready()
        assert serving.end(signal.SIGTERM) == 143
    assert tree.strays() == []
    assert list(tree.locks.iterdir()) == []
    files = [p.name for p in tree.run_dirs()[-1].rglob("*")]
    assert sorted(files) == [
        "exit.json", "launcher.lock", "logs", "plan.json", "server.log", "state.json",
    ]  # fmt: skip
    assert len(tree.run_dirs()) == 10


def test_interrupted_write_keeps_the_old_state(tmp_path):
    run = RunDir(tmp_path)
    assert run.write("state", {"a": 1})
    assert not RunDir(tmp_path / "none").write("state", {"a": 1})
    assert run.read("state") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["state.json"]


def test_wait_tells_before_from_after(trees):
    """Ready once and over by now is neither ready nor `before it was ready`."""
    tree = trees(exit_after_s=1.0, code=0)
    run_id = tree.serve().end() == 0 and tree.run_dirs()[0].name
    done = tree.run("wait", run_id)
    assert (done.returncode, done.stdout) == (17, "")
    assert f"{run_id} ended after it had been ready" in done.stderr
    assert tree.run("wait", run_id, "--for", "stopped").returncode == 0
    tree.script()
    serving = tree.serve()
    serving.ready()
    assert serving.end(signal.SIGTERM) == 143
    done = tree.run("wait", "last")
    assert (done.returncode, done.stdout) == (143, "")
    assert "was stopped by signal 15 after it had been ready" in done.stderr


def test_stop_that_waits_too_short_says_so(trees):
    tree = trees(ignore_term=["api"])
    serving = tree.serve("--drain-timeout", "3")
    serving.ready()
    done = tree.run("stop", "--timeout", "0.5")
    run_id = tree.run_dirs()[0].name
    assert (done.returncode, done.stderr.splitlines()[1:]) == (
        8,
        [
            f"error: {run_id} was not stopped within 0.5 s",
            f"next:  ascend-v4 stop {run_id} --now",
        ],
    )
    assert serving.end() == 143


def test_status_tells_what_is_waited_for(trees):
    tree = trees(die_phase="weights")
    serving = tree.serve("--restart", "on-failure")
    until(lambda: tree.read("state").get("state") == "waiting")
    assert "  phase      start 2 in 10 s\n" in tree.run("status").stdout
    assert serving.end(signal.SIGTERM) == 143


ODD = ["a\u2028b", "a\x85b", "a\x0cb", "a\x1cb", ""]


def test_only_a_line_feed_ends_a_line_of_a_log(tree):
    path = tree.state / "ascend-v4" / "runs" / "20200101-000000-aaaa" / "logs"
    path.mkdir(parents=True)
    (path / "a.log").write_text("".join(f"2026-11-23T20:51:12.001Z {text}\n" for text in ODD))
    for words in (("logs",), ("logs", "-f")):
        lines = tree.run(*words, "--json", "-n", "9").stdout.split("\n")[:-1]
        assert [json.loads(line)["text"] for line in lines] == ODD


def test_a_follower_sees_odd_lines_whole(trees):
    tree = trees(stderr=ODD[:-1], load_s=0.5)
    run_id = detach(tree)
    words = tree.command("logs", run_id, "-f", "-n", "0", "--json")
    follower = subprocess.Popen(words, env=tree.env(), stdout=subprocess.PIPE, text=True)
    tree.run("wait")
    tree.run("stop")
    out, _ = follower.communicate(timeout=20)
    texts = [json.loads(line)["text"] for line in out.split("\n")[:-1]]
    assert [text for text in texts if text in ODD[:-1]] == ODD[:-1]


def test_logs_look_behind_a_rotation(tree):
    path = tree.state / "ascend-v4" / "runs" / "20200101-000000-aaaa" / "logs"
    path.mkdir(parents=True)
    for name, first in (("a.log.2", 0), ("a.log.1", 100), ("a.log", 200)):
        text = "".join(f"line {number}\n" for number in range(first, first + 100))
        (path / name).write_text(text if name != "a.log" else "line 200\n")
    for count in (1, 2, 101, 102, 150, 999):
        lines = tree.run("logs", "-n", str(count)).stdout.splitlines()
        assert lines == [f"line {number}" for number in range(201)][-count:]
    assert tree.run("logs", "-n", "0").stdout == ""
