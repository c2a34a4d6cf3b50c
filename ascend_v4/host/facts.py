"""What ``--profile auto`` and a missing ``--chip`` are filled with: the host's own devices."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import AscendV4Error, ExitCode

from .system import Host

if TYPE_CHECKING:
    from .npu import NpuHost
    from .nvml import GpuHost

__all__ = ["fill_from_host"]

ORIGIN = "host"


def fill_from_host(request: LaunchRequest, host: Host, *, dry_run: bool = False) -> LaunchRequest:
    """Return the request with profile, chip, devices and image taken from the host.

    Only where they were not asked for. The image has the host's operating system; a dry run
    of a named target is about another machine. Raises as :func:`with_devices`.
    """
    found = with_devices(request, host, dry_run=dry_run)
    if request.image or (dry_run and found is request) or not on_openeuler(host):
        return found
    return replace(found, image="openeuler", origins=found.origins | {"image": ORIGIN})


def on_openeuler(host: Host) -> bool:
    """Whether the host says that it is openEuler; os-release(5)."""
    text = host.read_text("/etc/os-release") or ""
    return (
        re.search(r"^ID=[\"']?openeuler[\"']?\s*$", text, re.MULTILINE | re.IGNORECASE) is not None
    )


def with_devices(request: LaunchRequest, host: Host, *, dry_run: bool) -> LaunchRequest:
    """Return the request with profile, chip and devices taken from the host where not asked.

    NPUs make it ``ascend``, GPUs ``cuda``. A dry run of a named profile needs no device:
    it is about another machine. Raises AscendV4Error (host not ready) when
    there is neither, or when a device is there but can't be told or isn't supported.
    """
    profile = None if request.profile in (None, "auto") else request.profile
    if profile == "cpu" or request.chip or (profile is None and says_profile(request)):
        return request
    if profile in (None, "ascend"):
        from .npu import detect_npus

        npus = detect_npus(host)
        if npus is not None:
            return with_npus(request, npus)
    if profile in (None, "cuda"):
        from .nvml import detect_gpus

        gpus = detect_gpus(host)
        if gpus is not None:
            return with_gpus(request, gpus)
    if profile is not None and dry_run:
        return request
    raise nothing_found(profile)


def says_profile(request: LaunchRequest) -> bool:
    """Whether other options already say the profile, so that the host needs no look."""
    return request.engine == "vllm-ascend" or request.model == "rehearsal"


def nothing_found(profile: str | None) -> AscendV4Error:
    """Return the error for a host without the devices that were looked for."""
    if profile is None:
        return AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "no-accelerator",
            "this host has no Ascend NPU (/dev/davinci*, npu-smi) and no NVIDIA GPU (NVML)",
            "rehearse here with --profile cpu, or name the target: --chip a3 --dry-run",
        )
    what = "Ascend NPU (/dev/davinci*, npu-smi)" if profile == "ascend" else "NVIDIA GPU (NVML)"
    chips = "a2 or a3" if profile == "ascend" else "h200, b200, …"
    return AscendV4Error(
        ExitCode.HOST_NOT_READY,
        "no-device",
        f"--profile {profile} was asked for, but this host has no {what}",
        f"name the chip of the target with --chip ({chips})",
    )


def with_npus(request: LaunchRequest, npus: NpuHost) -> LaunchRequest:
    """Return the request for the NPUs found; raises AscendV4Error where they can't serve."""
    refuse_unready(npus)
    if not npus.chip:
        problem = npus.problems[0] if npus.problems else None
        raise AscendV4Error(
            ExitCode.REFUSED if npus.family else ExitCode.HOST_NOT_READY,
            "npu-not-supported" if npus.family else "npu-unknown",
            npus.reason or "the NPUs of this host can't be told",
            problem.fix if problem and problem.fix else "name the chip yourself with --chip",
        )
    changes = {"profile": "ascend", "chip": npus.chip}
    return filled(request, changes, npus.usable_count)


#: What npu-smi and the device nodes can say that stops any launch, and its exit code.
STOPPING = {
    "device-used": ExitCode.BUSY,
    "no-device-nodes": ExitCode.HOST_NOT_READY,
    "tool-hangs": ExitCode.HOST_NOT_READY,
}


def refuse_unready(npus: NpuHost) -> None:
    """Raise AscendV4Error (busy, host not ready) for NPUs that nothing could be started on."""
    for problem in npus.problems:
        if problem.kind in STOPPING:
            raise AscendV4Error(
                STOPPING[problem.kind], f"npu-{problem.kind}", problem.message, problem.fix
            )


def with_gpus(request: LaunchRequest, gpus: GpuHost) -> LaunchRequest:
    """Return the request for the GPUs found; raises AscendV4Error where they can't serve."""
    if not gpus.chip:
        kinds = ", ".join(sorted({str(gpu.name) for gpu in gpus.visible_gpus})) or "none visible"
        problem = gpus.problems[0] if gpus.problems else None
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "gpu-unknown",
            f"the GPUs of this host are not of one kind that can serve: {kinds}",
            problem.fix
            if problem and problem.fix
            else "choose with CUDA_VISIBLE_DEVICES or --chip",
        )
    changes = {"profile": "cuda", "chip": gpus.chip}
    return filled(request, changes, len(gpus.visible_gpus))


def filled(request: LaunchRequest, changes: dict[str, str], devices: int) -> LaunchRequest:
    """Return the request with the host's values, their origin told as ``host``."""
    count = {} if request.devices or not devices else {"devices": devices}
    origins = request.origins | dict.fromkeys([*changes, *count], ORIGIN)
    return replace(request, **changes, **count, origins=origins)  # type: ignore[arg-type]
