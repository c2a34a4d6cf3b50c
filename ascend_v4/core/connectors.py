"""KV connectors of a launch: the pool that it is part of, and what its engine doesn't have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ascend_v4.catalog.load import Catalog, Row

from .conditions import in_range, look_up

__all__ = ["connector_facts", "foreign", "pool_of"]


def configs_of(flags: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the configuration of each connector: one, or the several of a ``MultiConnector``."""
    config = flags.get("kv-transfer-config")
    several = look_up({"config": config}, "config.kv_connector_extra_config.connectors")
    for each in [config, *(several if isinstance(several, list) else [])]:
        if isinstance(each, dict):
            yield each


def pool_of(flags: Mapping[str, Any]) -> str | None:
    """Return the back-end of the KV pool that a launch is part of, None where it is of none.

    Mooncake is the connector's own default (kv_pool.md of vllm-ascend v0.23.0).
    """
    for each in configs_of(flags):
        if each.get("kv_connector") == "AscendStoreConnector":
            return str(look_up(each, "kv_connector_extra_config.backend") or "mooncake").lower()
    return None


def connector_facts(
    flags: Mapping[str, Any], facts: Mapping[str, Any], catalog: Catalog
) -> dict[str, Any]:
    """Return the first connector of a launch that its engine doesn't have, and who has it."""
    for each in configs_of(flags):
        # A class of the user's own module is loaded whatever its name is.
        if not each.get("kv_connector_module_path"):
            found = foreign(each.get("kv_connector"), facts, catalog)
            if found["foreign_connector"]:
                return found
    return foreign(None, facts, catalog)


def foreign(name: Any, facts: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
    """Return a connector as ``foreign_connector``, empty where the engine of the facts has it.

    ``connector_home`` is where it is to be had. Names that the catalog doesn't have pass:
    a plugin may register its own.
    """
    rows = [row for row in catalog.table("connectors") if row["id"] == name]
    if not rows or any(has(row, facts, catalog) for row in rows):
        return {"foreign_connector": "", "connector_home": ""}
    homes = " and ".join(home_of(row) for row in rows)
    return {"foreign_connector": str(name), "connector_home": homes}


def has(row: Row, facts: Mapping[str, Any], catalog: Catalog) -> bool:
    """Whether the engine and release of the facts have a connector."""
    return row["engine"] == facts["engine"] and in_range(row, facts, catalog)


def home_of(row: Row) -> str:
    """Return the engine that has a connector, with its releases where they are bounded."""
    since, until = row.get("since"), row.get("until")
    if since and until:
        return f"{row['engine']} {since} to {until}"
    return f"{row['engine']} {since} and later" if since else str(row["engine"])
