"""The manifest: which files a checkpoint has, how large, with which sha256.

It is saved beside the weights as ``.ascend-v4/manifest.json`` with ``complete``
false from before the first byte until everything was checked, so a directory
that was left half way says so.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ascend_v4.errors import AscendV4Error, ExitCode

__all__ = [
    "SIDECAR",
    "FileRow",
    "Manifest",
    "check_index",
    "check_listing",
    "load_manifest",
    "manifest_json",
    "parse_manifest",
    "public_endpoint",
    "read_rows",
    "save_manifest",
    "write_json",
]

SIDECAR = ".ascend-v4"
SCHEMA = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class FileRow:
    """One file of a repository: path with ``/``, size in bytes, sha256 in lower case or None.

    ``git_sha1`` is git's id of the content; Hugging Face lists no other hash for the
    small files.
    """

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def digest(self) -> str | None:
        """What the file's bytes are compared with, None when the hub gave nothing."""
        return self.sha256 or self.git_sha1

    def hasher(self) -> hashlib._Hash:
        """Return an empty hash of the kind that :attr:`digest` is of."""
        if self.sha256 or not self.git_sha1:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def to_json(self) -> dict[str, object]:
        """Return the row as the manifest keeps it."""
        row: dict[str, object] = {"path": self.path, "size": self.size, "sha256": self.sha256}
        return {**row, "git_sha1": self.git_sha1} if self.git_sha1 else row

    @property
    def is_shard(self) -> bool:
        """Whether this is a weights file at the top of the repository."""
        return self.path.endswith(".safetensors") and "/" not in self.path

    @property
    def is_index(self) -> bool:
        """Whether this is the index that names all shards.

        Quantised repositories call it ``quant_model_weights.safetensors.index.json``.
        """
        return self.path.endswith(".safetensors.index.json") and "/" not in self.path


@dataclass(frozen=True)
class Manifest:
    """The files of one repository at one revision, as the hub listed them.

    ``commit`` is what a moving revision was when it was listed, where the hub says it;
    ``selection`` the patterns that picked some of the files (``+*.json``, ``-*.bin``).
    """

    hub: str
    repo: str
    endpoint: str
    revision: str
    files: tuple[FileRow, ...]
    complete: bool = False
    commit: str | None = None
    selection: tuple[str, ...] = ()

    @property
    def pinned(self) -> str:
        """The revision to ask for: the commit where it is known."""
        return self.commit or self.revision

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(row.size for row in self.files)

    def done(self) -> Manifest:
        """Return this manifest marked complete."""
        return replace(self, complete=True)


def read_rows(listed: Iterable[dict[str, object]], repo: str) -> tuple[FileRow, ...]:
    """Return the listing's rows, sorted by path.

    Raises AscendV4Error (incomplete) for an empty listing, (refused) for a path
    that would leave the directory or is listed twice.
    """
    rows: dict[str, FileRow] = {}
    for entry in listed:
        path, size, sha256 = str(entry["path"]), int(str(entry["size"])), entry.get("sha256")
        _refuse_unsafe(path, repo)
        if path in rows:
            raise _refused(f"the listing of {repo} names {path!r} twice")
        digest, git = str(sha256 or "").lower(), str(entry.get("git_sha1") or "").lower()
        good, blob = _SHA256.fullmatch(digest), _SHA1.fullmatch(git)
        rows[path] = FileRow(path, size, digest if good else None, git if blob else None)
    return tuple(rows[path] for path in sorted(rows))


def _refused(message: str) -> AscendV4Error:
    return AscendV4Error(
        ExitCode.REFUSED,
        "unsafe-listing",
        f"{message}; nothing was downloaded",
        "check --endpoint: a hub that lists this is not to be trusted",
    )


def _refuse_unsafe(path: str, repo: str) -> None:
    """Raise when joining ``path`` to a directory could write outside it.

    modelscope-hub 0.5.1 joins it unchecked (modelscope_hub/_download.py:970).
    """
    parts = path.split("/")
    bad = (
        not path
        or path.startswith(("/", "~"))
        or any(part in ("", ".", "..") for part in parts)
        or "\\" in path
        or any(ord(char) < 32 for char in path)
        or parts[0] == SIDECAR
    )
    if bad or PurePosixPath(path).is_absolute():
        raise _refused(f"the listing of {repo} names the file {path!r}, outside the directory")


def _lacking(repo: str, what: str) -> AscendV4Error:
    return AscendV4Error(
        ExitCode.WEIGHTS_INCOMPLETE,
        "listing-incomplete",
        f"{repo} as the hub lists it is not a whole checkpoint: {what}",
        "check --model and --revision; the repository may still be uploading",
    )


def check_listing(rows: tuple[FileRow, ...], repo: str) -> None:
    """Raise AscendV4Error (incomplete) when a checkpoint could not be whole from these files."""
    paths = {row.path for row in rows}
    if "config.json" not in paths:
        raise _lacking(repo, "it has no config.json")
    if not paths & {"tokenizer.json", "tokenizer.model"}:
        raise _lacking(repo, "it has no tokenizer.json")
    if re.search(r"w[48]a8", repo, re.I) and "quant_model_description.json" not in paths:
        raise _lacking(repo, "it is quantised and has no quant_model_description.json")
    shards = [row for row in rows if row.is_shard]
    if not shards:
        raise _lacking(repo, "it has no *.safetensors file")
    if len(shards) > 1 and not any(row.is_index for row in rows):
        raise _lacking(repo, f"{len(shards)} shards and no *.safetensors.index.json")
    hollow = [row.path for row in shards if row.size <= 0]
    if hollow:
        raise _lacking(repo, f"{hollow[0]} has no size")


def check_index(
    rows: tuple[FileRow, ...], directory: Path, repo: str, listed: Iterable[str] = ()
) -> None:
    """Compare each index among ``rows`` that is in ``directory`` with all files listed.

    Raises AscendV4Error: incomplete for an index that isn't there or a shard that
    it names and the listing lacks, corrupt for an index that isn't one.
    """
    paths = {row.path for row in rows} | set(listed)
    for row in rows:
        if not row.is_index:
            continue
        missing = sorted(_shards_of(directory / row.path) - paths)
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise _lacking(repo, f"{row.path} names {missing[0]}{more}, which the hub doesn't list")


def _shards_of(index: Path) -> set[str]:
    """Return the file names in an index's weight map."""
    try:
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
    except OSError as error:
        raise AscendV4Error(
            ExitCode.WEIGHTS_INCOMPLETE,
            "files-missing",
            f"{index} can't be read: {error.strerror}",
            "run the same command again",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AscendV4Error(
            ExitCode.WEIGHTS_CORRUPT,
            "index-unreadable",
            f"{index} is not a safetensors index: {error}",
            "check --endpoint and run the same command again",
        ) from error
    return {str(shard) for shard in shards}


def public_endpoint(endpoint: str) -> str:
    """Return an endpoint without the user and password that a URL may carry."""
    parts = urlsplit(endpoint)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def manifest_json(manifest: Manifest) -> dict[str, object]:
    """Return a manifest as it is kept in a file."""
    return {
        "schema": SCHEMA,
        "hub": manifest.hub,
        "repo": manifest.repo,
        "endpoint": public_endpoint(manifest.endpoint),
        "revision": manifest.revision,
        "commit": manifest.commit,
        "complete": manifest.complete,
        "selection": list(manifest.selection),
        "files": [row.to_json() for row in manifest.files],
    }


def save_manifest(manifest: Manifest, directory: Path, place: Path | None = None) -> Path:
    """Write ``manifest.json`` in one step and return its path.

    ``place`` is the sidecar to write to, by default ``.ascend-v4`` in the directory.
    """
    return write_json(manifest_json(manifest), (place or directory / SIDECAR) / "manifest.json")


def write_json(body: object, path: Path) -> Path:
    """Write JSON to ``path`` so that a reader sees the old or the new text, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)
    return path


def load_manifest(directory: Path, places: Sequence[Path] = ()) -> Manifest | None:
    """Return the manifest kept for a directory; None if there is none that can be read.

    ``places`` are the sidecars to look in, best first (default: ``.ascend-v4`` in it).
    """
    for place in places or (directory / SIDECAR,):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            text = (place / "manifest.json").read_text(encoding="utf-8")
            return parse_manifest(json.loads(text))
    return None


def parse_manifest(body: dict[str, Any]) -> Manifest:
    """Return the manifest in a JSON object; raises ValueError, KeyError or TypeError."""
    files = tuple(
        FileRow(str(row["path"]), int(row["size"]), row["sha256"], row.get("git_sha1"))
        for row in body["files"]
    )
    hub, repo, endpoint, revision = (
        str(body[name]) for name in ("hub", "repo", "endpoint", "revision")
    )
    more = (bool(body["complete"]), body.get("commit"), tuple(body.get("selection") or ()))
    return Manifest(hub, repo, endpoint, revision, files, *more)
