"""A stand-in for docker: a daemon that owns containers, and a client that only talks to it.

The daemon is started by a test, outside the tree of any run, as dockerd is. A container is
a subreaper of its own below the daemon, so killing docker's client, a guardian or a
launcher leaves it running; only the daemon ends it. Paths and network are the host's.
Copied beside the fake ``vllm`` as ``docker`` it is the client, ``daemon DIR`` the daemon.
Knows ``run``, ``rm --force``, ``ps -a -q --no-trunc --filter name=RE`` and ``inspect``.

``docker.json`` beside it scripts the next runs: ``{"code": 125, "stderr": ["line", …]}``
is a run that docker refuses. Each call adds a line to ``docker.jsonl``: argv, and the
container's environment of a run. Standard library only.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

FLAGS = {"--rm", "--init", "--privileged"}
GONE = (
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
    " Is the docker daemon running?"
)


def place(folder):
    """Return a path of the socket that is short enough for one, whatever the folder's is."""
    return f"/proc/self/fd/{os.open(folder, os.O_PATH)}/docker.sock"


# The client


def client(folder, words):
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(place(folder))
    except OSError:
        print(GONE, file=sys.stderr)
        return 1
    link.sendall(json.dumps({"argv": words, "env": dict(os.environ)}).encode() + b"\n")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: link.sendall(b"%d\n" % n))
    for line in link.makefile("rb"):
        told = json.loads(line)
        if "exit" in told:
            return told["exit"]
        os.write(told["fd"], bytes.fromhex(told["data"]))
    print("error waiting for container: unexpected EOF", file=sys.stderr)
    return 125


# The daemon


def parsed(words):
    """Return the options of a ``run``, each a list of values, the image and what follows."""
    options, at = {}, 1
    while words[at].startswith("-"):
        flag = words[at]
        options.setdefault(flag, []).append("" if flag in FLAGS else words[at + 1])
        at += 1 if flag in FLAGS else 2
    return options, words[at], words[at + 1 :]


def environment(options, given, folder):
    """Return what a container's program gets: what is named, nothing else of the client's."""
    env = {"PATH": f"{folder}:/usr/bin:/bin"}
    for word in options.get("--env", []):
        name, equals, value = word.partition("=")
        if equals or name in given:
            env[name] = value if equals else given[name]
    return env


class Container:
    """A program and all that comes of it, below a process that ends when they are gone."""

    def __init__(self, folder, argv, env):
        self.box = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "box", folder, *argv],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def show(self, say):
        """Pass on what it writes, read whether somebody listens or not."""
        while data := os.read(self.box.stdout.fileno(), 65536):
            say(2, data)

    def kill(self):
        with contextlib.suppress(OSError):
            self.box.stdin.close()
        self.box.wait()


def box(argv):
    """Be a container's init: run the program, end what is left when it or the daemon ends."""
    sys.path.insert(0, os.path.abspath(__file__).rsplit(os.sep, 3)[0])
    from ascend_v4.run.procs import descendants, scan

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: child.send_signal(n))
    threading.Thread(target=lambda: (sys.stdin.read(), child.kill()), daemon=True).start()
    code = child.wait()
    while left := [p for p in descendants(os.getpid(), scan()) if not p.over]:
        for proc in left:
            with contextlib.suppress(OSError):
                os.kill(proc.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)
    os._exit(code if code >= 0 else 128 - code)


class Daemon:
    def __init__(self, folder):
        self.folder, self.containers, self.links = folder, {}, []
        self.listener = None
        self.up()

    def up(self, *_):
        with contextlib.suppress(OSError):
            os.unlink(f"{self.folder}/docker.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(place(self.folder))
        self.listener.listen(50)

    def down(self, *_):
        """Be out of reach; containers go on, as with dockerd's live-restore."""
        os.unlink(f"{self.folder}/docker.sock")
        self.listener.close()
        for link in self.links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self.links.clear()

    def close(self, *_):
        for container in list(self.containers.values()):
            container.kill()
        os._exit(0)

    def serve(self):
        while True:
            try:
                self.listener.settimeout(0.05)
                link, _ = self.listener.accept()
            except OSError:
                time.sleep(0.05 if self.listener.fileno() < 0 else 0)
                continue
            self.links.append(link)
            threading.Thread(target=self.answer, args=(link,), daemon=True).start()

    def answer(self, link):
        def tell(what):
            with contextlib.suppress(OSError):
                link.sendall(json.dumps(what).encode() + b"\n")

        def say(fd, text):
            data = text if isinstance(text, bytes) else f"{text}\n".encode()
            tell({"fd": fd, "data": data.hex()})

        asked = json.loads(link.makefile("rb").readline())
        words = asked["argv"]
        note = {"argv": words}
        if words[0] == "run":
            note["env"] = environment(parsed(words)[0], asked["env"], self.folder)
        with open(f"{self.folder}/docker.jsonl", "a") as file:
            file.write(json.dumps(note) + "\n")
        tell({"exit": getattr(self, words[0])(words, asked, link, say)})
        link.close()

    def run(self, words, asked, link, say):
        with contextlib.suppress(OSError), open(f"{self.folder}/docker.json") as file:
            script = json.load(file)
            for line in script["stderr"]:
                say(2, line)
            return script["code"]
        options, image, rest = parsed(words)
        if not image:
            say(2, "docker: invalid reference format.")
            return 125
        name = options["--name"][0]
        if name in self.containers:
            say(2, f'docker: Error response from daemon: Conflict. "/{name}" is in use.')
            return 125
        inner = [options["--entrypoint"][0], *rest]
        # The image's own set-up is not here.
        inner = inner[4:] if inner[:2] == ["/bin/bash", "-c"] else inner
        made = Container(self.folder, inner, environment(options, asked["env"], self.folder))
        self.containers[name] = made
        threading.Thread(target=self.proxy, args=(link, made), daemon=True).start()
        made.show(say)
        code = made.box.wait()
        del self.containers[name]
        return code

    def proxy(self, link, container):
        """Pass on the signals that a client was sent; its end changes nothing."""
        with contextlib.suppress(OSError):
            while data := link.recv(4096):
                for number in data.split():
                    container.box.send_signal(int(number))

    def rm(self, words, asked, link, say):
        container = self.containers.get(words[-1])
        if container is None:
            say(2, f"Error response from daemon: No such container: {words[-1]}")
            return 1
        container.kill()
        # --rm takes it away a moment after its end.
        while self.containers.get(words[-1]) is container:
            time.sleep(0.005)
        say(1, words[-1])
        return 0

    def ps(self, words, asked, link, say):
        assert words[1:4] == ["-a", "-q", "--no-trunc"] and words[4] == "--filter"
        pattern = words[5].removeprefix("name=")
        for name in list(self.containers):
            if re.search(pattern, f"/{name}") or re.search(pattern, name):
                say(1, hashlib.sha256(name.encode()).hexdigest())
        return 0

    def inspect(self, words, asked, link, say):
        if words[-1] in self.containers:
            return 0
        say(2, f"Error: No such object: {words[-1]}")
        return 1


def daemon(folder):
    served = Daemon(folder)
    signal.signal(signal.SIGUSR1, served.down)
    signal.signal(signal.SIGUSR2, served.up)
    signal.signal(signal.SIGTERM, served.close)
    print("up", flush=True)
    served.serve()


if __name__ == "__main__":
    if sys.argv[1:2] == ["daemon"]:
        daemon(sys.argv[2])
    elif sys.argv[1:2] == ["box"]:
        sys.exit(box(sys.argv[3:]))
    else:
        sys.exit(client(os.path.dirname(os.path.abspath(__file__)), sys.argv[1:]))
