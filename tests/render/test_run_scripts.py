"""The scripts, run: with a program in the engine's place that tells how it was called."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ascend_v4.core.plan import Process
from ascend_v4.render.k8s_pods import pods_of
from ascend_v4.render.targets import RenderOptions, render

from .cases import MORE, deployment

#: Tells its arguments and variables, then waits for TERM; $DIE_AFTER names one that dies.
PROGRAM = f"""#!{sys.executable} -IS
import json, os, signal, sys, time
place = os.path.dirname(os.path.abspath(__file__)) + "/told/"
signal.signal(signal.SIGTERM, lambda *_: (open(place + f"{{os.getpid()}}.term", "w"), os._exit(0)))
with open(place + f"{{os.getpid()}}.part", "w") as file:
    json.dump([[os.path.basename(sys.argv[0]), *sys.argv[1:]], dict(os.environ)], file)
os.rename(place + f"{{os.getpid()}}.part", place + f"{{os.getpid()}}.json")
if os.environ.get("DIE") in sys.argv:
    time.sleep(0.5)
    os._exit(7)
time.sleep(60)
"""


@pytest.fixture
def engine(tmp_path):
    """Return a folder whose programs take the engine's place."""
    for name in ("vllm", "vllm-router", "python"):
        (tmp_path / name).write_text(PROGRAM)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "told").mkdir()
    return tmp_path


def run(text: str, engine: Path, count: int, end: bool = True, **env: str):
    """Start a script, wait for its processes, end it; return what they told and its status."""
    variables = {"PATH": f"{engine}:/usr/bin:/bin", "STALE": "1", "VLLM_USE_V1": "0", **env}
    process = subprocess.Popen(
        ["bash", "-c", text, "script.sh"], env=variables, stderr=subprocess.PIPE, text=True
    )
    told = engine / "told"
    patience = time.monotonic() + 30
    while len(list(told.glob("*.json"))) < count and time.monotonic() < patience:
        assert process.poll() is None or not end, process.communicate()[1]
        time.sleep(0.05)
    if end:
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=40)
    calls = [json.loads(path.read_text()) for path in sorted(told.glob("*.json"))]
    return calls, process.returncode, errors


def told_flags(argv: list[str]) -> list[tuple[str, ...]]:
    """Return an argument list as the program and a sorted list of flags with their values."""
    groups: list[list[str]] = []
    for word in argv:
        if not groups or word.startswith("--"):
            groups.append([word])
        else:
            groups[-1].append(word)
    return [tuple(groups[0]), *sorted(map(tuple, groups[1:]))]


def check(calls: list, processes: list[Process]) -> None:
    """Compare what ran with the plan: the same flags, the same variables, nothing stale."""
    ran = sorted((told_flags(argv), env) for argv, env in calls)
    planned = sorted((told_flags(list(p.argv)), p.env, p.unset) for p in processes)
    assert [argv for argv, _ in ran] == [argv for argv, _, _ in planned]
    for (_, env), (_, wanted, unset) in zip(ran, planned, strict=True):
        assert {name: env.get(name) for name in wanted} == dict(wanted)
        assert not set(unset) & set(env)


@pytest.mark.parametrize("case", MORE)
def test_bash_runs_the_plan(case, engine, tmp_path):
    """Each node's script starts exactly the plan's processes, and TERM ends them all."""
    key = tmp_path / "api-key"
    key.write_text("swordfish\n")
    for planned in deployment(case).nodes:
        for old in (engine / "told").iterdir():
            old.unlink()
        processes = list(planned.plan.processes)
        text = render("bash", deployment(case), RenderOptions())[f"{planned.node.name}.sh"]
        text = text.replace("/etc/ascend-v4/api-key", str(key))
        calls, status, errors = run(text, engine, len(processes))
        assert (status, errors) == (143, "")
        check(calls, processes)
        assert len(list((engine / "told").glob("*.term"))) == len(processes)
        for name in {name for process in processes for name in process.secret_env}:
            keyed = [env for _, env in calls if env.get(name) == "swordfish"]
            assert len(keyed) == len([p for p in processes if name in p.secret_env])


def test_first_failure_ends_all(engine, tmp_path):
    """The status is that of the process that failed, and it is named."""
    key = tmp_path / "api-key"
    key.write_text("k")
    text = render("bash", deployment("a3-1p1d"), RenderOptions())["d0.sh"]
    text = text.replace("/etc/ascend-v4/api-key", str(key))
    calls, status, errors = run(text, engine, 16, end=False, DIE="7103")
    assert status == 7
    assert errors == "decode-0-r3 ended (status 7); stopping the rest\n"
    assert len(calls) == 16
    assert len(list((engine / "told").glob("*.term"))) == 15


def test_missing_key_file_starts_nothing(engine):
    text = render("bash", deployment("a3"), RenderOptions())["node.sh"]
    calls, status, errors = run(text, engine, 1, end=False)
    assert (calls, status) == ([], 1)
    assert "/etc/ascend-v4/api-key" in errors
    assert "server-0-0 ended (status 1)" in errors


def test_logs_of_their_own(engine, tmp_path):
    key, logs = tmp_path / "api-key", tmp_path / "logs"
    key.write_text("k")
    logs.mkdir()
    text = render("bash", deployment("a3-1p1d"), RenderOptions())["p0.sh"]
    run(text.replace("/etc/ascend-v4/api-key", str(key)), engine, 5, LOG_DIR=str(logs))
    names = ["prefill-0-r0", "prefill-0-r1", "prefill-0-r2", "prefill-0-r3", "router"]
    assert sorted(path.name for path in logs.iterdir()) == [f"{name}.log" for name in names]


@pytest.mark.parametrize("case", MORE)
def test_pods_run_the_plan(case, engine):
    """Each pod's script, with the variables of its place, starts that pod's processes."""
    options = RenderOptions()
    pods = pods_of(deployment(case), options)
    files = render("k8s-lws", deployment(case), options)
    for group in pods.groups:
        spec = yaml.safe_load(files[f"lws-{group.group.name}.yaml"])["spec"]
        inner = spec["leaderWorkerTemplate"]
        assert (spec["replicas"], inner["size"]) == (group.group.replicas, group.size)
        addresses = {place: f"10.1.{place[1]}.{place[0]}" for place in group.processes}
        getent = engine / "getent"
        for (worker, index), processes in group.processes.items():
            for old in (engine / "told").iterdir():
                old.unlink()
            head = addresses[0, index]
            getent.write_text(f'#!/bin/sh\n[ "$2" = leader ] && echo "{head} STREAM leader"\n')
            getent.chmod(0o755)
            name = "workerTemplate" if worker or "leaderTemplate" not in inner else "leaderTemplate"
            text = inner[name]["spec"]["containers"][0]["command"][-1]
            calls, status, _ = run(
                text, engine, len(processes),
                POD_IP=addresses[worker, index], LWS_LEADER_ADDRESS="leader",
                LWS_WORKER_INDEX=str(worker), LWS_GROUP_INDEX=str(index),
            )  # fmt: skip
            assert status == 143
            here = {"\ue000": addresses[worker, index], "\ue001": head}
            check(calls, [at(process, here) for process in processes])


def at(process: Process, addresses: dict[str, str]) -> Process:
    """Return a process with addresses in place of their marks."""
    from dataclasses import replace

    def put(word: str) -> str:
        for mark, address in addresses.items():
            word = word.replace(mark, address)
        return word

    env = {name: put(value) for name, value in process.env.items()}
    return replace(process, argv=tuple(map(put, process.argv)), env=env)


def test_docker_scripts_hand_over_the_plan(engine, tmp_path):
    """A stand-in for docker: its words are what a daemon would get; no daemon is at hand."""
    rest = PROGRAM.partition("\n")[2]
    only_run = "import sys\nsys.argv[1] == 'run' or sys.exit(0)\n"
    (engine / "docker").write_text(f"#!{sys.executable} -IS\n{only_run}{rest}")
    (engine / "docker").chmod(0o755)
    text = render("docker", deployment("pro-2xa3"), RenderOptions())["n1.sh"]
    calls, status, _ = run(text, engine, 1)
    ((argv, _),) = [call for call in calls if call[0][1] == "run"]
    assert status == 143
    process = deployment("pro-2xa3").nodes[1].plan.processes[0]
    image = argv.index("quay.io/ascend/vllm-ascend:v0.26.0rc1-a3")
    assert argv[argv.index("--entrypoint") + 1] == "/bin/bash"
    inner = argv[image + 1 :]
    assert inner[0] == "-c"
    assert inner[3] == "env"
    given = [argv[n + 1] for n, word in enumerate(argv[:image]) if word == "--env"]
    assert given == [f"{name}={value}" for name, value in process.env.items()]
    unset = [inner[n + 1] for n, word in enumerate(inner) if word == "-u"]
    assert tuple(unset) == process.unset
    assert tuple(inner[-len(process.argv) :]) == process.argv
    assert os.environ.get("VLLM_API_KEY") is None
