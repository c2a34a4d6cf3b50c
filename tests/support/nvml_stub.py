"""Build the stub ``libnvidia-ml.so.1`` and give the environment that loads it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("nvml_stub.c")


def build_stub(directory: Path) -> Path:
    """Compile the stub into ``directory`` and return the library; skips without a compiler."""
    compiler = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc or clang) on PATH to build the NVML stub with")
    library = directory / "libnvidia-ml.so.1"
    argv = [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*argv, "-o", str(library), str(_SOURCE)], check=True, timeout=120)
    return library


def stub_env(library: Path, gpus: str, **more: str) -> dict[str, str]:
    """Return a process environment in which NVML is ``library`` with ``gpus`` (see the C file).

    Only a new process takes it up: the loader reads LD_LIBRARY_PATH once. ``more`` sets
    further variables; CUDA_VISIBLE_DEVICES is dropped unless it is given.
    """
    env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return {**env, "LD_LIBRARY_PATH": str(library.parent), "STUB_NVML_GPUS": gpus, **more}
