# Made by ascend-v4 0.1.0 render compose; edit the topology and render again.
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
