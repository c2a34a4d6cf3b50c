"""The server process of a plan: its argument list, its environment, its ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ascend_v4.catalog.load import Catalog, Row

from .conditions import in_range, look_up
from .launch import Launch, to_argv
from .placement import Placement
from .plan import Port, Process, Ready
from .request import LaunchRequest

__all__ = ["DRAIN_S", "build_process"]

#: Seconds until ready that a cold start may take, by model family.
DEADLINE_S = {"flash": 1800, "pro": 3600, "rehearsal": 600}
#: Seconds that running requests get to finish when the server is asked to stop.
DRAIN_S = 60


def owned_variables(facts: Mapping[str, Any], catalog: Catalog) -> list[str]:
    """Return the variables that a plan alone may set, so that stale exports can't spoil it.

    Only those that this release reads on this chip: an inert leftover spoils nothing.
    """
    engines = ("any", facts["engine"])
    return [
        row["name"]
        for row in catalog.table("variables")
        if row["kind"] == "env"
        and row.get("owned")
        and row["engine"] in engines
        and any(has_effect(effect, facts, catalog) for effect in row["effects"])
    ]


def has_effect(effect: Row, facts: Mapping[str, Any], catalog: Catalog) -> bool:
    """Whether an effect row says that this release does something with the variable here."""
    here = "chips" not in effect or facts["chip"] in effect["chips"]
    reads = effect["effect"] in ("read", "deprecated", "refused")
    return here and reads and in_range(effect, facts, catalog)


def build_process(
    launch: Launch,
    facts: Mapping[str, Any],
    request: LaunchRequest,
    catalog: Catalog,
    placement: Placement | None = None,
    unset: tuple[str, ...] | None = None,
) -> Process:
    """Return the server process of a launch, on its node if it has a placement.

    ``unset`` saves looking for the variables to unset, where they are those of another
    process of the same launch.
    """
    secret = {"VLLM_API_KEY": request.api_key_file} if request.api_key_file else {}
    port = int(facts["port"])
    address = facts["host"] if facts["host"] not in ("0.0.0.0", "::") else "127.0.0.1"
    bracketed = f"[{address}]" if ":" in str(address) else address
    env = {name: str(value) for name, value in launch.env.items()}
    headless = placement is not None and placement.headless
    url = f"http://{bracketed}:{port}"
    if unset is None:
        owned = owned_variables(facts, catalog)
        unset = tuple(sorted(set(owned) - set(env) - set(secret)))
    return Process(
        name=placement.name if placement else "server",
        role="headless" if headless else placement.role if placement else "mixed",
        argv=("vllm", "serve", launch.model, *to_argv(launch.flags)),
        env=env,
        unset=unset,
        secret_env=secret,
        node=placement.node if placement else "localhost",
        devices=devices_of(facts, placement),
        ports=(
            *(() if headless else (Port(port, "OpenAI-compatible API"),)),
            *(stated(placement, launch).side_ports() if placement else ()),
        ),
        ready=None if headless else Ready(url, request.ready_check),  # type: ignore[arg-type]
        deadline_s=DEADLINE_S[str(facts["family"])],
        drain_s=facts["drain_s"] if isinstance(facts["drain_s"], int) else DRAIN_S,
    )


def stated(placement: Placement, launch: Launch) -> Placement:
    """Return the placement with the KV port that the launch states: EXTRA may change it.

    Of several connectors the one that has a port listens there, not the one around them.
    """
    config = launch.flags.get("kv-transfer-config")
    several = look_up({"config": config}, "config.kv_connector_extra_config.connectors")
    each = [*(several if isinstance(several, list) else []), config]
    ports = [str(one.get("kv_port")) for one in each if isinstance(one, dict)]
    port = next((number for number in ports if number.isdigit()), "")
    return replace(placement, kv_port=int(port)) if port else placement


def devices_of(facts: Mapping[str, Any], placement: Placement | None) -> tuple[int, ...]:
    """Return the logical devices of the process, by id; none on a CPU."""
    if facts["profile"] == "cpu":
        return ()
    return placement.node_devices if placement else tuple(range(int(facts["devices"])))
