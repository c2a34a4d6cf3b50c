"""Versions of driver, firmware and CANN from the files they install; nothing is started.

Formats: the files of HDK 24.1 to 25.5 and CANN 8.0 to 9.1 below /usr/local/Ascend.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ascend_v4.host.system import Host

__all__ = ["AscendVersions", "at_least", "keys_of", "read_versions", "satisfies", "version_key"]

_ROOT = "/usr/local/Ascend"
_RANGE = re.compile(r"\[([^,\[\]]{1,40}),([^,\[\]]{1,40})\]")
_WORD = re.compile(r"\d{1,9}|rc|post|beta|alpha|dev|[tb](?=\d)", re.IGNORECASE)
_STAGE = {"dev": -4, "alpha": -3, "beta": -2, "b": -2, "t": -2, "rc": -1, "post": 1}


@dataclass(frozen=True)
class AscendVersions:
    """What the files say; None where a file is missing. ``firmware_range`` is what the
    driver accepts, both ends included; ``firmware`` the version that lies in it or not.
    ``toolkit_root`` is where CANN was found, ``install`` the lines of ascend_install.info.
    """

    driver: str | None
    firmware: str | None
    firmware_range: tuple[str, str] | None
    cann: str | None
    toolkit_root: str | None
    install: Mapping[str, str]


def keys_of(text: str | None) -> dict[str, str]:
    """Read lines of ``key=value``; other lines are passed over."""
    pairs = (line.split("=", 1) for line in (text or "").splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def read_versions(host: Host) -> AscendVersions:
    """Return the versions of the Ascend software of a host; never raises."""
    install = keys_of(host.read_text("/etc/ascend_install.info"))
    root = install.get("Driver_Install_Path_Param") or _ROOT
    driver = keys_of(host.read_text(f"{root}/driver/version.info"))
    firmware = keys_of(host.read_text(f"{root}/firmware/version.info"))
    accepted = _RANGE.search(driver.get("compatible_version_fw", ""))
    cann, place = read_cann(host)
    return AscendVersions(
        driver=package_version(driver),
        firmware=firmware.get("Version"),
        firmware_range=(accepted[1], accepted[2]) if accepted else None,
        cann=cann,
        toolkit_root=place,
        install=install,
    )


def package_version(keys: Mapping[str, str]) -> str | None:
    """Return the HDK version; some drivers put the HAL's number, 7.x, in ``Version``."""
    version = keys.get("Version", "")
    if not version or version.startswith("7."):
        version = keys.get("package_version", version)
    return version or None


def read_cann(host: Host) -> tuple[str | None, str | None]:
    """Return CANN's version and root: ASCEND_TOOLKIT_HOME, the new place, then the old one."""
    home = host.env.get("ASCEND_TOOLKIT_HOME") or host.env.get("ASCEND_HOME_PATH")
    roots = [home] if home else []
    for root in [*roots, f"{_ROOT}/cann", f"{_ROOT}/ascend-toolkit/latest"]:
        for found in host.glob(root, "*-linux/ascend_toolkit_install.info"):
            name = f"{root}/{found.parent.name}/{found.name}"
            version = keys_of(host.read_text(name)).get("version")
            if version:
                return version, root
        running = re.search(
            r"runtime_running_version=\[?(?:[^:\]\n]*:)?([\w.]+)",
            host.read_text(f"{root}/version.cfg") or "",
        )
        if running:
            return running[1], root
    return None, None


def version_key(version: str) -> tuple[int, ...]:
    """Return numbers that sort as the versions do: ``9.1.0.beta1`` before ``9.1.0``."""
    public = version.lower().lstrip("v").split("+")[0]
    numbers = [_STAGE[word] if word in _STAGE else int(word) for word in _WORD.findall(public)]
    stage = next((i for i, n in enumerate(numbers) if n < 0), len(numbers))
    # A missing part is 0, so that 9.1 equals 9.1.0 and 9.1.rc2 precedes both.
    return tuple(numbers[:stage] + [0] * max(0, 4 - stage) + numbers[stage:])


def at_least(version: str, wanted: str) -> bool:
    """Whether a version is ``wanted`` or newer, compared part by part."""
    left, right = version_key(version), version_key(wanted)
    size = max(len(left), len(right))
    return left + (0,) * (size - len(left)) >= right + (0,) * (size - len(right))


def satisfies(version: str, asked: str) -> bool:
    """Whether a version meets ``==1.2``, ``>=1,<2``, or a bare version (the same, local aside)."""
    for part in asked.split(","):
        match = re.fullmatch(r"\s*(==|>=|<=|!=|<|>|~=)?\s*([^\s]+)\s*", part)
        if not match:
            return False
        sign, bound = match[1] or "==", match[2]
        newer, same = at_least(version, bound), equal(version, bound)
        good = {
            "==": same,
            "!=": not same,
            ">=": newer,
            "~=": newer,
            ">": newer and not same,
            "<": not newer,
            "<=": not newer or same,
        }[sign]
        if not good:
            return False
    return True


def equal(version: str, other: str) -> bool:
    """Whether two versions are the same; ``2.10.0+cpu`` equals ``2.10.0``."""
    return at_least(version, other) and at_least(other, version)
