"""What is installed in an engine's environment, read from metadata; nothing is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ascend_v4.engine.locate import installed_version, prefixes

__all__ = ["NAMES", "BuildInfo", "installed", "read_build_info"]

NAMES = (
    "vllm",
    "vllm-ascend",
    "torch",
    "torch-npu",
    "triton",
    "triton-ascend",
    "transformers",
    "numpy",
)


@dataclass(frozen=True)
class BuildInfo:
    """The chip that vllm-ascend was built for: ``A2``, ``A3``, ``A5``, … and the SoC name."""

    device_type: str | None
    soc_version: str | None


def installed(executable: Path, names: tuple[str, ...] = NAMES) -> dict[str, str]:
    """Return the versions of packages beside an engine's program; what is missing is left out."""
    found = {name: installed_version(executable, name) for name in names}
    return {name: version for name, version in found.items() if version}


def read_build_info(executable: Path, workspace: Path | None = None) -> BuildInfo | None:
    """Return what vllm-ascend was built for, from the file that its build writes.

    Official images install it in development mode from ``/vllm-workspace/vllm-ascend``.
    """
    places = [
        place
        for prefix in prefixes(executable)
        for place in prefix.glob("lib*/python3*/*-packages/vllm_ascend/_build_info.py")
    ]
    if workspace is not None:
        places.append(workspace / "vllm_ascend" / "_build_info.py")
    for place in places:
        try:
            text = place.read_text(errors="replace")
        except OSError:
            continue
        return parse_build_info(text)
    return None


def parse_build_info(text: str) -> BuildInfo:
    """Return the two values of a ``_build_info.py``; never raises."""
    kind = re.search(r"__device_type__\s*=\s*['\"]?(?:AscendDeviceType\.)?_?(\w{1,20})", text)
    soc = re.search(r"__soc_version__\s*=\s*['\"]?([\w.-]{1,40})", text)
    return BuildInfo(kind[1].upper() if kind else None, soc[1] if soc else None)
