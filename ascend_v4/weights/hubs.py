"""The two hubs through their own libraries: listing, addresses, credentials, transfer.

Only the child process imports these libraries: they read their settings from the
environment when they are imported.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from ascend_v4.host.system import Host

from .http import Remote

__all__ = ["Hub", "HuggingFace", "Listing", "ModelScope", "open_hub"]

#: Hosts whose stored login may be sent to them.
OFFICIAL = {
    "modelscope": ("modelscope.cn", "www.modelscope.cn", "modelscope.ai", "www.modelscope.ai"),
    "huggingface": ("huggingface.co", "www.huggingface.co"),
}


class Listing(NamedTuple):
    """A repository's files (path, size, sha256 or git_sha1) and the commit they are of."""

    files: list[dict[str, object]]
    commit: str | None


class Hub(Protocol):
    """What the child needs of a hub."""

    version: str

    def listing(self, repo: str, revision: str) -> Listing:
        """Return the files of a repository at a revision."""

    def remote(self, repo: str, revision: str) -> Remote:
        """Return where its files are and what to send along."""


def open_hub(hub: str, endpoint: str, token: str | None) -> Hub:
    """Return a hub; a login that a library has stored goes to that hub's own hosts only."""
    host = (urlsplit(endpoint).hostname or "").lower()
    stored = host in OFFICIAL[hub]
    if hub == "huggingface":
        return HuggingFace(endpoint, token, stored)
    return ModelScope(endpoint, token, stored)


def _timed(remote: Remote) -> Remote:
    """Apply the waits that a user may have set for the ModelScope client."""
    env = Host().env
    with suppress(ValueError):
        if given := env.get("MODELSCOPE_DOWNLOAD_TIMEOUT"):
            remote.idle_s = remote.stall_s = float(given)
        floor = env.get("MODELSCOPE_DOWNLOAD_MIN_BYTES_PER_SECOND", remote.floor)
        window = env.get("MODELSCOPE_DOWNLOAD_LOW_SPEED_WINDOW_SECONDS", remote.window_s)
        remote.floor, remote.window_s = int(floor), float(window)
    return remote


class ModelScope:
    """ModelScope through modelscope-hub."""

    def __init__(self, endpoint: str, token: str | None, stored: bool) -> None:
        from modelscope_hub import HubApi
        from modelscope_hub.version import __version__

        self.version: str = __version__
        self.api: Any = HubApi(endpoint=endpoint, token=token if token or stored else "")
        self._commit: str | None = None
        self._watch()

    def _watch(self) -> None:
        """See the listings as they come in: the library drops the commit in them."""
        with suppress(AttributeError):
            unwrap = self.api.legacy._json_data

            def noting(answer: Any) -> Any:
                data = unwrap(answer)
                if urlsplit(answer.url).path.endswith("/repo/files") and isinstance(data, dict):
                    self._commit = commit_of(data)
                return data

            self.api.legacy._json_data = noting

    def listing(self, repo: str, revision: str) -> Listing:
        """Return the files of a repository at a revision."""
        self._commit = None
        files: list[dict[str, object]] = [
            {"path": file.path, "size": file.size, "sha256": file.sha256}
            for file in self.api.list_repo_files(repo, "model", revision=revision)
            if not file.is_dir
        ]
        return Listing(files, self._commit)

    def remote(self, repo: str, revision: str) -> Remote:
        """Return where its files are and what to send along."""
        legacy = self.api.legacy
        sent = {
            name: value
            for name, value in legacy._headers().items()
            if name.lower() in ("authorization", "user-agent")
        }
        if legacy.token:
            sent["Cookie"] = f"m_session_id={legacy.token}"
        return _timed(Remote(lambda p: legacy.get_download_url(repo, "model", p, revision), sent))


def commit_of(data: dict[str, Any]) -> str | None:
    """Return the commit that a ModelScope listing is of, None where it doesn't say.

    ``LatestCommitter`` holds the head's id, or only its first eight digits; then it is
    the full id among those of the files that begins so (seen in public clients'
    tests: the head touched at least one file).
    """
    latest = data.get("LatestCommitter") or {}
    full, short = str(latest.get("Id") or ""), str(latest.get("ShortId") or "")
    seen = [full, *(str(row.get("Revision") or "") for row in data.get("Files") or [])]
    for commit in seen:
        if len(commit) == 40 and (commit == full or (short and commit.startswith(short))):
            return commit
    return None


class HuggingFace:
    """Hugging Face through huggingface_hub, for all but the transfer."""

    def __init__(self, endpoint: str, token: str | None, stored: bool) -> None:
        from huggingface_hub import HfApi, __version__

        self.version: str = __version__
        self._endpoint = endpoint.rstrip("/")
        # None lets the library send the stored login, False doesn't.
        self._token = token or (None if stored else False)
        self._api = HfApi(endpoint=self._endpoint, token=self._token)

    def listing(self, repo: str, revision: str) -> Listing:
        """Return the files of a repository at a revision."""
        from huggingface_hub.hf_api import RepoFile

        commit = self._api.model_info(repo, revision=revision).sha
        tree = self._api.list_repo_tree(repo, recursive=True, revision=commit or revision)
        files: list[dict[str, object]] = []
        for entry in tree:
            if not isinstance(entry, RepoFile):
                continue
            lfs = entry.lfs
            size = lfs.size if lfs else entry.size
            row: dict[str, object] = {"path": entry.path, "size": size}
            row["sha256"] = lfs.sha256 if lfs else None
            if not lfs:
                row["git_sha1"] = entry.blob_id
            files.append(row)
        return Listing(files, commit)

    def remote(self, repo: str, revision: str) -> Remote:
        """Return where its files are and what to send along."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers

        def url(path: str) -> str:
            return hf_hub_url(repo, path, revision=revision, endpoint=self._endpoint)

        return _timed(Remote(url, build_hf_headers(token=self._token, library_name="ascend-v4")))
