"""A deployment on three real vLLM nodes in network namespaces, outside CI; needs root.

    python -m tests.figures.cluster [--nodes 3] [--only term,rank,head,cut,coordinator]

For each kind of end: seconds to ready, how requests spread over the ranks, seconds from
the blow to the coordinator's end, its exit code, and what is left on any node 5 s later.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ascend_v4.rehearsal.build import build_rehearsal
from tests.cluster.deployment import gone
from tests.cluster.netns import Net, network, why_not
from tests.cluster.real import RealNodes

KINDS = ("term", "rank", "head", "cut", "coordinator")


def strike(nodes: RealNodes, kind: str) -> None:
    """Do one kind of harm."""
    last = nodes.net.count - 1
    process = nodes.deployment.process
    assert process is not None
    if kind == "term":
        process.terminate()
    elif kind == "coordinator":
        process.kill()
    elif kind == "cut":
        nodes.net.cut(last)
    else:
        os.kill(nodes.named(0 if kind == "head" else last, "VLLM::EngineCore"), signal.SIGKILL)


def one(place: Path, net: Net, kind: str) -> dict[str, object]:
    """Start, ask, strike, and look at what is left."""
    build_rehearsal(place / "models" / "rehearsal")
    names = [f"n{node}" for node in range(net.count)]
    group = {"name": "server", "nodes": names, "data_parallel_size": net.count}
    nodes = RealNodes(place, net, [{**group, "tensor_parallel_size": 1}])
    try:
        nodes.deployment.up("--no-check-engine", "--probe-interval", 5, "--probe-timeout", 4)
        ready = nodes.deployment.ready()["ready_s"]
        body = json.dumps({"model": "rehearsal", "prompt": "Hello", "max_tokens": 4})
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: nodes.ask("/v1/completions", body), range(24)))
        spread = nodes.finished()
        everyone = [pid for node in range(net.count) for pid in net.pids(node)]
        began = time.monotonic()
        strike(nodes, kind)
        code = nodes.deployment.end(timeout_s=180)
        ended = time.monotonic() - began
        left = gone(everyone, 5.0)
    finally:
        nodes.deployment.close()
        for node in range(net.count):
            for pid in net.pids(node):
                os.kill(pid, signal.SIGKILL)
    return {
        "kind": kind,
        "ready_s": ready,
        "requests_by_rank": spread,
        "end_s": round(ended, 1),
        "code": code,
        "left": len(left),
    }


def main() -> None:
    """Print one JSON line for each kind."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--only", default=",".join(KINDS))
    asked = parser.parse_args()
    if why_not():
        raise SystemExit(why_not())
    for kind in asked.only.split(","):
        with tempfile.TemporaryDirectory() as place, network(asked.nodes) as net:
            print(json.dumps(one(Path(place), net, kind)), flush=True)


if __name__ == "__main__":
    main()
