"""Why a launch has its layout, where another one ranks before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ascend_v4.catalog.load import catalog

if TYPE_CHECKING:
    from ascend_v4.core.compiler import Compiled

__all__ = ["layout_choice", "layout_words"]

SIZES = ("tensor_parallel_size", "data_parallel_size")
ASKED = {
    "flag": "an option asks for it",
    "variable": "an ASCEND_V4_ variable asks for it",
    "file": "the configuration file asks for it",
}


def layout_words(row: Mapping[str, Any]) -> str:
    """Return a layout as people write it: ``TP4 x DP2``."""
    return f"TP{row['tensor_parallel_size']} x DP{row['data_parallel_size']}"


def layout_choice(compiled: Compiled, layouts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return which of the ranked ``layouts`` the launch has, and why if not the first.

    ``rank`` counts from 1 and is None for a layout that no ranking holds, ``why`` is empty
    where the launch has the first or where none fits.
    """
    facts = compiled.facts
    served = {name: facts.get(name) for name in SIZES}
    places = [n for n, row in enumerate(layouts, 1) if all(row[k] == served[k] for k in SIZES)]
    rank = places[0] if places else None
    said: dict[str, Any] = {"served": layout_words(served), "rank": rank, "of": len(layouts)}
    if rank == 1 or not layouts or layouts[0]["verdict"] == "does not fit":
        return {**said, "why": "", "for_the_first": ""}
    why, source = reason(compiled)
    first = layouts[0]
    if rank is None:
        why += f"; it isn't ranked, as the model can't be split over TP{served[SIZES[0]]}"
    if not published(compiled, first):
        why += f"; no launch with {layout_words(first)} is published for this chip and release"
    words = [f"--{name.replace('_', '-')} {first[name]}" for name in SIZES]
    return {**said, "why": why, "source": source, "for_the_first": " ".join(words)}


def reason(compiled: Compiled) -> tuple[str, str]:
    """Return who chose the layout of a launch, and the source of that."""
    origins = [compiled.plan.origins.get(name, "") for name in SIZES]
    for origin in origins:
        if origin in ASKED:
            return ASKED[origin], ""
    for origin in origins:
        ident = origin.partition(":")[2]
        row = next((row for row in catalog().table("choices") if row["id"] == ident), None)
        if row is not None:
            return f"choice {ident}: {row['reason']}", str(row["source"])
    return "it uses the devices that are there", ""


def published(compiled: Compiled, layout: Mapping[str, Any]) -> bool:
    """Whether a tutorial or CI run of the release has this layout on such nodes."""
    from ascend_v4.core.validated import same_layout, same_subject

    facts = {**compiled.facts, **{name: layout[name] for name in SIZES}}
    return any(
        same_subject(row, facts) and same_layout(row, facts) for row in catalog().table("recipes")
    )
