"""Checks of the Ascend software against what the release needs."""

from __future__ import annotations

from collections.abc import Iterator

from ascend_v4.host.versions import AscendVersions, at_least, read_versions

from .check import Outcome
from .look import Look

__all__ = ["version_checks"]


def version_checks(look: Look) -> Iterator[Outcome]:
    """Yield driver, firmware, CANN and its environment, compared with the release row."""
    found = read_versions(look.host)
    yield driver(look, found)
    yield firmware(found)
    yield cann(look, found)
    yield environment(look, found)


def driver(look: Look, found: AscendVersions) -> Outcome:
    """Return whether the HDK is new enough; most releases name none."""
    if found.driver is None:
        return Outcome("driver-version", "unknown", "the driver's version.info can't be read")
    wanted = (look.release or {}).get("hdk")
    if not wanted:
        said = f"HDK {found.driver}; the release names none of its own"
        return Outcome("driver-version", "ok", said)
    if at_least(found.driver, wanted):
        return Outcome("driver-version", "ok", f"HDK {found.driver}, the release asks for {wanted}")
    return Outcome(
        "driver-version",
        "warn",
        f"HDK {found.driver} is older than {wanted}, which the release asks for",
        values={"wanted": wanted},
    )


def firmware(found: AscendVersions) -> Outcome:
    """Return whether the firmware lies in the range that the driver names."""
    if not found.firmware or not found.firmware_range:
        said = "firmware or driver file does not tell (firmware is not mounted into containers)"
        return Outcome("firmware-range", "unknown", said)
    low, high = found.firmware_range
    said = f"firmware {found.firmware}, the driver accepts {low} to {high}"
    good = at_least(found.firmware, low) and at_least(high, found.firmware)
    return Outcome("firmware-range", "ok" if good else "fail", said)


def cann(look: Look, found: AscendVersions) -> Outcome:
    """Return whether CANN is the release's: older is refused by kernels, newer is untested."""
    wanted = (look.release or {}).get("cann")
    if found.cann is None:
        said = "no CANN toolkit below /usr/local/Ascend: outside the image that is expected"
        return Outcome("cann-version", "unknown", said)
    if not wanted:
        return Outcome("cann-version", "ok", f"CANN {found.cann}; the release names none")
    values = {"wanted": wanted, "image": image_of(look)}
    if not at_least(found.cann, wanted):
        message = f"CANN {found.cann} is older than the release's {wanted}"
        return Outcome("cann-version", "fail", message, (str(found.toolkit_root),), values)
    if not at_least(wanted, found.cann):
        message = f"CANN {found.cann} is newer than the release's {wanted}"
        return Outcome("cann-version", "warn", message, (str(found.toolkit_root),), values)
    return Outcome("cann-version", "ok", f"CANN {found.cann} in {found.toolkit_root}")


def environment(look: Look, found: AscendVersions) -> Outcome:
    """Return whether set_env.sh of CANN and NNAL was sourced in this shell."""
    if found.cann is None:
        return Outcome("cann-environment", "unknown", "there is no CANN here to source")
    env = look.host.env
    missing = [name for name in ("ASCEND_TOOLKIT_HOME", "ATB_HOME_PATH") if not env.get(name)]
    if not missing:
        return Outcome(
            "cann-environment", "ok", f"ASCEND_TOOLKIT_HOME={env['ASCEND_TOOLKIT_HOME']}"
        )
    if env.get("ASCEND_HOME_PATH") and missing == ["ASCEND_TOOLKIT_HOME"]:
        return Outcome("cann-environment", "ok", f"ASCEND_HOME_PATH={env['ASCEND_HOME_PATH']}")
    said = f"{' and '.join(missing)} not set: images source it only for login shells"
    return Outcome("cann-environment", "fail", said)


def image_of(look: Look) -> str:
    """Return the official image of the plan, ``""`` without a plan."""
    return look.compiled.plan.image if look.compiled else ""
