"""Promises 1 and 2 on a fake engine: signals, and nothing left behind.

The numbers in the tests' names are rows of the reliability table in docs/supervisor.md.
"""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.request

import pytest

from tests.support.fake_tree_run import runs, until

TREE = {"dp": 2, "tp": 2}
#: api, coordinator, 2 cores, 4 workers, 4 helpers that were forked twice
PROCESSES = 12


def whole(tree):
    """Wait until every process of the tree runs; return their pids."""
    return until(lambda: (pids := tree.alive()) and len(pids) == PROCESSES and pids)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGQUIT"])
def test_02_stopped_by_a_signal(trees, name):
    tree = trees(**TREE)
    serving = tree.serve()
    serving.ready()
    whole(tree)
    number = getattr(signal, name)
    assert serving.end(number) == 128 + number
    assert tree.strays() == []
    end = tree.read("exit")
    assert (end["code"], end["stopped_by"], end["left"]) == (128 + number, name, [])
    assert tree.read("state")["state"] == "stopped"
    assert list(tree.locks.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_02_forwarded_signals(tree, name):
    """The fake engine, like vLLM, dies of them: then the run was stopped by that signal."""
    serving = tree.serve()
    serving.ready()
    number = getattr(signal, name)
    assert serving.end(number) == 128 + number
    assert tree.strays() == []


def test_02_hup_is_nothing_under_nohup(tree):
    serving = tree.serve(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    serving.ready()
    serving.send(signal.SIGHUP)
    time.sleep(0.5)
    assert serving.process.poll() is None
    assert serving.end(signal.SIGTERM) == 143


def test_03_term_ignored_by_all(trees):
    """KILL comes when the drain time is over: in 1 s + 5 s at most."""
    tree = trees(**TREE, ignore_term=["api", "core", "worker", "helper"])
    serving = tree.serve("--drain-timeout", "1")
    serving.ready()
    began = time.monotonic()
    assert serving.end(signal.SIGTERM) == 143
    assert 1.0 <= time.monotonic() - began <= 6.0
    assert tree.strays() == []


def test_02_second_signal_stops_now(trees):
    tree = trees(ignore_term=["api", "core", "worker", "helper"])
    serving = tree.serve()
    serving.ready()
    serving.send(signal.SIGTERM)
    until(lambda: tree.read("state")["state"] == "draining")
    assert serving.process.poll() is None
    began = time.monotonic()
    assert serving.end(signal.SIGINT) == 143
    assert time.monotonic() - began < 2.0
    assert tree.strays() == []


@pytest.mark.parametrize("ignore", [[], ["core", "worker", "helper"]], ids=["", "term-ignored"])
@pytest.mark.parametrize("role", ["launcher", "api", "core", "worker"])
def test_04_sigkill_of_any_part(trees, role, ignore):
    """Five seconds after, nothing is alive, although some processes ignore TERM."""
    tree = trees(**TREE, ignore_term=ignore)
    serving = tree.serve()
    serving.ready()
    whole(tree)
    victim = serving.process.pid if role == "launcher" else tree.pids(role)[0]
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    code = serving.end()
    until(lambda: not tree.strays(), 5.0)
    assert time.monotonic() - began < 5.0
    assert code == (-9 if role == "launcher" else 9)
    if role != "launcher":
        failure = tree.read("exit")["failure"]
        assert (failure["kind"], failure["member"]) == ("engine-died", "server")
        assert failure["engine_status"] == (-9 if role == "api" else 1)


def test_04_guardian_killed(trees):
    """The watcher, a child subreaper, inherits the engine and ends it."""
    tree = trees(**TREE)
    serving = tree.serve()
    serving.ready()
    whole(tree)
    os.kill(tree.keepers()[1], signal.SIGKILL)
    assert serving.end() == 9
    assert tree.strays() == []
    assert list(tree.locks.iterdir()) == []


def test_04_watcher_killed(trees):
    """The guardian goes on without: nothing happens, and the end is as always."""
    tree = trees(**TREE)
    serving = tree.serve()
    serving.ready()
    whole(tree)
    os.kill(tree.keepers()[0], signal.SIGKILL)
    time.sleep(0.5)
    assert len(tree.alive()) == PROCESSES
    assert serving.end(signal.SIGTERM) == 143
    assert tree.strays() == []


@pytest.mark.parametrize("second", ["guardian", "watcher"])
def test_04_launcher_and_another_killed_at_once(trees, second):
    """Workers of another session, without our mark and deaf to TERM, end all the same."""
    tree = trees(**TREE, bare=True, ignore_term=["api", "core", "worker", "helper"])
    serving = tree.serve()
    serving.ready()
    whole(tree)
    watcher, guardian = tree.keepers()
    os.kill(serving.process.pid, signal.SIGSTOP)
    os.kill({"guardian": guardian, "watcher": watcher}[second], signal.SIGKILL)
    os.kill(serving.process.pid, signal.SIGKILL)
    assert serving.end() == -9
    until(lambda: not tree.strays(), 5.0)


def test_04_all_three_killed_at_once(trees):
    """The engine is asked to stop by its parent-death signal; `reap` ends the rest."""
    tree = trees(**TREE, ignore_term=["api", "core", "worker", "helper"])
    serving = tree.serve()
    serving.ready()
    whole(tree)
    ours = [serving.process.pid, *tree.keepers()]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in ours:
            os.kill(pid, number)
    assert serving.end() == -9
    run_id = tree.run_dirs()[-1].name
    shown = tree.run("reap", run_id, "--json")
    assert shown.returncode == 0, shown.stderr
    strays = json.loads(shown.stdout)
    assert {row["pid"] for row in strays["strays"]} == set(tree.alive())
    assert (strays["killed"], len(tree.alive())) == (False, PROCESSES)
    assert tree.run("reap", run_id, "--yes").returncode == 0
    assert tree.strays() == []
    assert tree.run("reap", run_id).stderr == "no strays\n"


def test_05_processes_with_an_empty_environment(trees):
    """A worker that dropped our run id is still a descendant of the guardian."""
    tree = trees(**TREE, bare=True, ignore_term=["worker"])
    serving = tree.serve()
    serving.ready()
    whole(tree)
    serving.process.kill()
    serving.end()
    until(lambda: not tree.strays(), 5.0)


def test_05b_clean_exit_that_leaves_a_worker(trees):
    tree = trees(leak=True, ignore_term=["worker", "helper"])
    serving = tree.serve()
    serving.ready()
    assert serving.end(signal.SIGINT) == 130
    assert tree.strays() == []
    assert [row["pid"] for row in tree.read("exit")["killed"]] != []


@pytest.mark.parametrize("phase", ["weights", "graphs", "draining"])
def test_07_term_in_every_phase(trees, phase):
    tree = trees(load_s=0.6, answer_s=30)
    serving = tree.serve("--drain-timeout", "1", "--ready-check", "none")
    if phase == "draining":
        serving.ready()
        serving.send(signal.SIGTERM)
        until(lambda: tree.read("state")["state"] == "draining")
        number, limit = signal.SIGTERM, 3.0
    else:
        words = {"weights": " s: weights", "graphs": " s: graph capture"}
        until(lambda: words[phase] in serving.err())
        number, limit = signal.SIGTERM, 6.0
    began = time.monotonic()
    assert serving.end(number) == 143
    assert time.monotonic() - began < limit
    assert tree.strays() == []


def test_20_drain_timeout_is_part_of_the_plan(tree):
    words = tree.serve_words("--dry-run", "--json", "--drain-timeout", "7")
    plan = json.loads(tree.run(*words).stdout)
    (process,) = plan["processes"]
    argv = process["argv"]
    assert argv[argv.index("--shutdown-timeout") + 1] == "7"
    assert process["drain_s"] == 7
    assert plan["origins"]["flag.shutdown-timeout"] == "rule:drain-ascend"


def test_20_requests_in_flight_finish(trees):
    tree = trees(answer_s=3)
    serving = tree.serve("--drain-timeout", "10", "--probe-interval", "0")
    url = serving.ready()
    codes = []

    def ask():
        request = urllib.request.Request(f"{url}/completions", b"{}")
        with urllib.request.urlopen(request, timeout=20) as reply:
            codes.append(reply.status)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()

    def running():
        with urllib.request.urlopen(url.replace("/v1", "/metrics")) as reply:
            return b'num_requests_running{engine="0"} 8.0' in reply.read()

    until(running)
    assert serving.end(signal.SIGTERM) == 143
    for thread in threads:
        thread.join()
    assert codes == [200] * 8


def test_fork_bomb_ends(trees):
    """Processes that keep forking are killed as fast as they come."""
    tree = trees()
    bomb = tree.fake.bin / "vllm"
    bomb.write_text(
        "#!/bin/sh\ntrap '' TERM\n"
        "spin() { trap '' TERM; for i in 1 2 3 4 5 6 7 8; do sleep 0.1; done; spin & }\n"
        "spin & spin & spin & spin &\nwhile :; do sleep 1; done\n"
    )
    serving = tree.serve()
    until(lambda: len(tree.carriers()) > 5)
    serving.process.kill()
    serving.end()
    until(lambda: not tree.carriers(), 5.0)


def test_a_bystander_is_never_touched(tree):
    """Same program, same name, no run id: not ours."""
    bystander = subprocess.Popen(["bash", "-c", "exec -a VLLM::EngineCore sleep 60"])
    serving = tree.serve()
    serving.ready()
    serving.process.kill()
    serving.end()
    until(lambda: not tree.strays(), 5.0)
    tree.run("reap", tree.run_dirs()[-1].name, "--yes")
    assert runs(bystander.pid)
    bystander.kill()
    bystander.wait()
