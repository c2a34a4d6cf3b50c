"""Which release serves what on which chip, and why a pair does not work."""

from __future__ import annotations

from typing import Any

from ascend_v4.catalog.load import Catalog, Row
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.finding import Finding
from ascend_v4.core.request import LaunchRequest
from ascend_v4.core.resolve import Subject, resolve
from ascend_v4.errors import AscendV4Error, ExitCode

__all__ = ["check_release", "engine_for", "list_releases"]


def engine_for(engine: str | None, chip: str | None, catalog: Catalog) -> str:
    """Return the engine that the options mean; vllm-ascend where they say nothing."""
    if engine:
        return engine
    if chip:
        return "vllm-ascend" if catalog.chip(chip)["profile"] == "ascend" else "vllm"
    return "vllm-ascend"


def list_releases(engine: str, chip: str | None, model: str | None, catalog: Catalog) -> list[Row]:
    """Return the releases of an engine that serve a model on a chip, oldest first.

    Each row holds the stack versions, ``chips``, ``checkpoints``, ``images`` and
    ``known_bad``. Raises AscendV4Error (usage) for an unknown chip or model.
    """
    subject = subject_of(engine, chip, model, None, catalog) if chip or model else None
    kept = []
    for release in catalog.table("releases"):
        if release["engine"] == engine and (
            subject is None or serves(release, subject, chip, model)
        ):
            kept.append(summary(release))
    return kept


def subject_of(
    engine: str, chip: str | None, model: str | None, version: str | None, catalog: Catalog
) -> Subject:
    """Return what an engine, chip and model mean together; see ``resolve`` for errors."""
    profile = None if chip else "ascend" if engine == "vllm-ascend" else "cuda"
    request = LaunchRequest(
        profile=profile, engine=engine, chip=chip, model=model, engine_version=version
    )
    return resolve(request, catalog)


def serves(release: Row, subject: Subject, chip: str | None, model: str | None) -> bool:
    """Whether a release claims a chip and a model, as far as they were named."""
    ident, profile = str(subject.chip["id"]), str(subject.chip["profile"])
    chips = release.get("chips")
    if chip and chips is not None and ident not in chips:
        return False
    if chip and chips is None and "unsupported" in subject.chip:
        return False
    if not model:
        return True
    where = release.get("checkpoints", {}).get(subject.checkpoint["id"], "").split()
    return bool({ident, profile} & set(where)) if chip else bool(where)


def summary(release: Row) -> Row:
    """Return the parts of a release row that a reader chooses by."""
    keys = ("version", "vllm", "python", "torch", "torch_npu", "cann", "hdk", "triton_ascend")
    stack: dict[str, Any] = {key: release.get(key) for key in keys}
    return stack | {
        "default": bool(release.get("default")),
        "chips": release.get("chips", {}),
        "checkpoints": release.get("checkpoints", {}),
        "images": release.get("images", {}),
        "known_bad": release.get("known_bad", []),
        "notes": release.get("notes", []),
        "source": release["source"],
    }


def check_release(
    version: str, engine: str, chip: str | None, model: str | None, catalog: Catalog
) -> tuple[Row, list[Finding]]:
    """Return a release's summary and the lesser notes on a plan for chip and model.

    Raises AscendV4Error: usage for unknown words; refused (3) with the reason where the
    release doesn't serve the pair, or is known to run it wrong.
    """
    release = catalog.release(engine, version)
    if not chip:
        return summary(release), check_chips(release, engine, model, catalog)
    subject = subject_of(engine, chip, model, version, catalog)
    if chip and not serves(release, subject, chip, None):
        refuse_chip(release, subject, catalog)
    nodes = subject.checkpoint.get("nodes", {}).get(subject.chip["id"], 1)
    request = LaunchRequest(
        chip=subject.variant,
        model=str(subject.checkpoint["id"]),
        engine_version=version,
        nodes=nodes,
        allow_unvalidated=True,
    )
    notes = compile_plan(request, catalog).plan.notes
    bad = [note for note in notes if note.severity in ("error", "silent", "risk")]
    if bad:
        also = "".join(f"\n  also {note.id}: {note.message}" for note in bad[1:])
        fix = bad[0].fix or better_release(engine, subject, catalog)
        raise AscendV4Error(
            ExitCode.REFUSED,
            bad[0].id,
            f"{engine} {release['version']}, {subject.checkpoint['id']} on {subject.variant}: "
            f"{bad[0].message} [{bad[0].id}, {bad[0].source}]{also}",
            fix,
        )
    return summary(release), list(notes)


def check_chips(release: Row, engine: str, model: str | None, catalog: Catalog) -> list[Finding]:
    """Return a warning for each chip on which a release is not fit to use.

    Raises AscendV4Error (refused, 3) where it is fit on none.
    """
    refusals: dict[str, AscendV4Error] = {}
    chips = list(release.get("chips") or ())
    for chip in chips:
        try:
            check_release(str(release["version"]), engine, chip, model, catalog)
        except AscendV4Error as error:
            refusals[chip] = error
    if chips and len(refusals) == len(chips):
        raise next(iter(refusals.values()))
    source = str(release["source"])
    return [
        Finding(error.kind, "warn", f"not on {chip}: {error.message}", error.next, source)
        for chip, error in refusals.items()
    ]


def refuse_chip(release: Row, subject: Subject, catalog: Catalog) -> None:
    """Raise AscendV4Error (refused, 3): the release has nothing for the chip."""
    reason = subject.chip.get("unsupported") or (
        f"the release supports {', '.join(release.get('chips', {})) or 'other chips'} only"
    )
    raise AscendV4Error(
        ExitCode.REFUSED,
        "chip-not-served",
        f"{release['engine']} {release['version']} does not serve {subject.chip['title']}: "
        f"{reason} "
        f"[{release['source']}]",
        better_release(str(release["engine"]), subject, catalog),
    )


def better_release(engine: str, subject: Subject, catalog: Catalog) -> str:
    """Return the command that lists what does serve the pair."""
    model = str(subject.checkpoint["id"])
    return f"ascend-v4 releases --engine {engine} --chip {subject.chip['id']} --model {model}"
