"""From what was asked to what it is about: profile, chip, release, checkpoint.

Every refusal here is about words: something unknown, or something that can't go
together. Nothing looks at the host; ``serve`` fills profile and chip in beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

from ascend_v4.catalog.load import Catalog, Row, nearest
from ascend_v4.errors import AscendV4Error, ExitCode

from .finding import Finding
from .request import LaunchRequest

__all__ = ["PROFILES", "Subject", "by_alias", "refuse_devices", "resolve"]

PROFILES = ("ascend", "cuda", "cpu")
ENGINE_OF = {"ascend": "vllm-ascend", "cuda": "vllm", "cpu": "vllm"}
ASSUMED_CHIP = {"ascend": "a3", "cuda": "h200", "cpu": "cpu"}


@dataclass(frozen=True)
class Subject:
    """What a plan is about. ``variant`` is the chip as asked for, ``a2:910b4`` included."""

    profile: str
    engine: str
    release: Row
    chip: Row
    variant: str
    checkpoint: Row
    model_id: str
    notes: tuple[Finding, ...] = ()


def resolve_profile(request: LaunchRequest, catalog: Catalog) -> str:
    """Return the profile that the options say.

    Raises AscendV4Error (usage) for an unknown one, or when the options say nothing.
    """
    if request.profile and request.profile != "auto":
        if request.profile not in PROFILES:
            raise AscendV4Error(
                ExitCode.USAGE,
                "unknown-profile",
                f"'{request.profile}' is not a profile; the profiles are {', '.join(PROFILES)}. "
                f"{nearest(request.profile, list(PROFILES))}".rstrip(),
                "ascend-v4 profiles",
            )
        return request.profile
    if request.chip:
        return str(catalog.chip(request.chip)["profile"])
    if request.engine == "vllm-ascend":
        return "ascend"
    if request.model == "rehearsal":
        return "cpu"
    raise AscendV4Error(
        ExitCode.USAGE,
        "no-profile",
        "the options name no profile and no chip, and only `serve` and `doctor` look at the host",
        "add --profile ascend, --profile cuda or --profile cpu",
    )


def resolve_chip(
    request: LaunchRequest, profile: str, catalog: Catalog
) -> tuple[Row, str, list[Finding]]:
    """Return the chip row, the variant asked for and a note where the chip was assumed.

    Raises AscendV4Error (usage) for a chip of another profile.
    """
    if not request.chip:
        assumed = ASSUMED_CHIP[profile]
        row = catalog.chip(assumed)
        if profile == "cpu":
            return row, assumed, []
        note = Finding(
            "chip-assumed",
            "warn",
            f"no chip was named, so this plan is for {row['title']}",
            f"name yours with --chip ({', '.join(chips_of(profile, catalog))})",
            "https://github.com/vllm-project/vllm-ascend/tree/v0.23.0/docs/source/tutorials/models",
        )
        return row, assumed, [note]
    row = catalog.chip(request.chip)
    if "unsupported" in row and profile == "ascend":
        raise AscendV4Error(
            ExitCode.REFUSED,
            "chip-unsupported",
            f"{row['title']}: {row['unsupported']} ({row['source']})",
            f"chips that work: {', '.join(chips_of(profile, catalog))}",
        )
    if row["profile"] != profile:
        raise AscendV4Error(
            ExitCode.USAGE,
            "chip-of-another-profile",
            f"chip {row['id']} belongs to profile {row['profile']}, not to {profile}",
            f"--profile {row['profile']} --chip {row['id']}",
        )
    variant = request.chip.lower()
    return row, variant if ":" in variant else str(row["id"]), []


def chips_of(profile: str, catalog: Catalog) -> list[str]:
    """Return the ids of a profile's chips that a plan can be made for."""
    rows = catalog.table("chips")
    return [r["id"] for r in rows if r["profile"] == profile and "unsupported" not in r]


def resolve_engine(request: LaunchRequest, profile: str) -> str:
    """Return the engine of the profile. Raises AscendV4Error (usage) where --engine disagrees."""
    engine = ENGINE_OF[profile]
    if request.engine not in (None, engine):
        raise AscendV4Error(
            ExitCode.USAGE,
            "engine-of-another-profile",
            f"profile {profile} runs on {engine}, not on {request.engine}",
            f"--engine {engine}",
        )
    return engine


def resolve_checkpoint(
    request: LaunchRequest, profile: str, chip: Row, catalog: Catalog
) -> tuple[Row, str, list[Finding]]:
    """Return the checkpoint row, the model id and a note where the checkpoint is a guess.

    Raises AscendV4Error (usage) for a model id that the catalog doesn't know.
    """
    asked = request.model or "flash"
    row = catalog.checkpoint(asked) or by_alias(asked, profile, chip, catalog)
    if row:
        return row, str(row["id"]), []
    known = [r["id"] for r in catalog.table("checkpoints")] + ["flash", "pro"]
    if "/" not in asked:
        raise AscendV4Error(
            ExitCode.USAGE,
            "unknown-model",
            f"'{asked}' is neither a model id ({', '.join(known)}) nor a hub id (org/name). "
            f"{nearest(asked, known)}".rstrip(),
            "ascend-v4 profiles --models",
        )
    refuse_path(asked)
    guess = by_alias("flash", profile, chip, catalog)
    assert guess is not None
    note = Finding(
        "checkpoint-assumed",
        "warn",
        f"the catalog doesn't know {asked}; the plan treats it as {guess['id']}",
        "name the catalog's id with --model and the directory with --model-dir",
        str(guess["source"]),
        "inferred",
    )
    return guess, asked, [note]


def refuse_path(asked: str) -> None:
    """Raise AscendV4Error (usage) where ``--model`` holds a path instead of ``org/name``."""
    parts = asked.split("/")
    if len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~"):
        return
    raise AscendV4Error(
        ExitCode.USAGE,
        "not-a-hub-id",
        f"--model takes a model id or a hub id (org/name), and '{asked}' is neither",
        f"--model-dir {asked} for a directory of weights; ascend-v4 profiles --models lists ids",
    )


def refuse_devices(request: LaunchRequest, chip: Row) -> None:
    """Raise AscendV4Error (usage) for more devices than the nodes asked for have.

    What the host itself counted stands, and a CPU has no count of devices.
    """
    per_node, nodes = int(chip["devices_per_node"]), request.nodes or 1
    counted = request.origins.get("devices") == "host"
    devices = request.devices or 0
    if counted or chip["profile"] == "cpu" or devices <= per_node * nodes:
        return
    many = f"{nodes} nodes of {chip['id']} have" if nodes > 1 else f"a node of {chip['id']} has"
    raise AscendV4Error(
        ExitCode.USAGE,
        "too-many-devices",
        f"--devices {devices}: {many} {per_node * nodes}",
        f"--devices {per_node * nodes} or fewer, or --nodes {-(-devices // per_node)}, "
        "which a topology file describes: ascend-v4 topology shapes",
    )


def by_alias(alias: str, profile: str, chip: Row, catalog: Catalog) -> Row | None:
    """Return the checkpoint that an alias means on a profile; a chip's own meaning goes first."""
    matches = {
        where: row
        for row in catalog.table("checkpoints")
        for where in row.get("aliases", {}).get(alias.lower(), "").split()
    }
    return matches.get(chip["id"]) or matches.get(profile)


def resolve(request: LaunchRequest, catalog: Catalog) -> Subject:
    """Return what a request is about.

    Raises AscendV4Error (usage) for unknown or contradictory words.
    """
    profile = resolve_profile(request, catalog)
    chip, variant, notes = resolve_chip(request, profile, catalog)
    engine = resolve_engine(request, profile)
    release = (
        catalog.release(engine, request.engine_version)
        if request.engine_version
        else catalog.default_release(engine)
    )
    checkpoint, model_id, more = resolve_checkpoint(request, profile, chip, catalog)
    return Subject(profile, engine, release, chip, variant, checkpoint, model_id, (*notes, *more))
