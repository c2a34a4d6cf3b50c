"""A running child with a hub's client in it, and the orders it takes."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host, descriptor_channel, send_descriptor

from .faults import Fault, fetch_error, listing_error
from .manifest import FileRow, public_endpoint
from .source import address_of
from .way import refuse_socks, trusted

__all__ = ["FetchOrder", "HubSession", "child_environment"]

#: The client gives a file five attempts and an hour; both are spent by a slow
#: line on files of 4 to 13 GB (modelscope-hub 0.5.1, modelscope_hub/constants.py:696,713).
#: What it gives up is tried again for as long as bytes arrive (transfer.py).
_DEFAULTS = {
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "8",
    "MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS": "10",
    "MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT": str(7 * 24 * 3600),
}
_FIXED = {
    # Its locks live under the user's cache, not beside the weights: they fail every
    # file where that can't be written and don't hold between users. Ours does.
    "MODELSCOPE_DOWNLOAD_FILE_LOCK": "false",
    # Ranges within a file leave part files behind when a later run doesn't use them.
    "MODELSCOPE_DOWNLOAD_PARALLEL_WORKERS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONUNBUFFERED": "1",
}
_DROPPED = (
    "MODELSCOPE_API_TOKEN",
    "MODELSCOPE_DOWNLOAD_PARALLELS",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)


def child_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment; a budget that the user set himself is kept.

    The token is left out: it goes to the child on stdin. Raises AscendV4Error (usage)
    for a private CA that isn't there.
    """
    kept = {name: value for name, value in env.items() if name not in _DROPPED}
    return {**_DEFAULTS, **kept, **trusted(kept), **_FIXED}


class FetchOrder(NamedTuple):
    """What every file of one fetch shares; ``jobs`` files are fetched at once.

    ``connections`` and ``limit`` (bytes a second) are for our own ranges; None leaves
    the files to the ModelScope client.
    """

    repo: str
    revision: str
    directory: Path
    jobs: int
    connections: int | None = None
    limit: int | None = None


class HubSession:
    """A context in which the child runs; leaving it ends the child."""

    def __init__(
        self,
        env: Mapping[str, str],
        endpoint: str,
        token: str | None,
        hub: str = "modelscope",
    ) -> None:
        self._endpoint, self._token, self._hub = address_of(endpoint), token, hub
        self._shown = public_endpoint(self._endpoint)
        self._env = child_environment(env)
        refuse_socks(self._env, hub, self._endpoint)
        if hub == "huggingface":
            # Its library asks huggingface.co for a list of its own otherwise
            # (huggingface_hub 2.4.0, utils/_detect_agent.py:189).
            self._env["HF_ENDPOINT"] = self._endpoint
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        self._channel, far = descriptor_channel()
        self._child = Host(env=self._env).spawn(
            [sys.executable, "-m", "ascend_v4.weights.child", str(far.fileno())],
            self._errors,
            (far.fileno(),),
        )
        far.close()
        self.hub_version = ""

    def __enter__(self) -> HubSession:
        try:
            order: dict[str, object] = {"op": "open", "hub": self._hub}
            order |= {"endpoint": self._endpoint, "token": self._token}
            self.hub_version = self._ask("ready", order)["hub_version"]
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child now; what it has of a file stays for the next run."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._errors, self._channel):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def hold(self, lock: int) -> None:
        """Hand the directory's lock to the child as well.

        It then outlives a killed parent for as long as its child still writes.
        """
        send_descriptor(self._channel, lock)
        self._ask("held", {"op": "hold"})

    def listing(self, repo: str, revision: str) -> tuple[list[dict[str, object]], str | None]:
        """Return the hub's listing (``path``, ``size`` in bytes, hashes) and its commit.

        Raises AscendV4Error: usage for an unknown repository, revision or a refused
        token, unreachable when the hub gives no usable answer, an empty one included.
        """
        answer = self._ask("listing", {"op": "list", "repo": repo, "revision": revision})
        if answer["event"] == "failed":
            raise listing_error(Fault.read(answer["faults"])[0], repo, revision, self._shown)
        files: list[dict[str, object]] = answer["files"]
        if not files:
            # The client takes an answer with "Success": false for an empty listing
            # (modelscope-hub 0.5.1, modelscope_hub/_legacy_api.py:523-529).
            raise AscendV4Error(
                ExitCode.UNREACHABLE,
                "empty-listing",
                f"{self._shown} lists no files for {repo} at revision {revision}: "
                "the request failed on the hub, or the repository is empty",
                "try again later; check --model, --revision and --endpoint",
            )
        return files, answer["commit"]

    def fetch(
        self,
        order: FetchOrder,
        rows: Sequence[FileRow],
        have: Mapping[str, int],
        on_progress: Callable[[int, int], None],
        on_file: Callable[[str], None] = lambda _path: None,
    ) -> list[Fault]:
        """Download ``rows`` and return what failed, nothing if all went well.

        ``have`` tells how many bytes of each file are there already; ``on_progress``
        gets bytes and files done so far, those included, a few times a second;
        ``on_file`` the path of each file that our own ranges have completed and verified.
        """
        files = [{**row.to_json(), "have": have[row.path]} for row in rows]
        said: dict[str, object] = {"repo": order.repo, "revision": order.revision}
        said |= {"directory": str(order.directory), "files": files}
        if order.connections is None:
            said |= {"op": "fetch", "jobs": order.jobs}
        else:
            said |= {"op": "ranges", "budget": self._budget(order, order.connections)}
        answer = self._ask("fetched", said, on_progress, on_file)
        return Fault.read(answer["faults"]) if answer["event"] == "failed" else []

    def _budget(self, order: FetchOrder, connections: int) -> dict[str, object]:
        """Return the fields of :class:`ranges.Budget`, tries as set for the client."""
        names = ("MODELSCOPE_DOWNLOAD_MAX_RETRIES", "MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS")
        given = [self._env[name] for name in names]
        tries, delay = (
            float(word) if word.replace(".", "", 1).isdigit() else float(_DEFAULTS[name])
            for word, name in zip(given, names, strict=True)
        )
        fields = {"connections": connections, "jobs": order.jobs, "limit": order.limit}
        return {**fields, "tries": int(tries), "delay_s": delay}

    def _ask(
        self,
        wanted: str,
        order: Mapping[str, object],
        on_progress: Callable[[int, int], None] | None = None,
        on_file: Callable[[str], None] = lambda _path: None,
    ) -> dict[str, Any]:
        """Give an order and return the event that answers it."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(order) + "\n")
            self._child.stdin.flush()
        except OSError:
            raise self._died() from None
        for line in self._child.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "progress" and on_progress is not None:
                on_progress(event["done"], event["files_done"])
            elif event["event"] == "file":
                on_file(event["path"])
            elif event["event"] in (wanted, "failed"):
                return self._usable(event, wanted)
        raise self._died()

    def _usable(self, event: dict[str, Any], wanted: str) -> dict[str, Any]:
        if event["event"] == "failed" and wanted == "ready":
            raise fetch_error(Fault.read(event["faults"]), self._shown)
        return event

    def _died(self) -> AscendV4Error:
        """Return the error for a child that ended by itself, with its last words."""
        code = self._child.wait()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        last = words[-1] if words else "it said nothing"
        if self._token:
            last = last.replace(self._token, "***")
        return AscendV4Error(
            ExitCode.FAULT,
            "client-died",
            f"the hub's client ended with status {code}: {last}",
            "run the same command again; finished files are kept",
        )
