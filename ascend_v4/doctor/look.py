"""What the checks look at: the host, its devices, the launch that is asked about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ascend_v4.catalog.load import Row, catalog
from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.host.system import Host

from .run_checks import spread

if TYPE_CHECKING:
    from ascend_v4.core.compiler import Compiled
    from ascend_v4.host.npu import NpuHost
    from ascend_v4.host.nvml import GpuHost

__all__ = ["Look", "look_at"]

#: npu-smi hangs for good on a sick driver; a slow one answers in under a second.
DETECT_S = 8.0


@dataclass(frozen=True)
class Look:
    """A host and the launch asked about. ``profile`` is None where nothing points at one.

    ``peers`` are addresses of other nodes, ``npu_peers`` addresses of NPUs on them.
    ``compiled`` is None where no plan could be made; ``refusal`` then says why.
    """

    host: Host
    request: LaunchRequest
    profile: str | None
    npus: NpuHost | None
    gpus: GpuHost | None
    compiled: Compiled | None
    refusal: AscendV4Error | None = None
    peers: tuple[str, ...] = ()
    npu_peers: tuple[str, ...] = ()
    tool_s: float = 5.0

    @property
    def nodes(self) -> int:
        """The machines of the deployment."""
        return self.request.nodes or 1

    @property
    def release(self) -> Row | None:
        """The row of the engine's release, as far as there is a plan."""
        if self.compiled is None:
            return None
        plan = self.compiled.plan
        return catalog().release(plan.engine, plan.engine_version)

    @property
    def family(self) -> str:
        """The chip family asked for, else the one found, else ``""``."""
        if self.compiled is not None:
            return self.compiled.plan.chip.split(":")[0]
        return (self.npus.family if self.npus else None) or ""


def look_at(
    host: Host,
    request: LaunchRequest,
    peers: tuple[str, ...] = (),
    npu_peers: tuple[str, ...] = (),
    tool_s: float = 5.0,
) -> Look:
    """Return the host with its devices found and the plan compiled, where there is one.

    Raises AscendV4Error (usage) for options that can't be understood.
    """
    asked = asked_profile(request)
    npus, gpus = find_devices(host, asked)
    profile = asked or ("ascend" if npus else "cuda" if gpus else None)
    base = Look(host, request, profile, npus, gpus, None, None, peers, npu_peers, tool_s)
    return with_plan(base) if profile else base


def asked_profile(request: LaunchRequest) -> str | None:
    """Return the profile that the options say, None for ``auto``; raises AscendV4Error."""
    from ascend_v4.core.resolve import resolve_profile

    if request.profile not in (None, "auto"):
        return resolve_profile(request, catalog())
    if request.chip or request.engine == "vllm-ascend" or request.model == "rehearsal":
        return resolve_profile(replace(request, profile=None), catalog())
    return None


def find_devices(host: Host, profile: str | None) -> tuple[NpuHost | None, GpuHost | None]:
    """Return NPUs and GPUs, both asked for at once where the profile leaves it open."""
    from ascend_v4.host.npu import NpuHost, detect_npus
    from ascend_v4.host.nvml import GpuHost, detect_gpus

    asks = [
        (lambda: detect_npus(host, DETECT_S)) if profile in (None, "ascend") else lambda: None,
        (lambda: detect_gpus(host)) if profile in (None, "cuda") else lambda: None,
    ]
    npus, gpus = spread(asks, 2, DETECT_S + 2)
    return (
        npus if isinstance(npus, NpuHost) else None,
        gpus if isinstance(gpus, GpuHost) else None,
    )


def with_plan(look: Look) -> Look:
    """Return the look with the plan of what was asked, for the chips that were found."""
    from ascend_v4.core.compiler import compile_plan
    from ascend_v4.paths import models_dir

    request = fill_in(look)
    if look.profile != "cpu" and not request.chip:
        return replace(look, request=request)
    try:
        compiled = compile_plan(request, catalog(), str(models_dir(look.host.env)))
    except AscendV4Error as error:
        if error.code != ExitCode.REFUSED:
            raise
        return replace(look, request=request, refusal=error)
    return replace(look, request=request, compiled=compiled)


def fill_in(look: Look) -> LaunchRequest:
    """Return the request with profile, chip and devices of the host where not asked."""
    request = replace(look.request, profile=look.profile)
    found = look.npus if look.profile == "ascend" else look.gpus
    if request.chip or found is None or not found.chip:
        return request
    count = (
        look.npus.usable_count if look.npus else len(look.gpus.visible_gpus if look.gpus else ())
    )
    known = {row["id"] for row in catalog().table("chips")}
    if found.chip.split(":")[0] not in known:
        return request
    devices = request.devices or (count * (request.nodes or 1)) or None
    return replace(request, chip=found.chip, devices=devices)
