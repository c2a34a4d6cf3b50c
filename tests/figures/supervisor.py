"""The supervisor's figures, outside CI.

    python -m tests.figures.supervisor [--runs 200] [--cycles 200] [--only strays,…]
    python -m tests.figures.supervisor --runs 0 --real 10 [--kinds TERM,…] [--dp 1,2]

strays: processes alive 5 s after a kill, on the fake tree (``--runs`` a kind) or on the
real CPU engine (``--real`` a kind, single and data parallel 2). stop: seconds from TERM to
the end. report: seconds from a crash to the written exit report. size: memory and idle CPU
of launcher, guardian and watcher. ready: seconds to the first token against bare ``vllm
serve``. cycles: growth over starts. ``--runs 0`` leaves the fake engine out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from tests.figures.supervisor_real import real_ready, real_strays
from tests.run.real import KINDS as REAL_KINDS
from tests.support.fake_tree_run import Serving, Tree, until

KINDS = ("TERM", "INT", "launcher", "api", "core", "worker", "guardian", "pair")


def percentiles(values: list[float]) -> dict[str, float]:
    """Return p50, p99 and the largest of some seconds."""
    ordered = sorted(values)
    at = min(len(ordered) - 1, int(len(ordered) * 0.99))
    p50 = statistics.median(ordered)
    return {"p50": round(p50, 3), "p99": round(ordered[at], 3), "max": round(ordered[-1], 3)}


def hit(tree: Tree, serving: Serving, kind: str) -> None:
    """Do one kind of kill."""
    if kind in ("TERM", "INT"):
        serving.send(signal.Signals[f"SIG{kind}"])
    elif kind == "launcher":
        serving.process.kill()
    elif kind == "pair":
        os.kill(serving.process.pid, signal.SIGSTOP)
        os.kill(tree.keepers()[1], signal.SIGKILL)
        serving.process.kill()
    elif kind == "guardian":
        os.kill(tree.keepers()[1], signal.SIGKILL)
    else:
        os.kill(tree.pids(kind)[0], signal.SIGKILL)


def clean_after(tree: Tree, began: float) -> tuple[float, int]:
    """Return seconds until nothing is left (at most 5) and how many are left then."""
    while (left := tree.strays()) and time.monotonic() - began < 5.0:
        time.sleep(0.01)
    return time.monotonic() - began, len(left)


def fake_strays(place: Path, runs: int, kinds: list[str]) -> None:
    """Kill each part of the fake tree and count what is alive 5 s after the launcher's end."""
    for kind in kinds:
        strays, seconds, codes = 0, [], set()
        for number in range(runs):
            tree = Tree(place / f"{kind}-{number}", dp=2, tp=2, load_s=0)
            serving = tree.serve()
            serving.ready()
            until(lambda tree=tree: len(tree.alive()) == 12)
            hit(tree, serving, kind)
            codes.add(serving.end())
            took, left = clean_after(tree, time.monotonic())
            strays += left
            seconds.append(took)
            tree.kill_all()
            shutil.rmtree(tree.place)
        show("strays", engine="fake", kind=kind, runs=runs, strays=strays, codes=sorted(codes),
             clean_s=percentiles(seconds))  # fmt: skip


def stop_latency(place: Path, runs: int) -> None:
    """Seconds from TERM to the launcher's end, idle server."""
    seconds = []
    for number in range(runs):
        tree = Tree(place / f"stop-{number}", dp=2, tp=2, load_s=0)
        serving = tree.serve()
        serving.ready()
        began = time.monotonic()
        serving.end(signal.SIGTERM)
        seconds.append(time.monotonic() - began)
    show("stop", runs=runs, seconds=percentiles(seconds))


def crash_report(place: Path, runs: int) -> None:
    """Seconds from the SIGKILL of the API server to the written exit report."""
    seconds = []
    for number in range(runs):
        tree = Tree(place / f"crash-{number}", dp=2, tp=2, load_s=0)
        serving = tree.serve()
        serving.ready()
        began = time.monotonic()
        os.kill(tree.pids("api")[0], signal.SIGKILL)
        while not tree.read("exit"):
            time.sleep(0.005)
        seconds.append(time.monotonic() - began)
        serving.end()
    show("report", runs=runs, seconds=percentiles(seconds))


def size(place: Path, seconds: float) -> None:
    """Memory of launcher and guardian, and their CPU over an idle time with default probes."""
    tree = Tree(place / "size", dp=2, tp=2, load_s=0)
    serving = tree.serve()
    serving.ready()
    time.sleep(2)
    watcher, guardian = tree.keepers()
    pids = {"launcher": serving.process.pid, "guardian": guardian, "watcher": watcher}
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    before = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
    time.sleep(seconds)
    for name, process in processes.items():
        used = sum(process.cpu_times()[:2]) - before[name]
        memory = process.memory_full_info()
        show("size", process=name, rss_mb=round(memory.rss / 1e6, 1),
             pss_mb=round(memory.pss / 1e6, 1), uss_mb=round(memory.uss / 1e6, 1),
             fds=process.num_fds(), cpu_percent=round(100 * used / seconds, 3))  # fmt: skip
    serving.end(signal.SIGTERM)


def added_ready(place: Path, runs: int) -> None:
    """Seconds to the first token, ours and bare, in turn on the fake engine."""
    ours, bare = [], []
    for number in range(runs):
        tree = Tree(place / f"ready-{number}", load_s=0.1)
        began = time.monotonic()
        serving = tree.serve()
        serving.ready()
        ours.append(time.monotonic() - began)
        serving.end(signal.SIGTERM)
        began = time.monotonic()
        argv = [str(tree.fake.bin / "vllm"), "serve", "m", "--port", str(tree.port)]
        process = subprocess.Popen(argv, env=tree.env(), stderr=subprocess.DEVNULL)
        while not completes(f"http://127.0.0.1:{tree.port}", "fake"):
            time.sleep(0.01)
        bare.append(time.monotonic() - began)
        process.terminate()
        process.wait()
    added = statistics.median(ours) - statistics.median(bare)
    show("ready", engine="fake", runs=runs, ours=percentiles(ours), bare=percentiles(bare),
         added_s=round(added, 3))  # fmt: skip


def completes(url: str, model: str) -> bool:
    """Whether a server generates a token."""
    from ascend_v4.run.ready import ReadyProbe

    return ReadyProbe(url, model, timeout_s=10).generated()


def cycles(place: Path, count: int) -> None:
    """Processes, locks and temporary files before and after many starts and stops."""
    tree = Tree(place / "cycles", dp=1, tp=1, load_s=0)
    before = len(os.listdir("/tmp")), zombies()
    for _ in range(count):
        serving = tree.serve()
        serving.ready()
        serving.end(signal.SIGTERM)
        serving.log.unlink()
    after = len(os.listdir("/tmp")), zombies()
    kept, locks = len(tree.run_dirs()), len(os.listdir(tree.locks))
    show("cycles", count=count, strays=len(tree.strays()), locks=locks,
         run_folders=kept, tmp_entries=[before[0], after[0]],
         zombies=[before[1], after[1]])  # fmt: skip


def zombies() -> int:
    """Return how many of this machine's processes wait to be reaped."""
    return sum(p.info["status"] == psutil.STATUS_ZOMBIE for p in psutil.process_iter(["status"]))


def show(figure: str, **values: object) -> None:
    """Print one figure as a JSON line."""
    print(json.dumps({"figure": figure, **values}), flush=True)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--real", type=int, default=0)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--idle", type=float, default=60.0)
    parser.add_argument("--only", default="strays,stop,report,size,ready,cycles")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--dp", default="1,2")
    asked = parser.parse_args()
    wanted, kinds = asked.only.split(","), asked.kinds.split(",")
    few = min(asked.runs, 50)
    with tempfile.TemporaryDirectory(prefix="figures-") as name:
        place = Path(name)
        fake = {
            "size": lambda: size(place, asked.idle),
            "stop": lambda: stop_latency(place, few),
            "report": lambda: crash_report(place, few),
            "ready": lambda: added_ready(place, min(few, 20)),
            "cycles": lambda: cycles(place, asked.cycles),
            "strays": lambda: fake_strays(place, asked.runs, kinds),
        }
        replicas = [int(word) for word in asked.dp.split(",")]
        real_kinds = [kind for kind in REAL_KINDS if kind in kinds]
        real = {
            "ready": lambda: real_ready(place, min(asked.real, 3), show),
            "strays": lambda: real_strays(place, asked.real, real_kinds, replicas, show),
        }
        for work, runs in ((fake, asked.runs), (real, asked.real)):
            for figure, measure in work.items():
                if runs and figure in wanted:
                    measure()


if __name__ == "__main__":
    main()
