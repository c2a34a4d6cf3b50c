"""Which devices of the host a process gets: the one mapping from a plan's to the host's.

A plan counts devices from 0. A variable that leaves only some visible renumbers them, so
what is claimed, watched and handed to a container is looked up in it.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ascend_v4.core.plan import LaunchPlan, Process
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host

__all__ = ["KIND", "VISIBLE", "Device", "devices_of"]

VISIBLE = {"ascend": "ASCEND_RT_VISIBLE_DEVICES", "cuda": "CUDA_VISIBLE_DEVICES"}
KIND = {"ascend": "npu", "cuda": "gpu"}

#: A number on the host, or the UUID of a GPU whose number NVML does not tell.
Device = int | str


def devices_of(plan: LaunchPlan, process: Process, host: Host) -> tuple[Device, ...]:
    """Return the host's devices that a process gets, in the order of the plan's.

    A variable of the plan's own says which, so the first of those; an inherited one
    renumbers. Raises AscendV4Error (host not ready) where fewer are visible than wanted.
    """
    variable = VISIBLE.get(plan.profile, "")
    shown = process.env.get(variable, host.env.get(variable))
    if not process.devices or shown is None or (plan.profile == "ascend" and not shown.strip()):
        return process.devices
    listed = visible(plan.profile, shown, host)
    stated = variable in process.env
    places = range(len(process.devices)) if stated else process.devices
    if max(places) >= len(listed):
        raise too_few(process, variable, shown, len(listed), stated=stated)
    return tuple(listed[place] for place in places)


def visible(profile: str, shown: str, host: Host) -> tuple[Device, ...]:
    """Return the devices that a value leaves visible; as for CUDA, the first bad word ends it."""
    words = [word.strip() for word in shown.split(",")]
    if profile == "cuda" and any(word.startswith("GPU-") for word in words):
        from ascend_v4.host.nvml import detect_gpus

        found = detect_gpus(replace(host, env={**host.env, VISIBLE["cuda"]: shown}))
        if found is not None and found.gpus and found.visible is not None:
            return found.visible
    listed: list[Device] = []
    for word in words:
        number = re.fullmatch(r"[0-9]{1,4}", word)
        uuid = profile == "cuda" and re.fullmatch(r"(GPU|MIG)-[A-Za-z0-9/-]+", word)
        device: Device = int(word) if number else word
        if not (number or uuid) or device in listed:
            break
        listed.append(device)
    return tuple(listed)


def too_few(
    process: Process, variable: str, shown: str, count: int, *, stated: bool
) -> AscendV4Error:
    """Return the error of a process that wants more devices than are visible."""
    wanted = max(process.devices) + 1 if not stated else len(process.devices)
    hint = f"--devices {count}, or " if count and not stated else ""
    where = f"env.{variable} of the topology" if stated else f"unset {variable}"
    return AscendV4Error(
        ExitCode.HOST_NOT_READY,
        "devices-hidden",
        f"{process.name} wants {wanted} devices, and {variable}={shown} leaves {count}",
        f"{hint}{where}, or name {wanted} there",
    )
