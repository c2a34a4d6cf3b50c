"""A stand-in for ``vllm serve`` with the shape of its process tree, for the supervisor.

API server -> DPCoordinator, EngineCore_DPn -> Worker_TPn in sessions of their own, each
with a helper that is forked twice, so that its parent is gone. As with vLLM 0.32.0,
killing the API server leaves all others running; here workers outlive their engine core
too. Acts by ``vllm.json`` beside itself; every key may be left out:

  dp, tp            counts of engine cores and of workers each (1, 1)
  load_s            seconds of each phase of the start (0.02)
  die_phase, code   end with ``code`` in a phase: config, weights, profiling, graphs
  stderr            lines to write before it ends or serves
  exit_after_s      end with ``code`` that long after it serves
  last_words        lines to write just before that end
  hang_after_s      from then on completions hang; /health stays 200, counters stand still
  busy              completions hang, but counters move
  answer_s          seconds that one completion takes (0)
  transferred       prompt tokens whose KV cache came from elsewhere, as /metrics tells
  api_key           completions without it are refused
  ignore_term       roles that ignore TERM and INT: api, core, worker, helper
  term_code         exit code after TERM (0)
  leak              one worker stays when the server ends in order
  blind_core        engine cores don't mind the death of a worker
  bare              workers run with an empty environment
  traceable        workers may be traced by any process of their user (Yama forbids it)
  memory           path of a file that gets the pids of the workers, see fake_npu.py
  first             a script for the first start only, laid over this one

Each process adds a line {"role", "pid", "start"} to ``tree.jsonl``; the start time tells it
from a later process of the same pid. Standard library only.
"""

import contextlib
import ctypes
import json
import os
import signal
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler

HERE = os.path.dirname(os.path.abspath(__file__))
STATE = {"running": 0, "tokens": 0, "stopping": False, "began": time.monotonic()}
SCRIPT = {}


def option(argv, name, default):
    return argv[argv.index(name) + 1] if name in argv else default


def start_of(pid):
    """Return when a process started, in clock ticks since boot; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return None


def note(role):
    row = {"role": role, "pid": os.getpid(), "start": start_of(os.getpid())}
    with open(os.path.join(HERE, "tree.jsonl"), "a") as file:
        file.write(json.dumps(row) + "\n")


def say(text, who="APIServer", level="INFO"):
    os.write(2, f"({who} pid={os.getpid()}) {level} 11-23 20:51:12 [fake.py:1] {text}\n".encode())


def obey(role):
    ignored = role in SCRIPT.get("ignore_term", ())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)


def sleep_for_ever():
    while True:
        time.sleep(3600)


def child(role, work=lambda: None):
    """Fork a process of the tree; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        obey(role)
        note(role)
        work()
        sleep_for_ever()
    finally:
        os._exit(1)


def helper():
    """Fork twice, as a compiler's daemon does: the parent of the helper is gone at once."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        child("helper")
        os._exit(0)
    os.waitpid(pid, 0)


def worker():
    os.setsid()
    helper()
    if SCRIPT.get("traceable"):
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)
    if SCRIPT.get("memory"):
        with open(SCRIPT["memory"], "a") as file:
            file.write(f"{os.getpid()}\n")
    if SCRIPT.get("bare"):
        code = "import time; time.sleep(3600)"
        os.execve(sys.executable, [sys.executable, "-IS", "-c", code], {})


def core():
    for _ in range(SCRIPT.get("tp", 1)):
        child("worker", worker)
    if not SCRIPT.get("blind_core"):
        # A dead worker takes its engine core along.
        os.wait()
        os._exit(1)


def maybe_die(phase):
    if SCRIPT.get("die_phase") == phase:
        for line in SCRIPT.get("stderr", ()):
            os.write(2, line.encode() + b"\n")
        os._exit(SCRIPT.get("code", 1))


def start():
    """Write the log of a start, phase by phase, and make the tree; return the cores' pids."""
    pause = SCRIPT.get("load_s", 0.02)
    time.sleep(pause)
    maybe_die("config")
    child("coordinator")
    cores = [child("core", core) for _ in range(SCRIPT.get("dp", 1))]
    say("Initializing a V1 LLM engine (v0.32.0) with config: model='fake'", "EngineCore_DP0")
    say("Starting to load model fake...", "Worker")
    for done in range(3):
        time.sleep(pause)
        percent = f"{done * 50}% Completed | {done}/2 [00:00<?, ?it/s]"
        os.write(2, f"Loading safetensors checkpoint shards: {percent}\r".encode())
        if done:
            maybe_die("weights")
    say("Loading weights took 0.01 seconds", "Worker")
    time.sleep(pause)
    maybe_die("profiling")
    say("GPU KV cache size: 262,144 tokens", "EngineCore_DP0")
    for done in range(3):
        time.sleep(pause)
        bar = f"{done * 50}%|###| {done}/2 [00:00<00:00]"
        os.write(2, f"Capturing CUDA graphs (decode, FULL): {bar}\r".encode())
        if done:
            maybe_die("graphs")
    say("init engine (profile, create kv cache, warmup model) took 0.16 s", "EngineCore_DP0")
    return cores


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model = ""

    def log_message(self, form, *values):
        pass

    def reply(self, status, text, kind="application/json"):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def hung(self):
        after = SCRIPT.get("hang_after_s")
        return after is not None and time.monotonic() - STATE["began"] >= after

    def do_GET(self):
        if self.path == "/metrics":
            if SCRIPT.get("busy"):
                STATE["tokens"] += 7
            text = (
                f'vllm:prompt_tokens_total{{engine="0"}} {STATE["tokens"]}.0\n'
                f'vllm:num_requests_running{{engine="0"}} {STATE["running"]}.0\n'
            )
            if "transferred" in SCRIPT:
                labels = 'engine="0",source="external_kv_transfer"'
                count = SCRIPT["transferred"]
                text += f"vllm:prompt_tokens_by_source_total{{{labels}}} {count}\n"
            return self.reply(200, text, "text/plain")
        return self.reply(200, "{}")

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = SCRIPT.get("api_key")
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            return self.reply(401, "{}")
        if STATE["stopping"]:
            return self.reply(503, "{}")
        if self.hung() or (SCRIPT.get("busy") and STATE["tokens"]):
            sleep_for_ever()
        STATE["running"] += 1
        time.sleep(SCRIPT.get("answer_s", 0))
        STATE["running"] -= 1
        STATE["tokens"] += 6
        body = {
            "model": self.model,
            "choices": [{"index": 0, "text": SCRIPT.get("answer", "hello")}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
        }
        return self.reply(200, json.dumps(body))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def stop(argv, children):
    """End in order after TERM: let requests finish, then the children, then ourselves.

    Before several ranks vLLM has several API servers, and those cut their connections.
    """
    deadline = time.monotonic() + float(option(argv, "--shutdown-timeout", "0"))
    if int(option(argv, "--data-parallel-size", "1")) > 1:
        deadline = 0.0
    STATE["stopping"] = True
    while STATE["running"] and time.monotonic() < deadline:
        time.sleep(0.01)
    with open(os.path.join(HERE, "tree.jsonl")) as file:
        rows = [json.loads(line) for line in file]
    # Of earlier starts there are lines too, and their pids may be somebody else's by now.
    live = [row for row in rows if start_of(row["pid"]) == row["start"]]
    kept = 1 if SCRIPT.get("leak") else 0
    for entry in live:
        if entry["role"] == "worker" and kept:
            kept -= 1
            continue
        if entry["pid"] != os.getpid():
            with contextlib.suppress(OSError):
                os.kill(entry["pid"], signal.SIGTERM)
    os._exit(SCRIPT.get("term_code", 0))


def watch(cores):
    """End with 1 when an engine core died, as the real API server does."""
    while True:
        for pid in cores:
            done, _ = os.waitpid(pid, os.WNOHANG)
            if done and not STATE["stopping"]:
                say("Engine core process EngineCore_DP0 died unexpectedly.", level="ERROR")
                os._exit(1)
        time.sleep(0.1)


def main(argv):
    with open(os.path.join(HERE, "vllm.json")) as file:
        SCRIPT.update(json.load(file))
    marker = os.path.join(HERE, "started-before")
    if "first" in SCRIPT and not os.path.exists(marker):
        open(marker, "w").close()
        SCRIPT.update(SCRIPT["first"])
    note("api")
    obey("api")
    cores = start()
    where = (option(argv, "--host", "127.0.0.1"), int(option(argv, "--port", "8000")))
    Handler.model = option(argv, "--served-model-name", "fake")
    try:
        # A headless process has engines and no API.
        server = Server(where, Handler) if "--headless" not in argv else None
    except OSError as error:
        os.write(2, f"OSError: {error}\n".encode())
        return 1
    # A plain list: Event.set in a signal handler may wait for a lock that its own thread holds.
    asked = []
    if "api" not in SCRIPT.get("ignore_term", ()):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: asked.append(1))
    for work in (lambda: watch(cores), *([server.serve_forever] if server else [])):
        threading.Thread(target=work, daemon=True).start()
    for line in SCRIPT.get("stderr", ()):
        os.write(2, line.encode() + b"\n")
    say(f"Starting vLLM server on http://{where[0]}:{where[1]}")
    os.write(2, b"INFO:     Application startup complete.\n")
    STATE["began"] = time.monotonic()
    while not asked:
        time.sleep(0.05)
        after = SCRIPT.get("exit_after_s")
        if after is not None and time.monotonic() - STATE["began"] >= after:
            for line in SCRIPT.get("last_words", ()):
                os.write(2, line.encode() + b"\n")
            os._exit(SCRIPT.get("code", 1))
    stop(argv, cores)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
