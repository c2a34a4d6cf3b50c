"""Which repository a model name means, and on which hub it is published."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from ascend_v4.catalog.load import Row, catalog, nearest
from ascend_v4.errors import AscendV4Error, ExitCode

__all__ = [
    "DEFAULT_ENDPOINT",
    "ENDPOINTS",
    "MOVING",
    "REHEARSAL",
    "Source",
    "address_of",
    "resolve_model",
]

#: What the ModelScope client itself takes when nothing is set
#: (modelscope-hub 0.5.1, modelscope_hub/config.py:128-149).
DEFAULT_ENDPOINT = "https://modelscope.cn"
#: Hub -> where it is, and its moving revision
#: (huggingface_hub 2.4.0, huggingface_hub/constants.py: ENDPOINT, DEFAULT_REVISION).
ENDPOINTS = {"modelscope": DEFAULT_ENDPOINT, "huggingface": "https://huggingface.co"}
MOVING = {"modelscope": "master", "huggingface": "main"}
REHEARSAL = "rehearsal"
_HOST = re.compile(r"[\w.-]+|[0-9a-fA-F:.]+")


class Source(NamedTuple):
    """Where a model's files come from; ``hub`` is ``local`` for the rehearsal.

    ``revision`` is the commit that the catalog pins, None where it pins none.
    """

    hub: str
    repo: str
    revision: str | None = None


def resolve_model(profile: str | None, model: str | None, hub: str = "modelscope") -> Source:
    """Return where a catalog id, an alias (``flash``) or a hub id comes from.

    ``hub`` is ``modelscope`` or ``huggingface``; ``profile`` picks the default model and
    what an alias means; None and ``auto`` mean that none was given, for only ``serve``
    and ``doctor`` look at the host.
    Raises AscendV4Error: usage for an unknown name or when ``--profile`` is
    needed to know, refused for a model that the hub doesn't have.
    """
    profile = None if profile in (None, "auto") else profile
    if model is None:
        if profile is None:
            raise _ask_profile("no model and no profile is given")
        model = "flash"
    if profile == "cpu" and model == "flash":
        return Source("local", REHEARSAL)
    if "/" in model:
        return _hub_id(model, hub)
    row = catalog().checkpoint(model) or _alias(profile, model)
    return _published(row, hub)


def address_of(endpoint: str) -> str:
    """Return a hub's address with its scheme, https where it names none.

    Raises AscendV4Error (usage) for what is no address: ``ftp://…``, or a bare word, for
    a host without a dot needs its scheme or port said.
    """
    url = endpoint.strip() if "//" in endpoint else f"https://{endpoint.strip()}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    told = "//" in endpoint or port is not None or "." in host or host == "localhost"
    if told and parts.scheme in ("http", "https") and _HOST.fullmatch(host):
        return url.rstrip("/")
    raise AscendV4Error(
        ExitCode.USAGE,
        "bad-endpoint",
        f"the hub's endpoint '{endpoint.rpartition('@')[2]}' is not an address "
        f"such as {DEFAULT_ENDPOINT}",
        "correct --endpoint, or the variable MODELSCOPE_ENDPOINT or HF_ENDPOINT",
    )


def _ask_profile(why: str) -> AscendV4Error:
    """Return the usage error that asks for a profile."""
    return AscendV4Error(
        ExitCode.USAGE,
        "profile-needed",
        f"{why}, so it isn't known which weights to download",
        "ascend-v4 download --profile ascend (or cuda, cpu)",
    )


def _hub_id(model: str, hub: str) -> Source:
    """Return the source of ``org/name``; a directory is refused."""
    parts = model.split("/")
    if len(parts) != 2 or not all(parts) or parts[0] in (".", "..", "~") or parts[1] in (".", ".."):
        raise AscendV4Error(
            ExitCode.USAGE,
            "not-a-hub-id",
            f"'{model}' is not a hub id of the form org/name",
            "ascend-v4 download --model ORG/NAME --dir DIRECTORY",
        )
    row = catalog().checkpoint(model)
    return _published(row, hub) if row else Source(hub, model)


def _alias(profile: str | None, model: str) -> Row:
    """Return the checkpoint row that an alias means on this profile."""
    rows = [row for row in catalog().table("checkpoints") if model in (row.get("aliases") or {})]
    if rows and profile is None:
        raise _ask_profile(f"'{model}' is another checkpoint on each profile")
    for row in rows:
        if profile in row["aliases"][model].split():
            return row
    table = catalog().table("checkpoints")
    ids = [row["id"] for row in table]
    known = ids + sorted({name for row in table for name in (row.get("aliases") or {})})
    where = f" for profile {profile}" if rows else ""
    raise AscendV4Error(
        ExitCode.USAGE,
        "unknown-model",
        f"'{model}' is not a model this catalog knows{where}; it knows {', '.join(ids)}. "
        f"{nearest(model, known)}".rstrip(),
        "ascend-v4 download --model ID, or a hub id ORG/NAME",
    )


def _published(row: Row, hub: str) -> Source:
    """Return a checkpoint row's place on a hub, or the local rehearsal."""
    if row["id"] == REHEARSAL:
        return Source("local", REHEARSAL)
    hubs = row.get("hubs") or []
    for place in hubs:
        if place["hub"] == hub:
            return Source(hub, place["repo"], place.get("revision"))
    name = {"modelscope": "ModelScope", "huggingface": "Hugging Face"}
    others = [place["hub"] for place in hubs]
    raise AscendV4Error(
        ExitCode.REFUSED,
        f"not-on-{hub}",
        f"{row['id']} is not published on {name[hub]}"
        + (f", it is on {name[others[0]]}" if others else ""),
        f"ascend-v4 download --model {row['id']} --source {others[0]}" if others else "",
    )
