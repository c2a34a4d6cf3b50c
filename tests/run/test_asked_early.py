"""Runs that are asked to end early, twice, or by a wrong name; keys no server could read."""

import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ascend_v4.errors import AscendV4Error
from ascend_v4.run.http import request
from ascend_v4.run.inherit import read_secret
from tests.support.fake_tree_run import runs, until


def slow_check(tree, seconds=60):
    """Let the engine's own check take a minute, so that a run stays in preparation."""
    python = tree.fake.bin / "python-slow"
    text = f'#!/bin/sh\nsleep {seconds}\nexec "{sys.executable}" "$@"\n'
    tree.fake.program("python-slow", text)
    vllm = tree.fake.bin / "vllm"
    vllm.write_text(f"#!{python}\n" + vllm.read_text().split("\n", 1)[1])
    return tree


def start(tree, *words):
    """Start a command; whoever calls waits for it."""
    pipe = subprocess.PIPE
    command = tree.command(*words)
    return subprocess.Popen(command, env=tree.env(), stdout=pipe, stderr=pipe, text=True)


def prepares(tree):
    return until(lambda: tree.read("state").get("state") == "preparing")


@pytest.mark.parametrize("how", ["drain", "now", "TERM"])
def test_a_run_in_preparation_is_stopped(tree, how):
    serving = slow_check(tree).serve()
    prepares(tree)
    seen = json.loads(tree.run("status", "--json").stdout)
    assert (seen["state"], seen["launcher"]["pid"]) == ("preparing", serving.process.pid)
    if how == "TERM":
        serving.process.send_signal(signal.SIGTERM)
    else:
        done = tree.run("stop", *(["--now"] if how == "now" else []))
        assert (done.returncode, done.stderr.splitlines()[-1]) == (
            0,
            f"{seen['run_id']} is stopped",
        )
    assert serving.end() == (128 + signal.SIGQUIT if how == "now" else 128 + signal.SIGTERM)
    assert (tree.run_dirs(), list(tree.locks.iterdir()), tree.pids()) == ([], [], [])


@pytest.mark.parametrize("how", ["KILL", "TERM"])
def test_the_engines_check_never_outlives_the_launcher(tree, how):
    """Nor does what the check started."""
    serving = slow_check(tree).serve()
    prepares(tree)
    check = until(lambda: [pid for pid in tree.carriers() if b"sleep" in cmdline(pid)])
    serving.process.send_signal(signal.Signals[f"SIG{how}"])
    serving.end()
    until(lambda: tree.strays() == [], 5.0)
    assert not runs(check[0])


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_descriptor_that_is_not_open_is_refused(tree, tmp_path):
    """A number that is free now would be one of our own locks when it is written to."""
    for number, says in (
        (3, "not open"),
        (8, "not open"),
        (1, "standard stream"),
        (-1, "standard"),
    ):
        done = tree.run(*tree.serve_words("--ready-fd", number))
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr
    with (tmp_path / "file").open("w") as file, (tmp_path / "file").open() as reader:
        command = tree.command(*tree.serve_words("--ready-fd", reader.fileno()))
        fds = [file.fileno(), reader.fileno()]
        done = subprocess.run(
            command, env=tree.env(), pass_fds=fds, capture_output=True, text=True, check=False
        )
    assert (done.returncode, "not open for writing" in done.stderr) == (2, True)
    assert tree.run_dirs() == []


def test_a_ready_file_that_cannot_be_made_is_refused(tree, tmp_path):
    done = tree.run(*tree.serve_words("--ready-file", tmp_path / "no" / "file"))
    assert (done.returncode, "no file can be made in" in done.stderr) == (2, True)


def test_a_ready_file_never_stands_for_what_does_not_serve(trees, tmp_path):
    """Not one of an earlier run while this one starts, nor ours when we were killed."""
    tree, file = trees(load_s=0.3), tmp_path / "ready"
    file.write_text("stale")
    serving = tree.serve("--ready-file", file)
    until(lambda: tree.read("state").get("starts"))
    until(lambda: not file.exists(), 1.0)
    serving.ready()
    assert file.exists()
    serving.process.kill()
    serving.end()
    until(lambda: not file.exists() and tree.strays() == [], 5.0)


@pytest.mark.parametrize(
    "words", [["--deadline", "nan"], ["--probe-interval", "inf"], ["--host", ""], ["--host", "a b"]]
)
def test_what_is_no_number_or_address_is_refused(tree, words):
    done = tree.run(*tree.serve_words(*words))
    assert (done.returncode, words[0] in done.stderr) == (2, True)


def test_two_stops_are_one_drain(trees):
    tree = trees(ignore_term=["api"])
    serving = tree.serve("--drain-timeout", "3")
    serving.ready()
    began = time.monotonic()
    first = start(tree, "stop")
    until(lambda: tree.read("state").get("state") == "draining")
    second = start(tree, "stop", tree.run_dirs()[0].name)
    assert [first.wait(60), second.wait(60)] == [0, 0]
    # The drain and 3 s, although somebody asked twice.
    assert time.monotonic() - began > 5.5
    assert serving.end() == 143


def test_wait_tells_a_stop_from_a_death(trees):
    tree = trees(load_s=30)
    run_id = tree.run(*tree.serve_words("--detach")).stdout.strip()
    until(lambda: tree.read("state").get("state") == "starting")
    waiting = start(tree, "wait", "--json")
    assert tree.run("stop", run_id).returncode == 0
    out, err = waiting.communicate(timeout=30)
    assert (waiting.returncode, json.loads(out)) == (
        143,
        {"run_id": run_id, "state": "stopped", "code": 143},
    )
    assert err == f"{run_id} was stopped by signal 15 before it was ready\n"


def test_reap_knows_runs_as_every_command_does(tree):
    serving = tree.serve()
    serving.ready()
    run_id = tree.run_dirs()[0].name
    serving.end(signal.SIGTERM)
    for name in (run_id, run_id[:12], "last"):
        done = tree.run("reap", name)
        assert (done.returncode, done.stderr) == (0, "no strays\n")
    done = tree.run("reap", "nonsense", "--yes")
    assert (done.returncode, "there is no run 'nonsense'" in done.stderr) == (2, True)


def test_the_folder_of_a_run_is_its_owners(tree):
    serving = tree.serve()
    serving.ready()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tree.run_dirs()}
    serving.end(signal.SIGTERM)
    assert modes == {0o700}


def test_a_lock_directory_that_cannot_be_leaves_no_run(tree):
    (tree.place / "file").write_text("")
    env = {"ASCEND_V4_LOCK_DIR": str(tree.place / "file" / "locks")}
    done = tree.run(*tree.serve_words(), **env)
    assert done.returncode == 6, done.stderr
    assert tree.run_dirs() == []


@pytest.mark.parametrize("text", ["one\ntwo", "schlüssel", "a\x00b"])
def test_a_key_that_no_header_can_hold_is_refused(tmp_path, text):
    file = tmp_path / "key"
    file.write_text(text)
    with pytest.raises(AscendV4Error) as caught:
        read_secret(str(file))
    assert (caught.value.code, caught.value.kind) == (2, "no-secret")


def test_a_key_that_no_header_can_hold_is_an_oserror():
    with pytest.raises(OSError, match="Invalid header value"):
        request("http://127.0.0.1:1", "/", key="one\ntwo", timeout_s=1)


@pytest.mark.parametrize("words", [["--api-key", "sw0rdfish-77"], ["--api-key=sw0rdfish-77"]])
@pytest.mark.parametrize("dry", [[], ["--dry-run", "--json"]])
def test_a_key_among_the_extra_arguments_is_refused(tree, words, dry):
    done = tree.run(*tree.serve_words(*dry, "--", *words))
    assert (done.returncode, done.stdout) == (3, "")
    assert "--api-key-file FILE" in done.stderr
    assert "sw0rdfish-77" not in done.stderr


def test_an_inherited_key_is_used_and_masked(trees):
    tree = trees(api_key="sw0rdfish-77", stderr=["the key is sw0rdfish-77"])
    serving = tree.serve(env={"VLLM_API_KEY": "sw0rdfish-77"})
    serving.ready()
    assert serving.end(signal.SIGTERM) == 143
    folder = tree.run_dirs()[0]
    texts = {path: path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert [path for path, text in texts.items() if "sw0rdfish-77" in text] == []
    assert "the key is ***" in texts[folder / "logs/server.log"]
    assert "sw0rdfish-77" not in serving.err()


def test_every_run_of_a_deployment_is_asked_to_stop(tmp_path, monkeypatch):
    from ascend_v4.cli import stop as module
    from ascend_v4.run import control
    from ascend_v4.run.state import RunDir

    asked = []

    def kept(run, **_how):
        asked.append(run.run_id)
        return [{"pid": 7, "title": "stuck"}] if run.run_id == "a" else []

    monkeypatch.setattr(control, "stop", kept)
    with pytest.raises(AscendV4Error) as caught:
        module.end([RunDir(tmp_path / "a"), RunDir(tmp_path / "b")], now=False, timeout_s=1)
    assert (asked, caught.value.code) == (["a", "b"], 12)
    assert caught.value.message == "a still runs: stuck (pid 7)"


def test_stop_names_a_deployment_that_is_not_here(tree):
    done = tree.run("stop", "--deployment", "nosuch")
    assert (done.returncode, done.stderr) == (0, "no run of nosuch is alive here\n")


def detaching(tree):
    """Start `serve --detach` on an engine that is slow to answer; return it when it prepares."""
    caller = start(slow_check(tree), *tree.serve_words("--detach"))
    prepares(tree)
    return caller


@pytest.mark.parametrize(("how", "name"), [([], "SIGTERM"), (["--now"], "SIGQUIT")])
def test_a_detached_run_that_is_stopped_early_tells_its_caller(tree, how, name):
    caller = detaching(tree)
    assert tree.run("stop", *how).returncode == 0
    out, err = caller.communicate(timeout=20)
    assert (caller.returncode, out) == (128 + getattr(signal, name), "")
    assert err.splitlines()[-1] == f"stopped by {name} before the engine was started"
    assert (tree.run_dirs(), list(tree.locks.iterdir())) == ([], [])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_end_of_a_caller_is_the_end_of_what_it_starts(tree, name):
    """Ctrl-C reaches the caller only: its launcher is in another session."""
    caller = detaching(tree)
    launcher = tree.read("state")["launcher"]["pid"]
    caller.send_signal(getattr(signal, name))
    assert caller.communicate(timeout=20) is not None
    assert caller.returncode == 128 + getattr(signal, name)
    until(lambda: not runs(launcher), 5)
    assert (tree.run_dirs(), list(tree.locks.iterdir()), tree.pids()) == ([], [], [])


def test_a_launcher_whose_caller_was_killed_starts_nothing(tree):
    slow_check(tree, 2)
    caller = start(tree, *tree.serve_words("--detach"))
    prepares(tree)
    launcher = tree.read("state")["launcher"]["pid"]
    caller.kill()
    caller.communicate(timeout=20)
    until(lambda: not runs(launcher), 30)
    assert (tree.run_dirs(), list(tree.locks.iterdir()), tree.pids()) == ([], [], [])
