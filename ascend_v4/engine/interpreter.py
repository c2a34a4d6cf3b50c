"""Finds a Python that can make the environment of the CPU engine."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host

__all__ = ["Interpreter", "find_python"]

# The versions that cpu-requirements.txt has hashes for.
VERSIONS = ("3.11", "3.12")
PROBE = (
    "import ensurepip, json, platform, sys, venv;"
    "print(json.dumps([platform.python_version(), sys.platform, platform.machine()]))"
)


@dataclass(frozen=True)
class Interpreter:
    """A usable Python: its path, full version and machine (``x86_64`` or ``aarch64``)."""

    path: str
    version: str
    machine: str


def _candidates(host: Host) -> list[str]:
    named = host.env.get("ASCEND_V4_PYTHON")
    if named:
        return [named]
    found = [sys.executable, *(host.which(f"python{v}") for v in VERSIONS), host.which("python3")]
    return list(dict.fromkeys(path for path in found if path))


def _probe(host: Host, path: str) -> tuple[str, str, str] | None:
    done = host.run([path, "-I", "-c", PROBE])
    try:
        version, system, machine = json.loads(done.stdout)
    except ValueError:
        return None
    return version, system, machine


def find_python(host: Host) -> Interpreter:
    """Return the first usable Python 3.11 or 3.12, one with ``venv`` and ``ensurepip``.

    Looks at ``$ASCEND_V4_PYTHON`` alone if set, else at the running interpreter and at
    PATH.

    Raises:
        AscendV4Error: ``no-python`` when there is none, ``unsupported-platform`` off
            Linux x86_64 and aarch64.
    """
    seen = []
    for path in _candidates(host):
        answer = _probe(host, path)
        if answer is None:
            seen.append(f"{path} (does not run, or lacks venv or ensurepip)")
            continue
        version, system, machine = answer
        if version.rsplit(".", 1)[0] not in VERSIONS:
            seen.append(f"{path} ({version})")
            continue
        if system != "linux" or machine not in ("x86_64", "aarch64"):
            raise AscendV4Error(
                ExitCode.REFUSED,
                "unsupported-platform",
                f"there is no CPU engine for {system} on {machine}",
                "use Linux on x86_64 or aarch64",
            )
        return Interpreter(path, version, machine)
    raise AscendV4Error(
        ExitCode.HOST_NOT_READY,
        "no-python",
        f"the CPU engine needs Python {' or '.join(VERSIONS)} with its venv module; "
        f"found {', '.join(seen) or 'none'}",
        "install one (Debian, Ubuntu: apt install python3.11-venv) or name it in ASCEND_V4_PYTHON",
    )
