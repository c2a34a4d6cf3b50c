"""Which chip a name, a PCI id or a SoC string stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ascend_v4.host.npu_smi import NpuDevice

__all__ = ["PCI_FAMILIES", "UNSUPPORTED", "ChipName", "classify_devices", "name_chip"]

# Device ids: NpuType in the public package msprechecker 0.4.0, utils/ascend.py. The
# id of the 950 is not public.
PCI_FAMILIES = {
    "0xd802": "a2",
    "0xd803": "a3",
    "0xd801": "910",
    "0xd500": "310p",
    "0xd100": "310",
}
UNSUPPORTED = {
    "910": "first-generation Ascend 910 (32 GB, no digit after 910B): "
    "vllm-ascend has no DeepSeek-V4 for it",
    "310p": "Ascend 310P: vllm-ascend has no DeepSeek-V4 for it",
    "310": "Ascend 310: vllm-ascend does not run on it",
}


@dataclass(frozen=True)
class ChipName:
    """What the signs of a chip mean: our family, our chip id with variant, and why.

    ``family`` is ``a2``, ``a3``, ``a5``, ``910``, ``310p`` or ``310``, None if unknown;
    ``chip`` is None unless it is supported. ``confidence`` is ``stated`` (npu-smi named
    the chip), ``inferred`` or ``unknown``.
    """

    family: str | None
    chip: str | None
    why: str
    confidence: str = "stated"


def _unknown(why: str) -> ChipName:
    return ChipName(None, None, why, "unknown")


def name_chip(
    devices: Sequence[NpuDevice], layout: str, pci: Sequence[str], soc_version: str
) -> ChipName:
    """Tell the chip from the best sign there is: npu-smi's rows, PCI, then SOC_VERSION.

    ``pci`` holds one family a processor. The other signs are only asked where
    npu-smi listed nothing or nothing known: they never overrule a name it printed.
    """
    listed = classify_devices(devices, layout)
    if any(_name_device(device, layout).family for device in devices):
        return listed
    families = sorted(set(pci))
    if len(families) > 1:
        return _unknown(f"PCI ids of different chips: {', '.join(families)}")
    if families:
        family = families[0]
        chip = None if family in UNSUPPORTED else family
        return ChipName(family, chip, f"PCI ids of {len(pci)} {family} processors", "inferred")
    if devices:
        return listed
    if soc_version:
        return _name_soc(soc_version)
    return _unknown("neither npu-smi, PCI ids nor SOC_VERSION tell the chip")


def classify_devices(devices: Sequence[NpuDevice], layout: str) -> ChipName:
    """Tell the chip from the rows of ``npu-smi info``, whose table shape is ``layout``.

    Rows of one family but several variants give the bare family; rows of several
    families give no family. No rows give an unknown too.
    """
    named = [_name_device(device, layout) for device in devices]
    if not named:
        return _unknown("npu-smi named no chip")
    if len({name.family for name in named}) > 1:
        both = "; ".join(sorted({name.why for name in named}))
        return _unknown(f"chips of different kinds on one host: {both}")
    first = named[0]
    if len({name.chip for name in named}) == 1:
        return first
    every = ", ".join(sorted({device.name for device in devices}))
    return ChipName(first.family, first.family, f"npu-smi names the chips {every}")


def _name_device(device: NpuDevice, layout: str) -> ChipName:
    """Tell the chip of one row.

    Source: https://github.com/vllm-project/vllm-ascend/issues/4621 (names of A2) and
    /6529 (A3 prints ``Ascend910`` alone and is told by its Phy-ID column).
    """
    why = f"npu-smi names the chip {device.name}"
    name = re.sub(r"^ascend[\s_-]*", "", device.name.lower())
    if re.fullmatch(r"910b[1-9][a-z]?(-[0-9])?", name):
        return ChipName("a2", f"a2:{name}", why)
    if re.fullmatch(r"910_?93[0-9]{2}|910c", name) or (name == "910" and layout == "a3"):
        return ChipName("a3", "a3", f"{why}, in the layout of A3" if name == "910" else why)
    variant = re.fullmatch(r"950(pr|dt)?([_-]?[0-9a-z]+)?", name)
    if variant:
        return ChipName("a5", f"a5:950{variant.group(1)}" if variant.group(1) else "a5", why)
    # Only the first generation has a DDR total beside a 32 GB HBM.
    first_generation = device.hbm_total_mb == 32768 and bool(device.memory_total_mb)
    if re.fullmatch(r"910(a|b|pro[ab]|premium[ab]?)", name) or (name == "910" and first_generation):
        return ChipName("910", None, f"{why}, the first generation")
    for family in ("310p", "310"):
        if name.startswith(family):
            return ChipName(family, None, why)
    return _unknown(f"{why}, which is not known")


def _name_soc(soc_version: str) -> ChipName:
    """Tell the chip an image was built for; here ``910b`` does mean A2.

    Source: https://github.com/vllm-project/vllm-ascend/blob/v0.30.0rc2/vllm_ascend/device/hardware.py
    lines 26 to 50.
    """
    why = f"SOC_VERSION={soc_version}, the chip that the engine here was built for"
    name = soc_version.lower().removeprefix("ascend")
    variant = re.match(r"950(dt|pr)", name)
    if variant:
        return ChipName("a5", f"a5:{variant.group()}", why, "inferred")
    for start, family in (("910_93", "a3"), ("910c", "a3"), ("910b", "a2"), ("950", "a5")):
        if name.startswith(start):
            return ChipName(family, family, why, "inferred")
    if name.startswith("310p"):
        return ChipName("310p", None, why, "inferred")
    return _unknown(f"{why}, is not known")
