"""A fast file server for figures: ModelScope's protocol over sendfile, bounded per connection."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

REPO = "figures/one-w8a8"
_PIECE = 1 << 20


class Server(ThreadingHTTPServer):
    daemon_threads = True
    #: The default of 5 drops connections that come at once.
    request_queue_size = 128


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    listing: bytes
    per_connection = 0

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path.endswith("/repo/files"):
            return self._answer(200, self.listing)
        path = self.root / query.get("FilePath", parts.path.strip("/"))
        if not path.is_file():
            return self._answer(404, b"{}")
        return self._file(path)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, path: Path) -> None:
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = 0, size
        if asked:
            start, end = int(asked[1]), min(int(asked[2]) + 1, size) if asked[2] else size
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "HEAD":
            return
        begin, at = time.monotonic(), start
        with path.open("rb") as file:
            try:
                while at < end:
                    most = min(_PIECE, end - at)
                    at += os.sendfile(self.connection.fileno(), file.fileno(), at, most)
                    if self.per_connection:
                        due = begin + (at - start) / self.per_connection
                        time.sleep(max(0.0, due - time.monotonic()))
            except OSError:
                self.close_connection = True


def main(root: str, per_connection: str) -> None:
    """Serve a directory until stdin closes; the port goes to stdout."""
    folder = Path(root)
    rows = []
    for path in sorted(folder.iterdir()):
        body = path.read_bytes()
        sha256 = hashlib.sha256(body).hexdigest()
        rows.append({"Path": path.name, "Type": "blob", "Size": len(body), "Sha256": sha256})
    Handler.root, Handler.per_connection = folder, int(per_connection)
    Handler.listing = json.dumps({"Code": 200, "Success": True, "Data": {"Files": rows}}).encode()
    server = Server(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    print(server.server_port, flush=True)
    import threading

    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
