"""The probes of a pod's servers: a small program in a ConfigMap, and how it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .common import quote, unexpanded
from .yamltext import Noted

__all__ = ["FOLDER", "PROBE", "probe_command", "probes", "shell_words"]

#: Where the ConfigMap with the program is mounted.
FOLDER = "/etc/ascend-v4"
#: Seconds between the probes of a starting pod.
PROBE_S = 10
PROBE = '''\
"""Probe every server of this pod: probe.py health|generate|idle:SECONDS MODEL ADDRESS PORT..."""
import json, os, pathlib, sys, threading, time, urllib.request

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


def counted(port, *names):
    lines = call(port, "/metrics").splitlines()
    named = tuple("vllm:" + name + end for name in names for end in (" ", "{"))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(named))


def tokens(port):
    """Tokens read and written so far; 0 where there are no metrics."""
    try:
        return counted(port, "generation_tokens_total", "prompt_tokens_total")
    except OSError:
        return 0.0


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


def idle(port, seconds):
    """Wait until nothing runs or waits in two readings, SECONDS at most."""
    end, quiet = time.monotonic() + seconds, 0
    while quiet < 2 and time.monotonic() < end:
        running = counted(port, "num_requests_running", "num_requests_waiting")
        quiet = 0 if running else quiet + 1
        time.sleep(0.5)


def probe(port):
    try:
        if what.startswith("idle:"):
            idle(port, float(what[5:]))
        else:
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


def shell_words(what: str, model: str, ports: Sequence[int], address: str = "$(POD_IP)") -> str:
    """Return the shell text that asks servers of the pod; probes expand no variables."""
    words = ["python3", f"{FOLDER}/probe.py", what, unexpanded(quote(model))]
    words.append(address.replace("$(POD_IP)", '"$POD_IP"'))
    return " ".join([*words, *map(str, ports)])


def probes(
    model: str, ports: Sequence[int], deadline_s: int, address: str = "$(POD_IP)"
) -> dict[str, Any]:
    """Return the three probes of a pod whose servers listen on ``ports``."""

    def run(what: str) -> dict[str, Any]:
        return {"exec": {"command": ["/bin/sh", "-c", shell_words(what, model, ports, address)]}}

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
