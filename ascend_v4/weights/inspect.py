"""Looking through a directory of weights without reading any tensor.

Sizes, every safetensors header, the index against the headers, the quantization
description against the index. Kilobytes to a few megabytes are read of each shard's
front, so 74 shards take about a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ascend_v4.core.finding import Finding

from .manifest import FileRow, Manifest
from .parts import size_of
from .safetensors import BadHeaderError, Header, read_header

__all__ = ["DAMAGED", "MISSING", "FileVerdict", "look_through"]

DESCRIPTION = "quant_model_description.json"
#: Verdicts that mean: not there as a whole.
MISSING = frozenset({"absent", "size"})
#: Verdicts that mean: there, and wrong.
DAMAGED = frozenset({"header", "tensors", "hash", "unreadable"})
_SOURCE = "https://github.com/vllm-project/vllm-ascend vllm_ascend/quantization/modelslim_config.py"


@dataclass(frozen=True)
class FileVerdict:
    """One file: its verdict and, where that isn't ``good``, why.

    ``good``; ``absent`` and ``size`` (another length than the manifest says); ``header``,
    ``tensors``, ``hash`` and ``unreadable`` (damaged); ``unhashed`` (a deep check had
    nothing to compare with).
    """

    path: str
    verdict: str
    size: int | None = None
    detail: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the verdict as ``verify --json`` prints it."""
        return {
            "path": self.path,
            "verdict": self.verdict,
            "size": self.size,
            "detail": self.detail,
        }


def look_through(
    directory: Path, manifest: Manifest | None
) -> tuple[list[FileVerdict], list[Finding]]:
    """Return a verdict on each file of a checkpoint, sorted by path, and what else is odd.

    ``manifest`` is what should be there, None where nobody knows.
    """
    wanted = {row.path: row for row in manifest.files} if manifest else {}
    found = {path.name for path in directory.glob("*.safetensors") if path.is_file()}
    indexes = {path.name for path in directory.glob("*.safetensors.index.json")}
    needed = needed_files(directory, found, indexes)
    verdicts = {path: _sized(directory, path, wanted.get(path)) for path in {*wanted, *needed}}
    headers = _read_headers(directory, found, verdicts)
    findings: list[Finding] = []
    for name in sorted(indexes):
        _against_index(directory, name, headers, verdicts, findings)
    _against_description(directory, headers, verdicts, findings)
    if not indexes and len(found) > 1:
        verdicts["model.safetensors.index.json"] = FileVerdict(
            "model.safetensors.index.json", "absent", None, f"{len(found)} shards and no index"
        )
    return [verdicts[path] for path in sorted(verdicts)], findings


def needed_files(directory: Path, found: set[str], indexes: set[str]) -> set[str]:
    """Return the files that a checkpoint of this look must have, those that exist included."""
    needed = {"config.json", *found, *indexes}
    tokenizers = {n for n in ("tokenizer.json", "tokenizer.model") if (directory / n).is_file()}
    needed |= tokenizers or {"tokenizer.json"}
    if any(name.startswith("quant_model_weights") for name in found | indexes):
        needed.add(DESCRIPTION)
    if not found:
        needed.add("model.safetensors")
    return needed


def _sized(directory: Path, path: str, row: FileRow | None) -> FileVerdict:
    size = size_of(directory / path)
    if size is None:
        return FileVerdict(path, "absent", None, "it isn't there")
    if row is not None and row.size != size:
        return FileVerdict(path, "size", size, f"it has {size} bytes, not {row.size}")
    return FileVerdict(path, "good", size)


def _read_headers(
    directory: Path, found: Iterable[str], verdicts: dict[str, FileVerdict]
) -> dict[str, Header]:
    """Read the header of every shard; those that can't be read get their verdict."""

    def read(name: str) -> Header | FileVerdict:
        size = size_of(directory / name)
        try:
            return read_header(directory / name)
        except BadHeaderError as error:
            return FileVerdict(name, "header", size, str(error))
        except OSError as error:
            return FileVerdict(name, "unreadable", size, error.strerror or "it can't be read")

    names = sorted(found)
    headers: dict[str, Header] = {}
    # Threads for the sake of network file systems, where opening a file takes a while.
    with ThreadPoolExecutor(max_workers=8) as pool:
        for name, answer in zip(names, pool.map(read, names), strict=True):
            if isinstance(answer, Header):
                headers[name] = answer
            elif verdicts[name].verdict == "good":
                verdicts[name] = answer
    return headers


def _load(directory: Path, name: str, verdicts: dict[str, FileVerdict]) -> dict[str, Any] | None:
    """Return a JSON object of the checkpoint, None (and its verdict) if it isn't one."""
    path = directory / name
    try:
        value = json.loads(path.read_bytes())
        if isinstance(value, dict):
            return value
        why = "it is not a JSON object"
    except OSError as error:
        why = error.strerror or "it can't be read"
    except (ValueError, RecursionError):
        why = "it is not JSON"
    verdicts[name] = FileVerdict(name, "unreadable", size_of(path), why)
    return None


def _against_index(
    directory: Path,
    name: str,
    headers: Mapping[str, Header],
    verdicts: dict[str, FileVerdict],
    findings: list[Finding],
) -> None:
    """Hold an index against the headers: each of its tensors once, in the shard it names."""
    index = _load(directory, name, verdicts)
    if index is None:
        return
    where = index.get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(s, str) for s in where.values()):
        verdicts[name] = FileVerdict(name, "unreadable", size_of(directory / name), "no weight map")
        return
    for shard in sorted(set(where.values())):
        if shard not in verdicts or verdicts[shard].verdict == "absent":
            verdicts[shard] = FileVerdict(shard, "absent", None, f"{name} names it")
    _count_tensors(where, headers, verdicts)
    stale = sorted(set(headers) - set(where.values()))
    if stale and "/" not in name:
        findings.append(
            Finding(
                "weights-not-in-index",
                "warn",
                f"{len(stale)} files hold tensors that {name} doesn't name, {stale[0]} first: "
                "an engine that loads all *.safetensors files would load them too",
                f"remove {stale[0]} if it is left from another version",
                "observed 2026-11-23",
                "inferred",
            )
        )


def _count_tensors(
    where: Mapping[str, str], headers: Mapping[str, Header], verdicts: dict[str, FileVerdict]
) -> None:
    """Give shards that lack a tensor, or have one that belongs to another, their verdict."""
    for shard in set(where.values()) & set(headers):
        names = set(headers[shard].names)
        lacking = [t for t, home in where.items() if home == shard and t not in names]
        strange = [t for t in names if where.get(t, shard) != shard]
        if (lacking or strange) and verdicts[shard].verdict == "good":
            why = (
                f"{len(lacking)} tensors of the index are not in it, {lacking[0]} first"
                if lacking
                else f"{len(strange)} of its tensors belong to another shard, {strange[0]} first"
            )
            verdicts[shard] = replace(verdicts[shard], verdict="tensors", detail=why)


def _against_description(
    directory: Path,
    headers: Mapping[str, Header],
    verdicts: dict[str, FileVerdict],
    findings: list[Finding],
) -> None:
    """Hold the quantization description against the tensors that are there."""
    if verdicts.get(DESCRIPTION) is None or verdicts[DESCRIPTION].verdict != "good":
        return
    description = _load(directory, DESCRIPTION, verdicts)
    if description is None or not headers:
        return
    tensors = {name for header in headers.values() for name in header.names}
    described = {name for name in description if name in tensors}
    weights = {name for name in tensors if name.endswith(".weight")}
    if not described:
        verdicts[DESCRIPTION] = replace(
            verdicts[DESCRIPTION],
            verdict="tensors",
            detail="it describes none of the tensors that are there",
        )
    elif weights - described:
        first = min(weights - described)
        findings.append(
            Finding(
                "weights-not-described",
                "risk",
                f"{len(weights - described)} of {len(weights)} weights are not in {DESCRIPTION}, "
                f"{first} first: the engine can't know how they are quantised",
                "compare the file with the hub: ascend-v4 verify DIR --manifest fetch --deep",
                _SOURCE,
                "inferred",
            )
        )
