"""A stand-in for the ``vllm`` program, copied onto a test's PATH by ``fakehost``.

Writes one JSON line {"argv", "env", "pid", "cwd"} a call to ``vllm-calls.jsonl`` beside
itself, then acts by ``vllm.json`` there:

  {"do": "exit", "code": 3, "after_s": 0.1, "stderr": ["line", ...]}
  {"do": "serve", "load_s": 0.2, "answer": "hello", "reasoning_field": "reasoning",
   "health": 200, "complete": "ok" | "error" | "hang", "sigterm": "exit" | "ignore",
   "die_after_s": 5, "code": 1}

Serving answers /health, /v1/models, /v1/completions and /v1/chat/completions (plain and
streamed) on the --host and --port of its arguments. Standard library only.
"""

import json
import os
import signal
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler

HERE = os.path.dirname(os.path.abspath(__file__))


def option(argv, name, default):
    """Return the value of ``--name VALUE`` or ``--name=VALUE``."""
    for at, word in enumerate(argv):
        if word == name and at + 1 < len(argv):
            return argv[at + 1]
        if word.startswith(name + "="):
            return word.split("=", 1)[1]
    return default


def record(argv):
    call = {"argv": argv, "env": dict(os.environ), "pid": os.getpid(), "cwd": os.getcwd()}
    with open(os.path.join(HERE, "vllm-calls.jsonl"), "a") as log:
        log.write(json.dumps(call) + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script = None
    model = ""

    def log_message(self, form, *values):
        sys.stderr.write("INFO: " + form % values + "\n")

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def error(self, status, message, kind):
        self.reply(status, {"error": {"message": message, "type": kind, "code": status}})

    def do_GET(self):
        if self.path == "/health":
            self.reply(self.script.get("health", 200), {})
        elif self.path == "/v1/models":
            one = {"id": self.model, "object": "model", "created": 0, "owned_by": "vllm"}
            self.reply(200, {"object": "list", "data": [one]})
        else:
            self.error(404, "Not Found", "NotFoundError")

    def do_POST(self):
        size = int(self.headers.get("Content-Length") or 0)
        try:
            asked = json.loads(self.rfile.read(size) or b"{}")
        except ValueError:
            return self.error(400, "not JSON", "BadRequestError")
        chat = self.path == "/v1/chat/completions"
        if not chat and self.path != "/v1/completions":
            return self.error(404, "Not Found", "NotFoundError")
        if asked.get("model") not in (None, self.model):
            message = f"The model `{asked['model']}` does not exist."
            return self.error(404, message, "NotFoundError")
        if self.script.get("complete") == "error":
            return self.error(500, "EngineCore encountered an issue.", "InternalServerError")
        if self.script.get("complete") == "hang":
            time.sleep(3600)
        return self.stream(asked, chat) if asked.get("stream") else self.whole(asked, chat)

    def parts(self, asked):
        """Return the (channel, text) pieces of the answer, by the thinking that was asked."""
        wanted = (asked.get("chat_template_kwargs") or {}).get("thinking")
        field = self.script.get("reasoning_field", "reasoning")
        thought = [(field, "a thought")] if wanted else []
        return [*thought, ("content", self.script.get("answer", "hello"))]

    def base(self, kind):
        return {"id": "fake-1", "object": kind, "created": 0, "model": self.model}

    def whole(self, asked, chat):
        parts = self.parts(asked) if chat else [("content", self.script.get("answer", "hello"))]
        if chat:
            choice = {"message": {"role": "assistant", **dict(parts)}}
        else:
            choice = {"text": parts[-1][1]}
        count = len(parts)
        usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": 1 + count}
        body = self.base("chat.completion" if chat else "text_completion")
        choices = [{"index": 0, **choice, "finish_reason": "stop"}]
        self.reply(200, {**body, "choices": choices, "usage": usage})

    def stream(self, asked, chat):
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        body = self.base("chat.completion.chunk" if chat else "text_completion")
        parts = self.parts(asked) if chat else [("content", self.script.get("answer", "hello"))]
        events = [{"delta": {channel: text}} if chat else {"text": text} for channel, text in parts]
        ends = [None] * len(events) + ["stop"]
        events.append({"delta": {}} if chat else {"text": ""})
        for event, end in zip(events, ends, strict=True):
            choices = [{"index": 0, **event, "finish_reason": end}]
            self.event(json.dumps({**body, "choices": choices}))
        self.event("[DONE]")

    def event(self, data):
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def serve(argv, script):
    Handler.script = script
    model = argv[1] if len(argv) > 1 and not argv[1].startswith("-") else "fake"
    Handler.model = option(argv, "--served-model-name", option(argv, "--model", model))
    time.sleep(script.get("load_s", 0))
    where = (option(argv, "--host", "127.0.0.1"), int(option(argv, "--port", "8000")))
    try:
        server = Server(where, Handler)
    except OSError as error:
        sys.stderr.write(f"OSError: {error}\n")
        return 1
    if "die_after_s" in script:
        timer = threading.Timer(script["die_after_s"], os._exit, [script.get("code", 1)])
        timer.daemon = True
        timer.start()
    sys.stderr.write("INFO: Application startup complete.\n")
    server.serve_forever()
    return 0


def main(argv):
    with open(os.path.join(HERE, "vllm.json")) as file:
        script = json.load(file)
    record(argv)
    if argv[:1] == ["--version"]:
        print(script.get("version", "0.0.0"))
        return 0
    ignore = script.get("sigterm") == "ignore"
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN if ignore else lambda *_: os._exit(0))
    for stream in ("stdout", "stderr"):
        for line in script.get(stream, ()):
            print(line, file=getattr(sys, stream), flush=True)
    if script["do"] == "exit":
        time.sleep(script.get("after_s", 0))
        return script.get("code", 0)
    return serve(argv, script)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
