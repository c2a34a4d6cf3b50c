"""Installing a bundle, from its directory or straight from its archive.

Nothing gets its name before every byte of the bundle was compared with SHA256SUMS.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

from ascend_v4.errors import AscendV4Error, ExitCode

from .bundle import SUMS, not_a_bundle, read_sums
from .check import Stamps
from .lock import locked
from .manifest import (
    SIDECAR,
    FileRow,
    Manifest,
    load_manifest,
    parse_manifest,
    read_rows,
    save_manifest,
)
from .request import MARGIN, Reporter, free_bytes, human

__all__ = ["install"]

_BLOCK = 4 << 20
#: Bytes of the largest file that is held in memory: a manifest.
_SMALL = 64 << 20
#: Where files wait in the target's sidecar until all are known to be right.
INCOMING = "incoming"


class Target(NamedTuple):
    """Where weights go, ``name`` of them, and which repository they are of."""

    directory: Path
    name: str
    repo: str

    @property
    def incoming(self) -> Path:
        """The directory in which they wait."""
        return self.directory / SIDECAR / INCOMING


def install(bundle: Path, models: Path, show: Reporter) -> Path | None:
    """Put a bundle's weights where ``serve`` looks, and return that directory.

    A directory must have been verified before; an archive is, while it is unpacked.
    None when the bundle has no weights. Raises AscendV4Error: usage for a target that
    holds something else, host not ready when it can't be written, busy while something
    else writes there, incomplete or corrupt for a bundle that isn't whole.
    """
    try:
        if bundle.is_file():
            return _from_archive(bundle, models, show)
        return _from_directory(bundle, models, show)
    except OSError as error:
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "cannot-write",
            f"{error.filename or models} can't be read or written: {error.strerror}",
            "make room, or name another place with --models",
        ) from error


def _from_directory(bundle: Path, models: Path, show: Reporter) -> Path | None:
    target = _target(bundle, (bundle / "bundle.json").read_bytes(), models)
    if target is None:
        return None
    source = bundle / "weights" / target.name
    text = source.with_name(f"{target.name}.manifest.json").read_bytes()
    sums = read_sums((bundle / SUMS).read_bytes())
    manifest = _manifest(bundle, target.name, text, sums)
    if source.stat().st_dev != _existing(models).stat().st_dev:
        _need(target.directory, manifest.size)

    def bring(row: FileRow, path: Path) -> None:
        try:
            os.link((source / row.path).resolve(), path)
        except OSError:
            with (source / row.path).open("rb") as file:
                if _copy(file, path) != sums[f"weights/{target.name}/{row.path}"]:
                    raise _damaged(bundle, row.path) from None

    with locked(target.directory, show.status):
        return _put(target, manifest, bring, show)


def _from_archive(archive: Path, models: Path, show: Reporter) -> Path | None:
    """Unpack and compare in one pass; SUMS and bundle.json are first in an archive."""
    try:
        with tarfile.open(archive, "r|") as tar:
            sums = read_sums(_named(tar, SUMS, archive))
            about = _named(tar, "bundle.json", archive)
            _refuse_wrong(archive, "bundle.json", about, sums)
            target = _target(archive, about, models)
            if target is None:
                return None
            _need(target.directory, archive.stat().st_size)
            with locked(target.directory, show.status):
                try:
                    text = _unpack(tar, sums, target, archive, show)
                    manifest = _manifest(archive, target.name, text, sums)
                    return _put(target, manifest, _taken(target, archive), show)
                finally:
                    shutil.rmtree(target.incoming, ignore_errors=True)
    except (tarfile.TarError, ValueError) as error:
        raise not_a_bundle(archive) from error


def _named(tar: tarfile.TarFile, name: str, archive: Path) -> bytes:
    """Return the next file of an archive, which must have this name."""
    while (member := tar.next()) is not None:
        if member.isdir():
            continue
        file = tar.extractfile(member) if member.isreg() else None
        if file is None or member.name.partition("/")[2] != name or member.size > _SMALL:
            break
        return file.read()
    raise not_a_bundle(archive)


def _unpack(
    tar: tarfile.TarFile, sums: dict[str, str], target: Target, archive: Path, show: Reporter
) -> bytes:
    """Bring the weights to where they wait; return their manifest's text.

    Raises AscendV4Error when any file of the archive is damaged or missing.
    """
    prefix, text, seen = f"weights/{target.name}/", b"", {"bundle.json"}
    size = sum(1 for name in sums if name.startswith(prefix))
    shutil.rmtree(target.incoming, ignore_errors=True)
    show.start("check", archive.stat().st_size, size)
    try:
        while (member := tar.next()) is not None:
            name = member.name.partition("/")[2]
            file = tar.extractfile(member) if member.isreg() else None
            if file is None or name not in sums:
                continue
            if name.startswith(prefix):
                found = _copy(file, target.incoming / name.removeprefix(prefix))
            elif name == f"{prefix[:-1]}.manifest.json" and member.size <= _SMALL:
                text = file.read()
                found = hashlib.sha256(text).hexdigest()
            else:
                found = _copy(file, None)
            if found != sums[name]:
                raise _damaged(archive, name)
            seen.add(name)
            show.progress(member.offset_data + member.size, len(seen))
    except tarfile.TarError as error:
        raise _incomplete(archive, sorted(set(sums) - seen)) from error
    finally:
        show.stop()
    if set(sums) - seen:
        raise _incomplete(archive, sorted(set(sums) - seen))
    return text


def _taken(target: Target, archive: Path) -> Callable[[FileRow, Path], None]:
    """Return what takes an unpacked file from where it waits."""

    def bring(row: FileRow, path: Path) -> None:
        waiting = target.incoming / row.path
        if not waiting.is_file():
            raise _incomplete(archive, [f"weights/{target.name}/{row.path}"])
        waiting.replace(path)

    return bring


def _put(
    target: Target, manifest: Manifest, bring: Callable[[FileRow, Path], None], show: Reporter
) -> Path:
    """Bring every file of the manifest to its place, and note that they were checked."""
    directory = target.directory
    # Until the end it says that it isn't whole, so that nothing takes it for that.
    save_manifest(manifest, directory)
    stamps = Stamps(directory)
    for row in manifest.files:
        path = directory / row.path
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = directory / SIDECAR / f"{path.name}.new"
        fresh.unlink(missing_ok=True)
        bring(row, fresh)
        fresh.replace(path)
    stamps.add(row for row in manifest.files if row.digest)
    save_manifest(manifest.done(), directory)
    show.status(f"{len(manifest.files)} files in {directory}")
    return directory


def _copy(source: IO[bytes], path: Path | None) -> str:
    """Copy a file, or only read it, and return its sha256."""
    digest = hashlib.sha256()
    if path is None:
        while block := source.read(_BLOCK):
            digest.update(block)
        return digest.hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        while block := source.read(_BLOCK):
            digest.update(block)
            out.write(block)
    return digest.hexdigest()


def _target(bundle: Path, about: bytes, models: Path) -> Target | None:
    """Return where a bundle's weights go, None where it has none."""
    try:
        weights: dict[str, Any] | None = json.loads(about)["weights"]
        if weights is None:
            return None
        name, repo = Path(str(weights["name"])).name, str(weights["repo"])
    except (ValueError, KeyError, TypeError) as error:
        raise not_a_bundle(bundle) from error
    directory = models / name
    if name in ("", ".", ".."):
        raise not_a_bundle(bundle)
    before = load_manifest(directory)
    other = before is not None and before.repo != repo
    if directory.is_file() or other or (before is None and _holds_files(directory)):
        raise AscendV4Error(
            ExitCode.USAGE,
            "other-model",
            f"{directory} is there already and holds something else",
            "name another place with --models",
        )
    return Target(directory, name, repo)


def _holds_files(directory: Path) -> bool:
    return directory.is_dir() and any(path.name != SIDECAR for path in directory.iterdir())


def _manifest(bundle: Path, name: str, text: bytes, sums: dict[str, str]) -> Manifest:
    """Return the manifest of a bundle's weights: safe paths, the hashes of SHA256SUMS."""
    try:
        manifest = parse_manifest({**json.loads(text), "complete": False})
    except (ValueError, KeyError, TypeError) as error:
        raise not_a_bundle(bundle) from error
    for row in read_rows([row.to_json() for row in manifest.files], str(bundle)):
        path = f"weights/{name}/{row.path}"
        if path not in sums:
            raise _incomplete(bundle, [path])
        if row.sha256 not in (None, sums[path]):
            raise _damaged(bundle, path)
    return manifest


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _need(directory: Path, size: int) -> None:
    free = free_bytes(directory)
    if size + MARGIN > free:
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "disk-full",
            f"{directory} has {human(free)} free, and {human(size)} are to be installed "
            f"(with {human(MARGIN)} to spare)",
            "make room, or name another place with --models",
        )


def _refuse_wrong(archive: Path, name: str, body: bytes, sums: dict[str, str]) -> None:
    if sums.get(name) != hashlib.sha256(body).hexdigest():
        raise _damaged(archive, name)


def _damaged(bundle: Path, name: str) -> AscendV4Error:
    return AscendV4Error(
        ExitCode.WEIGHTS_CORRUPT,
        "bundle-corrupt",
        f"{bundle}: {name} is damaged",
        "copy the bundle again",
    )


def _incomplete(bundle: Path, names: list[str]) -> AscendV4Error:
    return AscendV4Error(
        ExitCode.WEIGHTS_INCOMPLETE,
        "bundle-incomplete",
        f"{bundle}: {len(names)} files are missing or cut off, {names[0] if names else 'the end'} "
        "first",
        "copy the bundle again",
    )
