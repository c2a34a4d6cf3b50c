"""The program that talks to a hub: ``python -m ascend_v4.weights.child``.

It runs apart because the hubs' clients read their settings from the environment when
they are imported, write to the terminal as they like, and can only be stopped cleanly
in the middle of a file by ending their process.

Orders are JSON lines on stdin (``open``, ``list``, ``fetch``), events are JSON
lines on stdout. When stdin closes, because the parent is done or dead, it ends at
once; what there is of a file stays and is resumed by the next run.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .classify import classify

if TYPE_CHECKING:
    from .hubs import Hub

__all__ = ["main"]

TICK_S = 0.25


class Events:
    """The event stream, on a private copy of stdout that nothing else can write to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def send(self, event: str, **fields: object) -> None:
        """Write one event; a parent that is gone ends this process."""
        try:
            with self._lock:
                self._out.write(json.dumps({"event": event, **fields}) + "\n")
                self._out.flush()
        except OSError:
            os._exit(1)


class Meter:
    """Counts the bytes of each file, as the transfer reports them."""

    def __init__(self, files: list[dict[str, Any]]) -> None:
        self.sizes = {file["path"]: file["size"] for file in files}
        # The client reports a resumed part at once when it comes to the file; counted
        # from the start, it isn't taken for speed.
        self.counts = {file["path"]: file["have"] for file in files}

    def report(self) -> dict[str, int]:
        """Return bytes and files done so far."""
        counts = dict(self.counts)
        done = sum(counts[path] >= size for path, size in self.sizes.items() if size)
        return {"done": sum(counts.values()), "files_done": done}

    def set(self, path: str, count: int) -> None:
        """Note how many of a file's bytes are there."""
        self.counts[path] = count

    def callback(self) -> type:
        """Return the class that the client instantiates once for each attempt at a file."""
        from modelscope_hub._download import ProgressCallback

        counts = self.counts

        class Count(ProgressCallback):
            def __init__(self, filename: str, file_size: int) -> None:
                super().__init__(filename, file_size)
                # A second instance for the same file means that it starts again.
                counts[filename] = 0

            def update(self, size: int) -> None:
                counts[self.filename] += size

        return Count


class Client:
    """A hub, opened by the first order."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._hub: Hub | None = None

    @property
    def hub(self) -> Hub:
        """The open hub."""
        assert self._hub is not None
        return self._hub

    def run(self, order: dict[str, Any]) -> None:
        """Carry out one order; every failure becomes an event."""
        try:
            getattr(self, "do_" + order.pop("op"))(**order)
        except Exception as error:
            failed = getattr(error, "failed_files", None) or {"": error}
            faults = [{"path": path, **classify(cause)} for path, cause in failed.items()]
            self._events.send("failed", faults=faults)

    def do_open(self, hub: str, endpoint: str, token: str | None) -> None:
        """Import the hub's library and say which version it is."""
        from .hubs import open_hub

        self._hub = open_hub(hub, endpoint, token)
        self._events.send("ready", hub_version=self._hub.version)

    def do_hold(self) -> None:
        """Take over the lock on the directory, so that it lasts while this process writes."""
        from ascend_v4.host.system import receive_descriptor

        self._held = receive_descriptor(int(sys.argv[1]))
        self._events.send("held")

    def do_list(self, repo: str, revision: str) -> None:
        """Send the repository's files."""
        listing = self.hub.listing(repo, revision)
        self._events.send("listing", files=listing.files, commit=listing.commit)

    def do_fetch(
        self, repo: str, revision: str, directory: str, jobs: int, files: list[dict[str, Any]]
    ) -> None:
        """Download ``files`` by the ModelScope client, with progress events."""
        wanted = [{"Path": f["path"], "Size": f["size"], "Sha256": f["sha256"]} for f in files]
        meter = Meter(files)
        with self._told(meter):
            self.hub.api.download_repo(  # type: ignore[attr-defined]
                repo,
                "model",
                revision=revision,
                local_dir=directory,
                max_workers=jobs,
                progress_callbacks=[meter.callback()],
                file_list=wanted,
            )
        self._events.send("fetched")

    def do_ranges(
        self,
        repo: str,
        revision: str,
        directory: str,
        budget: dict[str, Any],
        files: list[dict[str, Any]],
    ) -> None:
        """Download ``files`` by our own range fetcher, with progress events."""
        from .manifest import FileRow
        from .ranges import Budget, RangeFetcher

        rows = [FileRow(f["path"], f["size"], f["sha256"], f.get("git_sha1")) for f in files]
        meter = Meter(files)
        fetcher = RangeFetcher(
            self.hub.remote(repo, revision),
            Path(directory),
            rows,
            Budget(**budget),
            meter.set,
            lambda path: self._events.send("file", path=path),
        )
        with self._told(meter):
            faults = fetcher.run()
        if faults:
            self._events.send("failed", faults=faults)
        else:
            self._events.send("fetched")

    @contextmanager
    def _told(self, meter: Meter) -> Iterator[None]:
        """Send progress four times a second while the block runs, and at its end."""
        stop = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(meter, stop), daemon=True)
        ticker.start()
        try:
            yield
        finally:
            stop.set()
            ticker.join()
            self._events.send("progress", **meter.report())

    def _tick(self, meter: Meter, stop: threading.Event) -> None:
        while not stop.wait(TICK_S):
            self._events.send("progress", **meter.report())


def _read_orders(orders: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
    os._exit(0)


def main() -> None:
    """Carry out orders until stdin closes."""
    client = Client(Events())
    orders: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_orders, args=(orders,), daemon=True).start()
    while True:
        client.run(orders.get())


if __name__ == "__main__":
    main()
