"""Rendered files in a folder: each written at once, no edit of the user's lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ascend_v4.core.finding import Finding
from ascend_v4.errors import AscendV4Error, ExitCode

from .common import made_by_us
from .yours import decide

__all__ = ["Written", "write"]


@dataclass(frozen=True)
class Written:
    """The files that were written, those of the user's that were kept, and what to say."""

    paths: list[Path]
    kept: list[Path]
    notes: list[Finding]


def write(
    files: Mapping[str, str], folder: Path, editable: frozenset[str], *, force: bool
) -> Written:
    """Write the files by their relative names; ``editable`` are those that users edit.

    Raises AscendV4Error (usage) before anything is written, where a file stands there that
    render did not make and that is not one to be edited.
    """
    done = Written([], [], [])
    texts: dict[Path, str] = {}
    for name, text in files.items():
        path = folder / name
        if force or name not in editable or not path.exists():
            texts[path] = text
            continue
        decision = decide(text_of(path), text)
        if decision == "write":
            texts[path] = text
            continue
        done.kept.append(path)
        done.notes.append(kept(path, decision == "beside"))
        if decision == "beside":
            texts[path.with_name(f"{path.name}.new")] = text
    if not force:
        refuse_foreign(texts, {folder / name for name in editable})
    try:
        for path, text in texts.items():
            put(path, text)
            done.paths.append(path)
    except OSError as error:
        cause = f"{folder} can't be written: {error.strerror}"
        raise AscendV4Error(
            ExitCode.USAGE, "cannot-write", cause, "another -o, a directory of yours"
        ) from error
    return done


def text_of(path: Path) -> str:
    """Return a file's text, ``""`` for one that can't be read: nothing of ours."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def kept(path: Path, beside: bool) -> Finding:
    """Return what to say about a file that was edited."""
    new = f"{path}.new"
    if not beside:
        text = f"{path} keeps your edits; what render would write there has not changed since"
        return Finding("edited-file-kept", "info", text)
    text = f"{path} was edited, so it stays as it is; the new version is {new}"
    fix = f"diff -u {path} {new}, take over what you want; --force overwrites the edits"
    return Finding("edited-file-kept", "warn", text, fix)


def refuse_foreign(texts: Mapping[Path, str], editable: set[Path]) -> None:
    """Raise AscendV4Error (usage) where the user's own file would be overwritten.

    A version that was put beside an edited file may have been edited too.
    """
    lost = []
    for path, text in texts.items():
        if not path.exists() or path in editable:
            continue
        edited = path.suffix == ".new" and decide(text_of(path), text) != "write"
        if edited or not made_by_us(path):
            lost.append(str(path))
    if lost:
        raise AscendV4Error(
            ExitCode.USAGE,
            "file-exists",
            f"not made by render: {', '.join(lost)}",
            "another -o, or --force",
        )


def put(path: Path, text: str) -> None:
    """Write a file at once; a script may be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(temporary).chmod(0o755 if text.startswith("#!") else 0o644)
    Path(temporary).replace(path)
