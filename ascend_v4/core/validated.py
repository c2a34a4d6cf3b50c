"""Whether a launch was published: a tutorial or CI run of this release, chip and layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ascend_v4.catalog.load import Catalog, Row

from .plan import Validated
from .resolve import Subject, by_alias

__all__ = ["topology_command", "validation_of"]


def topology_command(facts: Mapping[str, Any], model_id: str, catalog: Catalog) -> str:
    """Return the command that begins a launch over several nodes, ``""`` for one node.

    It names the first published shape for the chip, family and number of nodes; without
    one it lists the shapes there are.
    """
    if facts["nodes"] < 2:
        return ""
    chip = catalog.chip(facts["chip"])
    for shape in catalog.table("shapes"):
        row = by_alias(shape["model"], facts["profile"], chip, catalog)
        row = row or catalog.checkpoint(shape["model"])
        if (
            row is None
            or row["family"] != facts["family"]
            or chip["id"] not in (shape["chip"], *shape.get("chips", []))
            or facts["nodes"] not in shape["nodes"]
        ):
            continue
        count = f" --nodes {facts['nodes']}" if len(shape["nodes"]) > 1 else ""
        variant = facts["chip_variant"]
        count += f" --chip {variant}" if variant != shape["chip"] else ""
        model = f" --model {model_id}" if model_id != row["id"] else ""
        return f"ascend-v4 topology init --shape {shape['id']}{count}{model}"
    return "ascend-v4 topology shapes"


def validation_of(facts: Mapping[str, Any], subject: Subject, catalog: Catalog) -> Validated:
    """Return the published launch behind the facts, or why there is none."""
    if facts["nodes"] > 1 and "node_address" not in facts:
        return Validated("unvalidated", f"one command cannot start {facts['nodes']} nodes")
    near = [row for row in catalog.table("recipes") if same_subject(row, facts)]
    for row in near:
        if same_layout(row, facts):
            return Validated(row["kind"], row["source"])
    return Validated("unvalidated", reason(facts, near, catalog))


def same_subject(row: Row, facts: Mapping[str, Any]) -> bool:
    """Whether a recipe is for this engine, release, chip, checkpoint and topology."""
    return (
        row["engine"] == facts["engine"]
        and facts["version"] in row["versions"]
        and facts["chip"] in row["chip"]
        and facts["checkpoint"] in row["checkpoint"]
        and row.get("topology", "single-node") == facts["topology"]
        and row.get("role", "mixed") == facts["role"]
        and row.get("nodes", 1) == facts["nodes"]
    )


def same_layout(row: Row, facts: Mapping[str, Any]) -> bool:
    """Whether a recipe has this layout and speculation, as far as it fixes them."""
    checks = (
        ("tp", "tensor_parallel_size"),
        ("dp", "data_parallel_size"),
        ("spec", "spec"),
    )
    return all(key not in row or facts[fact] in row[key] for key, fact in checks)


def reason(facts: Mapping[str, Any], near: list[Row], catalog: Catalog) -> str:
    """Return why nothing published covers the launch, and what would be covered."""
    what = f"{facts['checkpoint']} on {facts['chip']} with {facts['engine']} {facts['version']}"
    if not near:
        versions = dict.fromkeys(
            version
            for row in catalog.table("recipes")
            if row["engine"] == facts["engine"]
            and facts["chip"] in row["chip"]
            and facts["checkpoint"] in row["checkpoint"]
            and row.get("topology", "single-node") == facts["topology"]
            and row.get("role", "mixed") == facts["role"]
            and row.get("nodes", 1) == facts["nodes"]
            for version in row["versions"]
        )
        known = f"published for {', '.join(versions)}" if versions else "published for no release"
        side = "" if facts["role"] == "mixed" else f"as a {facts['role']} side "
        where = f"{side}on {facts['nodes']} node(s)"
        return f"no recipe or CI configuration of {what} {where}; {known}"
    layouts = sorted(
        {
            f"TP{tp} x DP{dp} with {spec}"
            for row in near
            for tp in row.get("tp", ["any"])
            for dp in row.get("dp", ["any"])
            for spec in row.get("spec", ["any speculation"])
        }
    )
    asked = (
        f"TP{facts['tensor_parallel_size']} x DP{facts['data_parallel_size']} with {facts['spec']}"
    )
    return f"{asked} of {what} is not published; published: {', '.join(layouts)}"
