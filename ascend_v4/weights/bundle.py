"""A bundle: everything that a site without a network needs, in one directory or archive.

``bundle.json`` says what it is, ``SHA256SUMS`` what every file must be, ``weights/``,
``wheels/`` and ``catalog/`` hold the parts, ``install.sh`` puts them in place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ascend_v4 import __version__
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host

from .check import check_files
from .inspect import FileVerdict
from .manifest import FileRow, Manifest, manifest_json, read_rows, write_json
from .request import Reporter

__all__ = ["SUMS", "Order", "create", "not_a_bundle", "pack", "read_sums", "verify"]

SUMS = "SHA256SUMS"

INSTALL = """#!/bin/sh
# Puts this bundle in place without a network: ./install.sh [PYTHON ENVIRONMENT]
set -eu
wanted='@PYTHON@'
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv=${1:-"$HOME/.local/share/ascend-v4/cli"}
if [ -n "$(ls "$here/wheels" 2>/dev/null)" ]; then
    python=
    for name in "${PYTHON:-python3}" "python$wanted"; do
        version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
            continue
        if [ "$version" = "$wanted" ]; then
            python=$name
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "error: the packages in this bundle are for Python $wanted, which isn't here" >&2
        echo "next:  PYTHON=/path/to/python$wanted $0, or bundle create --python-version" >&2
        exit 6
    fi
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --no-index --find-links "$here/wheels" ascend-v4
    PATH="$venv/bin:$PATH"
fi
ascend-v4 bundle install "$here"
if [ -f "$here/image.tar" ]; then
    echo "then, as a user of docker:  docker load -i $here/image.tar"
fi
echo "the command is $(command -v ascend-v4)"
"""


@dataclass(frozen=True)
class Order:
    """What goes into a bundle: weights with their manifest, wheels, an image.

    ``image`` is a reference, best with ``@sha256:…``; ``image_archive`` the output of
    ``docker save``. ``platform`` and ``python`` are of the target, as pip writes them;
    None is this machine.
    """

    target: Path
    name: str
    weights: Path | None
    manifest: Manifest | None
    wheels: bool = True
    image: str | None = None
    image_archive: Path | None = None
    platform: str | None = None
    python: str | None = None


def create(order: Order, host: Host, show: Reporter) -> Path:
    """Make a bundle directory and return it; nothing is left of one that fails.

    Weights are linked where the file system allows it, else copied. Raises
    AscendV4Error: usage for a target that isn't empty, host not ready when pip fails or
    the target can't be written.
    """
    target = order.target
    if target.is_file() or (target.exists() and any(target.iterdir())):
        raise AscendV4Error(
            ExitCode.USAGE, "not-empty", f"{target} is not empty", "name another directory"
        )
    if order.image_archive is not None and not order.image_archive.is_file():
        raise AscendV4Error(
            ExitCode.USAGE,
            "no-image-archive",
            f"--image-archive: there is no file {order.image_archive}",
            "docker save -o image.tar NAME:TAG",
        )
    try:
        return _fill(order, host, show)
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, OSError):
            raise _unwritable(target, error) from error
        raise


def _unwritable(target: Path, error: OSError) -> AscendV4Error:
    return AscendV4Error(
        ExitCode.HOST_NOT_READY,
        "cannot-write",
        f"{error.filename or target} can't be read or written: {error.strerror}",
        "make room, or name another place",
    )


def _fill(order: Order, host: Host, show: Reporter) -> Path:
    target = order.target
    target.mkdir(parents=True, exist_ok=True)
    if order.weights is not None and order.manifest is not None:
        show.status(f"adding the weights of {order.weights}")
        _add_weights(order.weights, order.manifest, target / "weights" / order.name)
    if order.wheels:
        show.status("collecting the packages of ascend-v4 as wheels")
        add_wheels(target / "wheels", host, order.platform, order.python)
    from ascend_v4.catalog import load

    (target / "catalog").mkdir()
    shutil.copy2(Path(load.__file__).with_name("compiled.json"), target / "catalog")
    if order.image and "@sha256:" not in order.image:
        show.status(f"warning: {order.image} has no digest; what it means may change")
    if order.image_archive is not None:
        _link(order.image_archive, target / "image.tar")
    wanted = order.python or f"{sys.version_info[0]}.{sys.version_info[1]}"
    script = INSTALL.replace("@PYTHON@", ".".join(wanted.split(".")[:2]))
    (target / "install.sh").write_text(script, encoding="utf-8")
    (target / "install.sh").chmod(0o755)
    write_json(_description(order), target / "bundle.json")
    _write_sums(target, order, show)
    return target


def _add_weights(source: Path, manifest: Manifest, target: Path) -> None:
    """Link or copy the manifest's files and nothing else."""
    for row in manifest.files:
        _link(source / row.path, target / row.path)
    write_json(manifest_json(manifest), target.parent / f"{target.name}.manifest.json")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def add_wheels(
    folder: Path, host: Host, platform: str | None = None, python: str | None = None
) -> None:
    """Collect ascend-v4 and what it needs as wheels, by this interpreter's pip.

    Raises AscendV4Error (host not ready) when pip can't.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as scratch:
        source = own_source(Path(scratch))
        _pip(host, [*pip, "wheel", "--quiet", "--no-deps", "-w", str(folder), source])
    own = next(folder.glob("ascend_v4-*.whl"))
    words = [*pip, "download", "--quiet", "--only-binary=:all:", "-d", str(folder), str(own)]
    words += [word for tag in tags_of(platform) for word in ("--platform", tag)]
    words += ["--python-version", python] if python else []
    _pip(host, words)


def tags_of(platform: str | None) -> list[str]:
    """Return a platform and all older ones whose wheels run there, as pip writes them.

    ``aarch64`` is manylinux_2_34_aarch64, the glibc of openEuler 22.03; pip takes each
    tag by itself and doesn't know that one includes another (PEP 600).
    """
    if platform is None:
        return []
    if platform in ("aarch64", "x86_64"):
        platform = f"manylinux_2_34_{platform}"
    found = re.fullmatch(r"manylinux(?:_2_(\d+)|2014)_(\w+)", platform)
    if found is None:
        return [platform]
    newest, machine = int(found[1] or 17), found[2]
    oldest = 5 if machine in ("x86_64", "i686") else 17
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(newest, oldest - 1, -1)]
    named = {"manylinux2014": 17, "manylinux2010": 12, "manylinux1": 5}
    old = [f"{name}_{machine}" for name, minor in named.items() if oldest <= minor <= newest]
    return [*tags, *old, f"linux_{machine}"]


def own_source(scratch: Path) -> str:
    """Return what pip builds ascend-v4 from: a copy of its checkout, else its release.

    A copy, because the build leaves folders in its source, and stale modules in them
    get into the next wheel.
    """
    from importlib import metadata
    from urllib.parse import unquote, urlsplit

    text = metadata.distribution("ascend-v4").read_text("direct_url.json")
    url = urlsplit(json.loads(text)["url"]) if text else None
    if url is not None and url.scheme == "file":
        checkout = Path(unquote(url.path))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            if (checkout / name).is_file():
                shutil.copy2(checkout / name, scratch)
        shutil.copytree(
            checkout / "ascend_v4",
            scratch / "ascend_v4",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        return str(scratch)
    return f"ascend-v4=={__version__}"


def _pip(host: Host, argv: Sequence[str]) -> None:
    done = host.run(argv, timeout_s=3600)
    if not done.ok:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "pip-failed",
            f"pip can't collect the packages: {last}",
            "check pip's index, or leave them out with --no-wheels",
        )


def _description(order: Order) -> dict[str, object]:
    manifest, image = order.manifest, order.image
    reference, _, digest = (image or "").partition("@")
    return {
        "schema": 1,
        "ascend_v4": __version__,
        "weights": None
        if manifest is None
        else {"name": order.name, "repo": manifest.repo, "commit": manifest.commit},
        "image": None
        if image is None
        else {
            "reference": reference,
            "digest": digest or None,
            "pull": f"docker pull {image}",
            "save": f"docker save -o image.tar {reference}",
            "archive": "image.tar" if order.image_archive else None,
        },
    }


def _write_sums(target: Path, order: Order, show: Reporter) -> None:
    """Write SHA256SUMS; weights are not read again, their manifest has the hashes."""
    known: dict[str, str] = {}
    for row in order.manifest.files if order.manifest else ():
        if row.sha256:
            known[f"weights/{order.name}/{row.path}"] = row.sha256
    lines = []
    for path in sorted(p for p in target.rglob("*") if p.is_file()):
        name = path.relative_to(target).as_posix()
        if name not in known:
            with path.open("rb") as file:
                digest = hashlib.sha256()
                while block := file.read(4 << 20):
                    digest.update(block)
            known[name] = digest.hexdigest()
        lines.append(f"{known[name]}  {name}\n")
    (target / SUMS).write_text("".join(lines), encoding="utf-8")
    show.status(f"{len(lines)} files in {target}")


def pack(bundle: Path) -> Path:
    """Write a bundle directory into ``NAME.tar`` beside it, sums first, and return that.

    Raises AscendV4Error (host not ready) when there is no room; the directory stays.
    """
    archive = bundle.with_name(bundle.name + ".tar")
    fresh = bundle.with_name(bundle.name + ".tar.new")
    try:
        with tarfile.open(fresh, "w") as tar:
            names = sorted(path.name for path in bundle.iterdir() if path.name != SUMS)
            for name in (SUMS, *names):
                tar.add(bundle / name, f"{bundle.name}/{name}")
        fresh.replace(archive)
    except OSError as error:
        raise _unwritable(archive, error) from error
    finally:
        fresh.unlink(missing_ok=True)
    return archive


def verify(bundle: Path, show: Reporter, jobs: int = 4) -> list[FileVerdict]:
    """Compare every file of a bundle, or of its archive, with SHA256SUMS.

    Files that the sums don't name are ``extra``. Raises AscendV4Error (weights
    incomplete) for something that isn't a bundle.
    """
    if bundle.is_file():
        return _verify_archive(bundle)
    try:
        sums = read_sums((bundle / SUMS).read_bytes())
    except (OSError, ValueError) as error:
        raise not_a_bundle(bundle) from error
    there = {p.relative_to(bundle).as_posix(): p for p in bundle.rglob("*") if p.is_file()}
    there.pop(SUMS, None)
    rows = [
        FileRow(name, there[name].stat().st_size if name in there else 0, digest)
        for name, digest in sums.items()
    ]
    show.start("check", sum(row.size for row in rows), len(rows))
    try:
        found = check_files(bundle, rows, jobs, lambda done: show.progress(done, 0))
    finally:
        show.stop()
    verdicts = [FileVerdict(row.path, found[row.path], row.size) for row in rows]
    verdicts += [FileVerdict(name, "extra") for name in sorted(set(there) - set(sums))]
    return verdicts


def read_sums(text: bytes) -> dict[str, str]:
    """Return path -> sha256 of the text of SHA256SUMS.

    Raises ValueError for anything else, AscendV4Error (refused) for unsafe paths.
    """
    rows = [line.split("  ", 1) for line in text.decode().splitlines() if line]
    listed: list[dict[str, object]] = [
        {"path": name, "size": 0, "sha256": digest} for digest, name in rows
    ]
    return {row.path: row.sha256 or "" for row in read_rows(listed, SUMS)}


def not_a_bundle(path: Path) -> AscendV4Error:
    """Return the error for something that can't be read as a bundle."""
    return AscendV4Error(
        ExitCode.WEIGHTS_INCOMPLETE,
        "not-a-bundle",
        f"{path} is not a bundle: it has no {SUMS} that can be read",
        "ascend-v4 bundle create --help",
    )


def _verify_archive(archive: Path) -> list[FileVerdict]:
    """Read an archive once from front to end; nothing is unpacked."""
    sums: dict[str, str] | None = None
    found: dict[str, FileVerdict] = {}
    try:
        with tarfile.open(archive, "r|") as tar:
            for member in tar:
                name = member.name.partition("/")[2]
                file = tar.extractfile(member) if member.isreg() or member.islnk() else None
                if file is None:
                    continue
                if sums is None:
                    sums = read_sums(file.read(64 << 20))
                    continue
                digest = hashlib.sha256()
                while block := file.read(4 << 20):
                    digest.update(block)
                right = sums.get(name) == digest.hexdigest()
                wrong = "hash" if name in sums else "extra"
                found[name] = FileVerdict(name, "good" if right else wrong, member.size)
    except (tarfile.TarError, EOFError, ValueError) as error:
        if sums is None:
            raise not_a_bundle(archive) from error
    if sums is None:
        raise not_a_bundle(archive)
    absent = [FileVerdict(name, "absent") for name in sums if name not in found]
    return [*found.values(), *absent]
