"""Which NPUs this host has, told from ``/dev``, ``npu-smi``, PCI ids and the SoC name.

npu-smi's word counts most; the others are only asked where it is missing or refuses.
Everything found is kept as evidence, so that a wrong guess can be argued with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ascend_v4.host.evidence import Problem
from ascend_v4.host.npu_chip import PCI_FAMILIES, UNSUPPORTED, ChipName, name_chip
from ascend_v4.host.npu_smi import NpuDevice, NpuInfo, NpuProcess, parse_info
from ascend_v4.host.system import Completed, Host

__all__ = ["NpuHost", "detect_npus"]

# `npu-smi` moved between driver releases and sbin is often not on a user's PATH.
_TOOL_PLACES = ("/usr/local/sbin/npu-smi", "/usr/local/bin/npu-smi")
_HUAWEI = "0x19e5"
_VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
_MOUNTS = (
    "start the container with --device=/dev/davinci_manager --device=/dev/devmm_svm "
    "--device=/dev/hisi_hdc and mount npu-smi, /usr/local/dcmi, "
    "/usr/local/Ascend/driver/lib64, /usr/local/Ascend/driver/version.info "
    "and /etc/ascend_install.info"
)


@dataclass(frozen=True)
class NpuHost:
    """The NPUs of one host.

    ``family`` is ``a2``, ``a3``, ``a5``, an unsupported ``910``, ``310p`` or ``310``,
    or None where nothing could tell; ``chip`` is the id with its variant
    (``a2:910b4``, ``a3``, ``a5:950dt``), None unless supported. ``reason`` says why
    not. ``count`` is the number of logical devices (dies on A3) that can be opened
    here, ``visible`` those that ASCEND_RT_VISIBLE_DEVICES leaves, None if it is unset
    or malformed. ``hbm_mb`` is the smallest HBM of a device in MB. ``confidence`` is
    ``stated`` (npu-smi named the chip), ``inferred`` or ``unknown``.
    """

    family: str | None
    chip: str | None
    reason: str
    count: int
    visible: tuple[int, ...] | None
    hbm_mb: int | None
    devices: tuple[NpuDevice, ...]
    processes: tuple[NpuProcess, ...]
    confidence: str
    driver_version: str | None
    evidence: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def supported(self) -> bool:
        """Whether the chip is known and one that DeepSeek-V4 runs on."""
        return self.chip is not None

    @property
    def usable_count(self) -> int:
        """The logical devices left after ASCEND_RT_VISIBLE_DEVICES."""
        return self.count if self.visible is None else len(self.visible)


@dataclass(frozen=True)
class _Tool:
    """What asking npu-smi gave: its path if there is one, its answer if it came."""

    path: str | None
    done: Completed | None
    info: NpuInfo


def detect_npus(host: Host, timeout_s: float = 20.0) -> NpuHost | None:
    """Look at ``host`` and describe its NPUs; None if nothing points at any.

    Runs ``npu-smi info`` once, for at most ``timeout_s`` seconds of wall time. Never
    raises: what went wrong is in ``problems``, what was seen in ``evidence``.
    """
    nodes = _device_nodes(host)
    pci = _pci_families(host)
    tool = _ask_tool(host, timeout_s)
    if not nodes and not pci and (tool.path is None or tool.info.no_card):
        return None
    devices = tool.info.devices
    named = name_chip(devices, tool.info.layout, pci, host.env.get("SOC_VERSION", ""))
    count = min(len(nodes), len(devices) or len(nodes)) if nodes else len(devices)
    visible, visible_problem = _visible(host, count)
    problems = (
        *_tool_problems(tool, nodes, pci),
        *_chip_problems(named),
        *_device_problems(tool.info, nodes),
        *visible_problem,
    )
    sizes = [device.hbm_total_mb for device in devices if device.hbm_total_mb]
    family = named.family
    return NpuHost(
        family=family,
        chip=named.chip,
        reason=UNSUPPORTED.get(family or "", "" if named.chip else named.why),
        count=count,
        visible=visible,
        hbm_mb=min(sizes) if sizes else None,
        devices=devices,
        processes=tool.info.processes,
        confidence=named.confidence,
        driver_version=_driver_version(host),
        evidence=_evidence(host, nodes, pci, tool, named),
        problems=problems,
    )


def _device_nodes(host: Host) -> list[int]:
    """Return the numbers N of /dev/davinciN, ascending."""
    names = (path.name for path in host.glob("/dev", "davinci[0-9]*"))
    return sorted(int(name[7:]) for name in names if re.fullmatch(r"davinci[0-9]{1,4}", name))


def _pci_families(host: Host) -> list[str]:
    """Return the family of every Ascend processor on the PCI bus, sorted."""
    found = []
    for device in host.glob("/sys/bus/pci/devices", "*"):
        place = f"/sys/bus/pci/devices/{device.name}"
        if (host.read_text(f"{place}/vendor") or "").strip().lower() == _HUAWEI:
            family = PCI_FAMILIES.get((host.read_text(f"{place}/device") or "").strip().lower())
            if family:
                found.append(family)
    return sorted(found)


def _ask_tool(host: Host, timeout_s: float) -> _Tool:
    places = (str(host.path(place)) for place in _TOOL_PLACES if host.exists(place))
    path = host.which("npu-smi") or next(places, None)
    if path is None:
        return _Tool(None, None, NpuInfo())
    done = host.run([path, "info"], timeout_s=timeout_s)
    return _Tool(path, done, parse_info(f"{done.stdout}\n{done.stderr}"))


def _tool_problems(tool: _Tool, nodes: list[int], pci: list[str]) -> list[Problem]:
    """What is wrong with npu-smi itself or with the way to the devices."""
    if not nodes and (pci or tool.info.devices):
        seen = f"{len(tool.info.devices)} in npu-smi, {len(pci)} on PCI"
        message = f"NPUs are there ({seen}) but /dev/davinciN is not"
        fix = "load the driver (npu-smi info on the bare host), or start the container with "
        return [Problem("no-device-nodes", message, fix + "--device=/dev/davinci0 and so on")]
    if tool.done is None:
        message = f"{len(nodes)} /dev/davinciN but no npu-smi on PATH"
        return [Problem("tool-missing", message, _MOUNTS)]
    if tool.info.devices:
        return []
    said = (tool.info.messages or ("nothing",))[0]
    status = f"exit {tool.done.returncode}" if tool.done.returncode >= 0 else "not run to its end"
    message = f"npu-smi info listed no device ({status}): {said}"
    if tool.info.error_code == -8020:
        fix = "stop the container that holds the devices (docker ps), or give each its own"
        return [Problem("device-used", message, fix)]
    if tool.done.returncode == -2:
        fix = "look at the driver's log (dmesg | grep -i -e devdrv -e davinci) and reboot the host"
        return [Problem("tool-hangs", message, fix)]
    return [Problem("tool-failed", message, f"run npu-smi info on the bare host; {_MOUNTS}")]


def _chip_problems(named: ChipName) -> list[Problem]:
    if named.family in UNSUPPORTED:
        fix = "use a host with A2 (910B1 to 910B4) or A3 chips; ascend-v4 profiles lists them"
        return [Problem("unsupported", f"{UNSUPPORTED[named.family]} ({named.why})", fix)]
    if named.family is None:
        return [Problem("unknown-chip", named.why, "name the chip: --chip a2 or --chip a3")]
    return []


def _device_problems(info: NpuInfo, nodes: list[int]) -> list[Problem]:
    """Health that is not OK, warnings of the tool, and counts that do not agree."""
    found = []
    for device in info.devices:
        if device.health.upper() != "OK":
            chip = "" if device.chip is None else f" chip {device.chip}"
            fix = f"npu-smi info -t health -i {device.card}"
            found.append(
                Problem(
                    "unhealthy", f"card {device.card}{chip} reports health {device.health}", fix
                )
            )
    for warning in info.warnings:
        fix = "reinstall the driver, or mount /etc/ascend_install.info into the container"
        found.append(Problem("driver-warning", warning, fix))
    if nodes and info.devices and len(nodes) != len(info.devices):
        message = f"npu-smi lists {len(info.devices)} devices, /dev has {len(nodes)} davinciN"
        fix = "give the container one --device=/dev/davinciN for each device it is to use"
        found.append(Problem("count-mismatch", message, fix))
    return found


def _visible(host: Host, count: int) -> tuple[tuple[int, ...] | None, list[Problem]]:
    """Read ASCEND_RT_VISIBLE_DEVICES: a comma list of logic ids inside the container."""
    value = host.env.get(_VISIBLE)
    if value is None or not value.strip():
        return None, []
    words = [word.strip() for word in value.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,4}", word) for word in words):
        message = f"{_VISIBLE}={value} is not a comma list of numbers"
        return None, [Problem("visible-malformed", message, f"unset {_VISIBLE}")]
    ids = tuple(dict.fromkeys(int(word) for word in words))
    beyond = [number for number in ids if count and number >= count]
    if beyond:
        message = f"{_VISIBLE}={value} names device {beyond[0]}, but there are {count}"
        return tuple(i for i in ids if i < count), [
            Problem("visible-beyond", message, f"export {_VISIBLE}=0 and so on, below {count}")
        ]
    return ids, []


def _driver_version(host: Host) -> str | None:
    """Return the driver's package version from its version.info, below its install path."""
    install = _keys(host.read_text("/etc/ascend_install.info"))
    root = install.get("Driver_Install_Path_Param", "/usr/local/Ascend")
    keys = _keys(host.read_text(f"{root}/driver/version.info"))
    version = keys.get("Version", "")
    # Some drivers put the HAL's number, 7.x, where the package's belongs.
    if version.startswith("7."):
        version = keys.get("package_version", version)
    return version or None


def _keys(text: str | None) -> dict[str, str]:
    """Read lines of ``key=value``; other lines are passed over."""
    pairs = (line.split("=", 1) for line in (text or "").splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _evidence(
    host: Host, nodes: list[int], pci: list[str], tool: _Tool, named: ChipName
) -> tuple[str, ...]:
    lines = [f"/dev/davinciN: {','.join(map(str, nodes)) or 'none'}", named.why]
    if tool.done is None:
        lines.append("npu-smi: not found")
    else:
        version = tool.info.tool_version or "of unknown version"
        status = f"exit {tool.done.returncode}, {len(tool.info.devices)} devices listed"
        lines.append(f"{tool.path} {version}: {status}")
        lines.extend(f"npu-smi said: {line}" for line in tool.info.messages[:5])
    if pci:
        lines.append(f"PCI: {len(pci)} processors, {', '.join(sorted(set(pci)))}")
    if host.env.get(_VISIBLE) is not None:
        lines.append(f"{_VISIBLE}={host.env[_VISIBLE]}")
    return tuple(lines)
