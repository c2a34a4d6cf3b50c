"""Hugging Face's protocol for the hub on loopback, as huggingface_hub 2.4.0 speaks it.

* ``GET /api/models/{org}/{name}/revision/{revision}`` gives the commit
* ``GET /api/models/{org}/{name}/tree/{commit}?recursive=true`` gives the files
* ``GET /{org}/{name}/resolve/{commit}/{path}`` with ``Range`` gives a file
"""

from __future__ import annotations

import hashlib
from urllib.parse import unquote, urlsplit

from .hub import LISTING, Repo, Wanted

#: Files above this are kept in LFS, with a sha256; smaller ones have git's id only.
LFS = 2000


def git_sha1(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class HuggingFace:
    """The part of Hugging Face's API that a model download uses."""

    def route(self, url: str) -> Wanted | None:
        parts = [unquote(part) for part in urlsplit(url).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"] and len(parts) >= 6 and parts[4] in ("revision", "tree"):
            return Wanted("/".join(parts[2:4]), parts[5], LISTING)
        if len(parts) > 4 and parts[2] == "resolve":
            return Wanted("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return None

    def listing(self, repo: Repo, files: dict[str, bytes], url: str) -> object:
        if "/tree/" not in url:
            return {"_id": "0", "id": "x/y", "sha": repo.commit, "tags": [], "siblings": []}
        rows: list[dict[str, object]] = []
        for path, body in files.items():
            row: dict[str, object] = {"type": "file", "path": path, "size": len(body)}
            row["oid"] = git_sha1(body)
            if len(body) > LFS:
                oid = hashlib.sha256(body).hexdigest()
                row["lfs"] = {"oid": oid, "size": len(body), "pointerSize": 134}
            rows.append(row)
        folders = {path.rsplit("/", 1)[0] for path in files if "/" in path}
        rows += [{"type": "directory", "path": name, "oid": "0" * 40} for name in folders]
        return rows + repo.extra

    def headers(self, repo: Repo, body: bytes) -> dict[str, str]:
        return {"X-Repo-Commit": repo.commit or "", "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
