"""A hub on loopback that speaks the protocol the real clients use, and can misbehave.

``Hub`` is the server; what it understands is a :class:`Protocol` (ModelScope here,
Hugging Face in ``hub_hf``); files, faults, tokens and the request log are shared.
ModelScope's requests as modelscope-hub 0.5.1 sends them:

* ``GET /api/v1/models/{org}/{name}/repo/files?Revision=…&Recursive=True``
* ``GET /api/v1/repos/internalAccelerationInfo`` (answered with 404: no region)
* ``GET /api/v1/models/{org}/{name}/repo?Revision=…&FilePath=…`` with ``Range``
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol as Interface
from urllib.parse import parse_qs, urlsplit

PORTAL = b"<html><body>Please log in to the guest network</body></html>"
LISTING = "listing"


@dataclass
class Repo:
    """The files of one repository and how it lists them."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("master", "main")
    token: str | None = None
    hashes: bool = True
    #: Listed as they are, for paths and sizes that no file has.
    extra: list[dict[str, object]] = field(default_factory=list)
    #: What ``master`` is now, told in the listing; earlier commits keep their files.
    commit: str | None = None
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    #: Answer files with a redirect to this base address.
    redirect: str | None = None

    def at(self, revision: str) -> dict[str, bytes] | None:
        """Return the files of a revision, None for one there isn't."""
        if revision in self.revisions or (self.commit and revision == self.commit):
            return self.files
        return self.commits.get(revision)

    def push(self, commit: str, files: dict[str, bytes]) -> None:
        """Move the branch on to a new commit."""
        if self.commit:
            self.commits[self.commit] = self.files
        self.commit, self.files = commit, files


@dataclass
class Fault:
    """A way to misbehave, for one file (or :data:`LISTING`) and ``times`` requests.

    ``corrupt`` flips the byte at ``at``; ``drop`` and ``reset`` end the connection
    after ``at`` bytes of the answer, ``stall`` sends nothing more from there on;
    ``status`` answers ``value``; ``html`` is a captive portal; ``refuse`` is HTTP 200
    with ``Success: false``; ``empty`` lists nothing; ``trickle`` sends ``value`` bytes
    a second from byte ``at`` on; ``length`` announces ``value`` bytes more than there
    are; ``norange`` answers a range with the whole file. With ``open_only`` only
    requests without a bounded range meet it.
    """

    kind: str
    path: str
    times: int = 1 << 30
    at: int = 0
    value: int = 0
    open_only: bool = False


@dataclass(frozen=True)
class Seen:
    """One request as it came in, and the body bytes that were sent for it."""

    path: str
    file: str
    headers: dict[str, str]
    sent: list[int]

    @property
    def bytes_sent(self) -> int:
        return sum(self.sent)


@dataclass(frozen=True)
class Wanted:
    """What a request asks for: a repository, and a file in it or its listing."""

    repo: str
    revision: str
    file: str


class Protocol(Interface):
    """How a hub's URLs and listings look."""

    def route(self, url: str) -> Wanted | None:
        """Return what a URL asks for, None for anything else."""

    def listing(self, repo: Repo, files: dict[str, bytes], url: str) -> object:
        """Return the body of a listing."""

    def headers(self, repo: Repo, body: bytes) -> dict[str, str]:
        """Return what a file's answer carries beside the usual headers."""


class ModelScope:
    """The part of ModelScope's API that a model download uses."""

    def route(self, url: str) -> Wanted | None:
        parts, prefix = urlsplit(url), "/api/v1/models/"
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if not parts.path.startswith(prefix):
            return None
        for end, file in (("/repo/files", LISTING), ("/repo", query.get("FilePath", ""))):
            if parts.path.endswith(end):
                repo = parts.path[len(prefix) : -len(end)]
                return Wanted(repo, query.get("Revision", "master"), file)
        return None

    def listing(self, repo: Repo, files: dict[str, bytes], url: str) -> object:
        rows: list[dict[str, object]] = []
        for path, content in files.items():
            row: dict[str, object] = {"Name": path.rsplit("/", 1)[-1], "Path": path}
            row |= {"Type": "blob", "Size": len(content)}
            if repo.hashes:
                row["Sha256"] = hashlib.sha256(content).hexdigest()
            if repo.commit:
                row["Revision"] = repo.commit
            rows.append(row)
        folders = {path.rsplit("/", 1)[0] for path in files if "/" in path}
        rows += [{"Name": name, "Path": name, "Type": "tree", "Size": 0} for name in folders]
        data: dict[str, object] = {"Files": rows + repo.extra}
        if repo.commit:
            data["LatestCommitter"] = {"Id": "", "ShortId": repo.commit[:8]}
        return {"Code": 200, "Success": True, "Data": data}

    def headers(self, repo: Repo, body: bytes) -> dict[str, str]:
        return {}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    #: The default of 5 drops connections that come at once.
    request_queue_size = 128


class Hub:
    """The server, a context manager; ``url`` is its endpoint.

    ``per_connection`` limits what each request gets, in bytes a second; with ``tls`` it
    speaks https.
    """

    def __init__(
        self,
        protocol: Protocol | None = None,
        per_connection: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.protocol = protocol or ModelScope()
        self.per_connection = per_connection
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.log: list[Seen] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            # The handshake is left to the thread of each connection.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def inject(self, kind: str, path: str, **how: int) -> None:
        """Add a fault; see :class:`Fault`."""
        self.faults.append(Fault(kind, path, **how))

    def take(self, path: str, bounded: bool) -> Fault | None:
        """Return the fault that this request meets and use it up once."""
        with self._lock:
            for fault in self.faults:
                if fault.path == path and fault.times > 0 and not (fault.open_only and bounded):
                    fault.times -= 1
                    return fault
        return None

    def file_bytes(self, path: str | None = None, since: int = 0) -> int:
        """Return the body bytes sent for one file, or for all, from request ``since`` on."""
        files = [seen for seen in self.log[since:] if seen.file not in ("", LISTING)]
        return sum(seen.bytes_sent for seen in files if path in (None, seen.file))

    def nap(self, seconds: float) -> None:
        """Sleep, but not past the server's end."""
        self._closing.wait(seconds)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Hub

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def handle(self) -> None:
        # A client that doesn't trust the certificate hangs up.
        with suppress(ssl.SSLError, ConnectionError):
            super().handle()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        wanted = self.owner.protocol.route(self.path)
        self.seen = Seen(self.path, wanted.file if wanted else "", dict(self.headers), [])
        self.owner.log.append(self.seen)
        repo = self.owner.repos.get(wanted.repo) if wanted else None
        files = repo.at(wanted.revision) if repo and wanted else None
        if wanted is None or repo is None or files is None:
            return self._json(404, {"Code": 404, "Success": False, "Message": "not found"})
        if repo.token and self.headers.get("Authorization") != f"Bearer {repo.token}":
            return self._json(403, {"Code": 403, "Success": False, "Message": "no access"})
        bounded = bool(re.fullmatch(r"bytes=\d+-\d+", self.headers.get("Range", "")))
        fault = self.owner.take(wanted.file, bounded)
        if fault and fault.kind in ("status", "html", "refuse", "empty"):
            return self._refuse(fault)
        if wanted.file == LISTING:
            return self._json(200, self.owner.protocol.listing(repo, files, self.path))
        if wanted.file not in files:
            return self._json(404, {"Code": 404, "Success": False, "Message": "no such file"})
        if repo.redirect:
            return self._send(302, b"", {"Location": repo.redirect + self.path})
        more = self.owner.protocol.headers(repo, files[wanted.file])
        return self._file(files[wanted.file], fault, more)

    def _refuse(self, fault: Fault) -> None:
        if fault.kind == "status":
            more = {"Retry-After": str(fault.at)} if fault.value == 429 else {}
            return self._json(fault.value, {"Code": fault.value, "Success": False}, more)
        if fault.kind == "html":
            return self._send(200, PORTAL, {"Content-Type": "text/html"})
        if fault.kind == "refuse":
            return self._json(200, {"Code": 500, "Success": False, "Message": "busy"})
        return self._json(200, {"Code": 200, "Success": True, "Data": {"Files": []}})

    def _json(self, status: int, body: object, more: dict[str, str] | None = None) -> None:
        headers = {"Content-Type": "application/json", **(more or {})}
        self._send(status, json.dumps(body).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.seen.sent.append(len(body))

    def _file(self, content: bytes, fault: Fault | None, headers: dict[str, str]) -> None:
        kind, size = fault.kind if fault else "", len(content)
        ranged = "Range" in self.headers and kind != "norange"
        start, end = self._range(size) if ranged else (0, size)
        if start >= size and size:
            return self._send(416, b"", {"Content-Range": f"bytes */{size}"})
        body = content[start:end]
        if fault and kind == "corrupt" and start <= fault.at < end:
            where = fault.at - start
            body = body[:where] + bytes([body[where] ^ 0xFF]) + body[where + 1 :]
        more = fault.value if fault and kind == "length" else 0
        self.send_response(206 if ranged else 200)
        if ranged:
            headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size + more}"}
        for name, value in {**headers, "Content-Length": str(len(body) + more)}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self._body(body, fault)
        except OSError:
            self.close_connection = True
        if more:
            self.close_connection = True
        return None

    def _range(self, size: int) -> tuple[int, int]:
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        return int(first), min(int(last) + 1, size) if last else size

    def _body(self, body: bytes, fault: Fault | None) -> None:
        kind = fault.kind if fault else ""
        ends = ("drop", "reset", "trickle", "stall")
        cut = min(fault.at, len(body)) if fault and kind in ends else None
        self._write(body[:cut])
        if fault and kind == "trickle":
            step = max(1, fault.value // 20)
            for at in range(cut or 0, len(body), step):
                self.owner.nap(0.05)
                self._write(body[at : at + step])
        elif kind == "stall":
            self.owner.nap(60)
            self.close_connection = True
        elif kind in ("drop", "reset"):
            self._hang_up(reset=kind == "reset")

    def _write(self, body: bytes) -> None:
        view, begin = memoryview(body), time.monotonic()
        for at in range(0, len(body), 1 << 18):
            piece = view[at : at + (1 << 18)]
            self.wfile.write(piece)
            self.seen.sent.append(len(piece))
            if self.owner.per_connection:
                due = begin + (at + len(piece)) / self.owner.per_connection
                self.owner.nap(max(0.0, due - time.monotonic()))

    def _hang_up(self, reset: bool) -> None:
        self.wfile.flush()
        if reset:
            time.sleep(0.05)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def checkpoint(shards: int = 3, shard_bytes: int = 1 << 20, seed: int = 0) -> dict[str, bytes]:
    """Return the files of a small w8a8 checkpoint as it is laid out on the hub."""
    names = [f"quant_model_weights-{i:05}-of-{shards:05}.safetensors" for i in range(1, shards + 1)]
    weights = {f"layer.{i}": name for i, name in enumerate(names)}
    index = {"metadata": {"total_size": shards * shard_bytes}, "weight_map": weights}
    files = {
        "README.md": b"# weights\n",
        "config.json": b'{"model_type": "deepseek_v4"}\n',
        "optional/quarot.safetensors": _bytes(4096, seed + 99),
        "quant_model_description.json": b'{"layer.0": "W8A8_DYNAMIC"}\n',
        "quant_model_weights.safetensors.index.json": json.dumps(index).encode(),
        "tokenizer.json": b'{"version": "1.0"}\n',
    }
    return {**files, **{name: _bytes(shard_bytes, seed + i) for i, name in enumerate(names)}}


def _bytes(count: int, seed: int) -> bytes:
    return hashlib.shake_256(str(seed).encode()).digest(count)
