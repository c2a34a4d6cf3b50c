"""The probes of a pod's servers: a small program in a ConfigMap, and how it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .common import quote, unexpanded
from .yamltext import Noted

__all__ = ["FOLDER", "PROBE", "probe_command", "probes"]

#: Where the ConfigMap with the program is mounted.
FOLDER = "/etc/ascend-v4"
#: Seconds between the probes of a starting pod.
PROBE_S = 10
PROBE = '''\
"""Probe every server of this pod: probe.py health|generate MODEL ADDRESS PORT..."""
import json, os, pathlib, sys, threading, urllib.request

what, model, address, *ports = sys.argv[1:]
key = os.environ.get("VLLM_API_KEY")


def call(port, path, body=None, timeout=5):
    head = {"Content-Type": "application/json"}
    if key:
        head["Authorization"] = "Bearer " + key
    data = json.dumps(body).encode() if body else None
    ask = urllib.request.Request(f"http://{address}:{port}{path}", data, head)
    with urllib.request.urlopen(ask, timeout=timeout) as reply:
        return reply.read().decode()


def tokens(port):
    """Tokens read and written so far; 0 where there are no metrics."""
    try:
        lines = call(port, "/metrics").splitlines()
    except OSError:
        return 0.0
    named = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total")
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(named))


def generate(port):
    """One token, or work done since the last probe: a busy server is a ready one."""
    mark = pathlib.Path(f"/tmp/ascend-v4-{port}")
    done = tokens(port)
    if not (mark.exists() and done > float(mark.read_text())):
        ask = {"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}
        answer = json.loads(call(port, "/v1/completions", ask, timeout=50))
        if answer["usage"]["completion_tokens"] < 1:
            raise ValueError(f"{port}: no token")
        done = tokens(port)
    mark.write_text(str(done))


def probe(port):
    try:
        generate(port) if what == "generate" else call(port, "/health")
        good.append(port)
    except Exception as error:
        print(f"{port}: {error}", file=sys.stderr)


good = []
threads = [threading.Thread(target=probe, args=(port,)) for port in ports]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
sys.exit(len(good) < len(ports))
'''


def probe_command(what: str, model: str, address: str, ports: Sequence[int]) -> dict[str, Any]:
    """Return an exec probe of all of a pod's servers."""
    words = ["python3", f"{FOLDER}/probe.py", what, model, address, *map(str, ports)]
    return {"exec": {"command": [unexpanded(word) for word in words]}}


def probes(
    model: str, ports: Sequence[int], deadline_s: int, address: str = "$(POD_IP)"
) -> dict[str, Any]:
    """Return the three probes of a pod whose servers listen on ``ports``.

    The address is read by a shell, as probes expand no variables.
    """

    def run(what: str) -> dict[str, Any]:
        words = " ".join(
            [
                "python3",
                f"{FOLDER}/probe.py",
                what,
                unexpanded(quote(model)),
                address.replace("$(POD_IP)", '"$POD_IP"'),
            ]
            + [str(port) for port in ports]
        )
        return {"exec": {"command": ["/bin/sh", "-c", words]}}

    return {
        "startupProbe": Noted(
            {
                **run("health"),
                "periodSeconds": PROBE_S,
                "timeoutSeconds": PROBE_S,
                "failureThreshold": -(-deadline_s // PROBE_S),
            },
            f"A cold start may take {deadline_s} s: the usual 600 s would restart it for ever.",
        ),
        "readinessProbe": Noted(
            {**run("generate"), "periodSeconds": 30, "timeoutSeconds": 60, "failureThreshold": 3},
            "Ready means that every server has made a token, or has worked since the last probe.",
        ),
        "livenessProbe": Noted(
            {**run("health"), "periodSeconds": 30, "timeoutSeconds": 30, "failureThreshold": 10},
            "Five minutes of silence; a long prefill doesn't silence /health.",
        ),
    }
