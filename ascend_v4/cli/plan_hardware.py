"""What ``plan`` is told about the hardware: ``2xa3``, ``4xh200``, ``host``."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .planning import host_of

if TYPE_CHECKING:
    from ascend_v4.core.request import LaunchRequest

__all__ = ["MEMORY", "count_and_chip", "described", "here"]

DESCRIBE = "describe the hardware: ascend-v4 plan --hardware 1xa3 (a node), 4xh200 (devices)"
#: Errors of a missing description, whose next step elsewhere is another command's option.
UNDESCRIBED = ("no-accelerator", "no-device", "no-profile")
#: Devices beyond which nothing is planned; a plan lists each of them.
MOST = 4096


def finite(_ctx: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Return a number of GiB; raises BadParameter for nan, inf or more than any device has."""
    if value is not None and not (math.isfinite(value) and 0 <= value <= 1 << 20):
        raise click.BadParameter(f"{value} is no number of GiB", param=parameter)
    return value


MEMORY = click.option(
    "--available-kv-gib",
    type=float,
    callback=finite,
    help="KV memory of a device, for the KV part alone.",
)


def here(error: AscendV4Error) -> AscendV4Error:
    """Return an error with what to type for ``plan``, which can be told the hardware."""
    if error.kind not in UNDESCRIBED:
        return error
    return AscendV4Error(error.code, error.kind, error.message, DESCRIBE)


def count_and_chip(hardware: str) -> tuple[int, str]:
    """Return the count and the chip of ``COUNTxCHIP``.

    Raises AscendV4Error (usage) for another form or more than is ever planned.
    """
    count, _, chip = hardware.lower().partition("x")
    if not (count.isascii() and count.isdigit() and int(count) and chip):
        raise AscendV4Error(
            ExitCode.USAGE,
            "bad-hardware",
            f"'{hardware}' is not COUNTxCHIP; 2xa3 is two nodes, 4xh200 four devices, "
            "host is this machine",
            "ascend-v4 plan --hardware 4xh200",
        )
    return int(count), chip


def described(ctx: click.Context, request: LaunchRequest, hardware: str | None) -> LaunchRequest:
    """Return the request with ``--hardware`` in it: ``2xa3`` nodes, ``4xh200`` devices.

    Raises AscendV4Error (usage) for another form, an unknown chip, more than is ever
    planned, or where another option says something else.
    """
    if hardware == "host":
        from ascend_v4.host.facts import fill_from_host

        try:
            return fill_from_host(request, host_of(ctx))
        except AscendV4Error as error:
            raise here(error) from error
    if hardware is None:
        alone = request.engine == "vllm" and not request.profile and not request.chip
        refuse_many(request.devices or request.nodes or 1)
        return replace(request, profile="cuda") if alone else request
    from ascend_v4.catalog.load import catalog

    number, chip = count_and_chip(hardware)
    row = catalog().chip(chip)
    per_node, ascend = int(row["devices_per_node"]), row["profile"] == "ascend"
    wanted: dict[str, Any] = {
        "chip": chip,
        "nodes": number if ascend else -(-number // per_node),
        "devices": number * per_node if ascend else number,
    }
    refuse_many(wanted["devices"])
    refuse_others(request, hardware, wanted, ascend)
    if ascend:
        # As the compiler counts it, so that published layouts are recognised.
        wanted["devices"] = request.devices or wanted["devices"]
    return replace(request, **wanted)


def refuse_many(devices: int) -> None:
    """Raise AscendV4Error (usage) for more devices than is ever planned."""
    if devices > MOST:
        raise AscendV4Error(
            ExitCode.USAGE,
            "bad-hardware",
            f"{devices:,} devices are more than the {MOST:,} that plan takes",
            "plan one deployment, and ascend-v4 plan scale for how many of them",
        )


def refuse_others(
    request: LaunchRequest, hardware: str, wanted: dict[str, Any], ascend: bool
) -> None:
    """Raise AscendV4Error (usage) where another option says something else.

    On Ascend ``--devices`` may take fewer than the nodes have.
    """
    for name, value in wanted.items():
        asked = getattr(request, name)
        fewer = ascend and name == "devices" and asked is not None and asked <= value
        if asked is None or asked == value or fewer:
            continue
        raise AscendV4Error(
            ExitCode.USAGE,
            "contradiction",
            f"--hardware {hardware} means --{name} {value}, and --{name} {asked} was given too",
            f"leave --{name} out",
        )
