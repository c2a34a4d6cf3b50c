"""Where the hashes come from that a directory is compared with: a file, or the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.files import read_user_text

from .download import list_files
from .kind import model_of
from .manifest import Manifest, load_manifest, parse_manifest, read_rows
from .place import sidecars
from .request import Request
from .session import HubSession
from .source import ENDPOINTS, MOVING, Source, resolve_model

__all__ = ["fetch_manifest", "read_manifest", "repair_request"]

_SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def read_manifest(path: str, directory: Path) -> Manifest:
    """Return the manifest in a file: ours (JSON), or the output of ``sha256sum``.

    Sizes that ``sha256sum`` doesn't tell are taken from the files there are. Raises
    AscendV4Error (usage) for anything else, (refused) for paths outside the directory.
    """
    text = read_user_text(path, "--manifest")
    try:
        if text.lstrip().startswith("{"):
            manifest = parse_manifest(json.loads(text))
            rows = [row.to_json() for row in manifest.files]
            return replace(manifest, files=read_rows(rows, path))
        return _from_sums(text, path, directory)
    except (ValueError, KeyError, TypeError) as error:
        raise AscendV4Error(
            ExitCode.USAGE,
            "bad-manifest",
            f"--manifest: {path} is neither a manifest of ours nor the output of sha256sum",
            "cd DIRECTORY && sha256sum * > FILE makes one where the weights are known to be good",
        ) from error


def _from_sums(text: str, path: str, directory: Path) -> Manifest:
    rows: list[dict[str, object]] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        found = _SUM.fullmatch(line.rstrip())
        if found is None:
            raise ValueError(line)
        name = found[2].removeprefix("./")
        there = directory / name
        size = there.stat().st_size if there.is_file() else 0
        rows.append({"path": name, "size": size, "sha256": found[1]})
    if not rows:
        raise ValueError("empty")
    return Manifest("file", path, "", "", read_rows(rows, path))


def fetch_manifest(
    directory: Path, env: Mapping[str, str], request: Request | None = None
) -> Manifest:
    """Return what the hub lists for the checkpoint in a directory.

    ``request`` names repository and hub, else the kept manifest or the recognised
    checkpoint does. Raises AscendV4Error: usage when nothing does, and the hub's errors.
    """
    request = request or repair_request(directory, env)
    if request.source.hub not in ENDPOINTS:
        raise AscendV4Error(
            ExitCode.USAGE,
            "on-no-hub",
            f"{directory} holds the rehearsal checkpoint, which is built here: no hub has hashes",
            f"ascend-v4 verify {directory}",
        )
    before = load_manifest(directory, sidecars(directory, env))
    with HubSession(env, request.endpoint, request.token, hub=request.source.hub) as session:
        manifest, _ = list_files(session, request)
    if before is not None and before.files == manifest.files:
        return replace(manifest, complete=before.complete)
    return manifest


def repair_request(
    directory: Path,
    env: Mapping[str, str],
    model: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
) -> Request:
    """Return the request that makes a directory whole again, at the commit it is of.

    Raises AscendV4Error (usage) when neither ``model``, a kept manifest nor the
    checkpoint itself says what it is.
    """
    before = load_manifest(directory, sidecars(directory, env))
    if before is not None and before.hub in ENDPOINTS and not model:
        source = Source(before.hub, before.repo, before.revision)
        endpoint = endpoint or before.endpoint
        include = tuple(p[1:] for p in before.selection if p[0] == "+")
        exclude = tuple(p[1:] for p in before.selection if p[0] == "-")
        asked = Request(source, before.revision, endpoint, directory, token=token)
        return replace(asked, include=include, exclude=exclude)
    name = model or model_of(directory)
    if name is None:
        raise AscendV4Error(
            ExitCode.USAGE,
            "model-needed",
            f"it isn't known which model {directory} holds",
            "ascend-v4 profiles --models, then the same command with --model ID",
        )
    source = resolve_model(None, name)
    variable = env.get("MODELSCOPE_ENDPOINT")
    address = endpoint or variable or ENDPOINTS.get(source.hub, "")
    revision = source.revision or MOVING.get(source.hub, "")
    return Request(source, revision, address, directory, token=token)
