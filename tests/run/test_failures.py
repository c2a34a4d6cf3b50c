"""Promises 3, 4, 5, 6, 7 on a fake engine: failures, readiness, hangs, phases, restarts."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from tests.support.fake_tree_run import Serving, until


@pytest.mark.parametrize("status", [0, 1, 2, 3, 7, 9, 77, 127, 128, 130, 137, 143, 200, 255])
def test_01_own_code_of_the_engine_is_in_the_report_only(trees, status):
    tree = trees(die_phase="profiling", code=status)
    serving = tree.serve()
    assert serving.end() == 9
    failure = tree.read("exit")["failure"]
    assert failure["engine_status"] == status
    assert failure["phase"] == "profiling"
    assert f"exit code {status} before it was ready (phase: profiling)" in failure["message"]


def test_engine_that_ends_in_order_by_itself(trees):
    """Somebody told the engine itself to stop: no failure, and no orphan either."""
    tree = trees(exit_after_s=1.5, code=0)
    serving = tree.serve()
    serving.ready()
    assert serving.end() == 0
    assert tree.strays() == []


def test_engine_that_ends_with_0_after_its_core_died(trees):
    """vLLM 0.32.0 does exactly that when its EngineCore is killed; it is a death."""
    line = "(APIServer pid=1) ERROR 11-23 20:51:12 [x.py:1] AsyncLLM output_handler failed."
    tree = trees(exit_after_s=1.5, code=0, last_words=[line])
    serving = tree.serve()
    serving.ready()
    assert serving.end() == 9
    assert tree.read("exit")["failure"]["first_error"] == "AsyncLLM output_handler failed."


ECHO = "RuntimeError: Engine core initialization failed. See root cause above."
FIRST_ERRORS = [
    ("vllm: error: unrecognized arguments: --bogus 3", 2, 3, "does not know a flag"),
    (
        "vllm serve: error: argument --compilation-config/-cc: 1 validation error",
        2,
        3,
        "refuses the value",
    ),
    (
        "(Worker pid=9) ERROR 11-23 20:57:56 [x.py:953] RuntimeError: Cannot find any model "
        "weights with `/w`",
        1,
        4,
        "weights or their files are missing",
    ),
    (
        "(Worker pid=9) ERROR 11-23 20:57:56 [x.py:953] torch.OutOfMemoryError: NPU out of memory",
        1,
        5,
        "does not fit",
    ),
    ("OSError: [Errno 98] Address already in use", 1, 7, "a port was taken"),
]


@pytest.mark.parametrize("line,status,code,says", FIRST_ERRORS)
def test_11_configuration_errors_never_restart(trees, line, status, code, says):
    tree = trees(die_phase="weights", code=status, stderr=[line, ECHO])
    serving = tree.serve("--restart", "on-failure")
    assert serving.end() == code
    end = tree.read("exit")
    assert says in end["failure"]["message"]
    assert [attempt["restart"] for attempt in end["attempts"]] == [
        f"exit code {code}: restarting doesn't help"
    ]


def test_08_hang_with_health_200(trees):
    tree = trees(hang_after_s=0.8)
    serving = tree.serve("--probe-interval", "0.5", "--probe-timeout", "0.5")
    serving.ready()
    began = time.monotonic()
    assert serving.end() == 10
    assert time.monotonic() - began < 0.8 + 3 * 1.0 + 3
    failure = tree.read("exit")["failure"]
    assert (failure["kind"], failure["code"]) == ("hung", 10)
    assert "3 one-token probes failed and no counter moved; /health says 200" in failure["message"]
    assert tree.strays() == []


def test_09_busy_is_not_hung(trees):
    """Every probe times out behind a long prefill, but the counters move."""
    tree = trees(busy=True)
    serving = tree.serve("--probe-interval", "0.3", "--probe-timeout", "0.2")
    serving.ready()
    time.sleep(4)
    assert serving.process.poll() is None
    assert serving.end(signal.SIGQUIT) == 131


def test_14_port_taken_between_check_and_bind(trees):
    tree = trees(load_s=0.2)
    serving = tree.serve()
    until(lambda: "weights" in serving.err())
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", tree.port))
        thief.listen()
        assert serving.end() == 7
    assert "a port was taken: OSError: [Errno 98] Address already in use" in serving.err()


def test_18_second_launch_names_the_first(trees):
    """Same devices, other port; then same port, no device in common: both are refused."""
    first = trees("one")
    second = trees("two")
    second.locks = first.locks
    half = ("--devices", "8", "--allow-unvalidated")
    serving = first.serve(*half)
    serving.ready()
    run_id = first.run_dirs()[-1].name
    done = second.run(*second.serve_words())
    assert done.returncode == 7
    assert f"npu 0 is in use by run {run_id}" in done.stderr
    assert second.run_dirs() == []
    second.port = first.port
    done = second.run(*second.serve_words(*half), ASCEND_RT_VISIBLE_DEVICES="8,9,10,11,12,13,14,15")
    assert done.returncode == 7
    assert f"port {first.port} is in use by run {run_id}" in done.stderr
    assert f"next:  ascend-v4 stop {run_id}" in done.stderr
    assert serving.end(signal.SIGINT) == 130


def test_claims_outlive_a_killed_launcher_until_the_engine_is_gone(trees):
    tree = trees(ignore_term=["api", "core", "worker"])
    serving = tree.serve()
    serving.ready()
    serving.process.kill()
    serving.end()
    done = tree.run(*tree.serve_words())
    assert done.returncode == 7
    until(lambda: not tree.strays(), 5.0)
    again = tree.serve()
    again.ready()
    assert again.end(signal.SIGQUIT) == 131


def test_19_deadline_names_the_phase(trees):
    tree = trees(load_s=30)
    serving = tree.serve("--deadline", "3")
    assert serving.end() == 8
    assert 3.0 <= tree.read("exit")["ended_at"] - tree.read("state")["started_at"] < 3.3 + 1.5
    failure = tree.read("exit")["failure"]
    assert (failure["kind"], failure["phase"]) == ("not-ready", "starting the engine")
    assert "phase: starting the engine; last seen: nothing listens yet" in failure["message"]


def test_phases_are_told(trees):
    tree = trees()
    serving = tree.serve()
    serving.ready()
    serving.end(signal.SIGINT)
    told = [
        line.partition(" s: ")[2].partition(" (deadline")[0]
        for line in serving.err().splitlines()
        if line.startswith("ascend-v4: phase after ")
    ]
    assert told == [
        "creating the engine",
        "building the model",
        "weights 0/2",
        "weights 2/2",
        "profiling",
        "allocating the KV cache",
        "graph capture 0/2",
        "graph capture 2/2",
        "starting the API server",
        "listening",
        "waiting for the first token",
    ]


def test_restart_after_a_death(trees):
    """The first start dies, ten seconds later the second serves; no descriptor stays open."""
    tree = trees(first={"exit_after_s": 1.5, "code": 3})
    serving = tree.serve("--restart", "on-failure")
    first = serving.ready()
    launcher = psutil.Process(serving.process.pid)
    until(lambda: tree.read("state").get("state") == "ready")
    opened = launcher.num_fds()
    until(lambda: tree.read("state").get("state") == "waiting")
    assert tree.strays() == []
    assert tree.read("state")["phase"] == "start 2 in 10 s"
    assert serving.ready() == first
    until(lambda: launcher.num_fds() <= opened)
    assert serving.end(signal.SIGINT) == 130
    attempts = tree.read("exit")["attempts"]
    assert [attempt["code"] for attempt in attempts] == [9, 130]


#: The same program, less patient: 3 s instead of 120 s for the memory to come back.
IMPATIENT = (
    "import sys; from ascend_v4.run import memory; memory.WAIT_S = 3.0; "
    "from ascend_v4.cli import main; sys.exit(main())"
)


@pytest.fixture
def stranger():
    """Run a process that is none of ours."""
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


def test_13_no_restart_while_somebody_holds_the_memory(trees, stranger):
    """The start's own workers give theirs back; a stranger took some meanwhile."""
    tree = trees()
    memory = tree.npus(exit_after_s=2, code=3)
    command = [sys.executable, "-c", IMPATIENT, *map(str, tree.serve_words("--restart"))]
    serving = Serving(tree, [*command, "on-failure"])
    tree.servings.append(serving)
    serving.ready()
    with memory.open("a") as file:
        file.write(f"{stranger.pid}\n")
    assert serving.end() == 12
    failure = tree.read("exit")["failure"]
    assert (failure["kind"], failure["message"]) == (
        "memory-not-returned",
        f"no restart: device 0 holds 40.0 GiB more than before; held by sleep (pid {stranger.pid})",
    )
    assert "next:  ascend-v4 reap" in serving.err()
    assert tree.read("exit")["left"] == []
    assert tree.strays() == []


def test_13_restart_when_the_memory_is_back(trees, stranger):
    tree = trees()
    memory = tree.npus(first={"exit_after_s": 2, "code": 3})
    serving = tree.serve("--restart", "on-failure")
    serving.ready()
    with memory.open("a") as file:
        file.write(f"{stranger.pid}\n")
    until(lambda: tree.read("state").get("phase") == "waiting for device memory")
    time.sleep(1)
    assert tree.read("state")["phase"] == "waiting for device memory"
    stranger.kill()
    stranger.wait()
    until(lambda: tree.read("state").get("phase") == "start 2 in 10 s")
    serving.ready()
    assert serving.end(signal.SIGINT) == 130


def test_signal_while_waiting_for_memory(trees, stranger):
    tree = trees()
    memory = tree.npus(exit_after_s=2, code=3)
    serving = tree.serve("--restart", "on-failure")
    serving.ready()
    with memory.open("a") as file:
        file.write(f"{stranger.pid}\n")
    until(lambda: tree.read("state").get("phase") == "waiting for device memory")
    began = time.monotonic()
    assert serving.end(signal.SIGTERM) == 143
    assert time.monotonic() - began < 2.0


def test_signal_during_back_off(trees):
    tree = trees(die_phase="weights")
    serving = tree.serve("--restart", "on-failure")
    until(lambda: tree.read("state").get("state") == "waiting")
    began = time.monotonic()
    assert serving.end(signal.SIGTERM) == 143
    assert time.monotonic() - began < 1.0


def test_ready_tells_scripts_and_systemd(tree, tmp_path):
    read, write = os.pipe()
    address = tmp_path / "notify"
    ready_file = tmp_path / "ready.json"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(10)
        options = ("--ready-fd", write, "--ready-file", ready_file, "--json")
        serving = tree.serve(*options, pass_fds=[write], env={"NOTIFY_SOCKET": str(address)})
        os.close(write)
        with os.fdopen(read) as pipe:
            news = json.loads(pipe.read())
        assert news["endpoint"] == f"http://127.0.0.1:{tree.port}/v1"
        assert json.loads(ready_file.read_text()) == news
        messages = [systemd.recv(4096).decode()]
        while not messages[-1].startswith("READY=1"):
            messages.append(systemd.recv(4096).decode())
        assert serving.end(signal.SIGINT) == 130
        assert not ready_file.exists()
        tail = [systemd.recv(4096).decode() for _ in range(2)]
    assert any("STATUS=weights" in message for message in messages)
    assert [message.splitlines()[0] for message in tail] == ["STOPPING=1", "STOPPING=1"]


def heard(systemd, until_s):
    """Return what systemd hears until a moment of the monotonic clock."""
    messages = []
    while (left := until_s - time.monotonic()) > 0:
        systemd.settimeout(left)
        with contextlib.suppress(TimeoutError):
            messages.append(systemd.recv(4096).decode())
    return messages


def test_watchdog_of_systemd_hears_while_it_lives_and_not_while_it_hangs(trees, tmp_path):
    """Every half of WATCHDOG_USEC, also before it is ready; nothing once it is found hung."""
    tree = trees(hang_after_s=2.5, ignore_term=["api"])
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        probes = ("--probe-interval", "0.5", "--probe-timeout", "0.5")
        env = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "400000"}
        serving = tree.serve(*probes, env=env)
        serving.ready()
        alive = heard(systemd, time.monotonic() + 2.0).count("WATCHDOG=1")
        assert alive >= 7
        until(lambda: "probe failed (3 of 3)" in serving.err())
        heard(systemd, time.monotonic() + 0.4)
        # The deaf server is being killed for 5 s.
        hung = heard(systemd, time.monotonic() + 3.0)
        assert "WATCHDOG=1" not in hung
        assert serving.end() == 10


def test_watchdog_is_told_nothing_by_a_launcher_that_stands_still(trees, tmp_path):
    tree = trees()
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        serving = tree.serve(env={"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "400000"})
        serving.ready()
        serving.send(signal.SIGSTOP)
        heard(systemd, time.monotonic() + 0.4)
        assert heard(systemd, time.monotonic() + 1.0) == []
        serving.send(signal.SIGCONT)
        assert "WATCHDOG=1" in heard(systemd, time.monotonic() + 1.0)
        assert serving.end(signal.SIGTERM) == 143


def test_gate_without_a_gate_is_refused(tree):
    done = tree.run(*tree.serve_words("--ready-check", "gate"))
    assert (done.returncode, done.stdout) == (3, "")
    assert "this installation has no answer gate" in done.stderr
