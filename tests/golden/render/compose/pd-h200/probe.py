# Made by ascend-v4 0.1.0 render compose; edit the topology and render again.
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
