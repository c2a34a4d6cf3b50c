"""``docs/releases.md``: which release serves what, and which launches are validated.

``python -m ascend_v4.render.matrix`` writes it from the catalog; a test fails when it is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ascend_v4.catalog.load import Catalog, Row, catalog

__all__ = ["main", "release_page"]

HEAD = """# Releases and validated launches

Generated from the catalog by `python -m ascend_v4.render.matrix`. `ascend-v4 releases` prints the
same, `ascend-v4 releases --check VERSION --chip C --model M` refuses a known-bad pair.

"""
VERIFIED = """
**engine-verified** says how far the plans of a release were taken through that release's own
argument parser and start-up checks by `pytest -m contract` ([how](engine-contract.md)): `start-up`
is `create_engine_config()` and the predicates that workers ask first; `parser` is the argument
parser alone. Nothing here was served on an NPU.
"""
PUBLISHED = """Published as a tutorial (`recipe`) or a CI configuration (`ci`) of that very
release; for one node, unless the layout says for how many. `prefill` and `decode` are the two
sides of a pair, each validated by itself, with any number of replicas. Anything else is
*unvalidated*: refused, unless `--allow-unvalidated` is given.

"""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def release_rows(engine: str, known: Catalog) -> list[list[str]]:
    """Return the stack of each release of an engine."""
    return [
        [
            row["version"] + (" (default)" if row.get("default") else ""),
            row["vllm"],
            row.get("torch_npu", "-"),
            row.get("cann", "-"),
            " ".join(row.get("checkpoints", {})),
            row.get("engine_verified", "no"),
            "; ".join(f"[{bad['what']}]({bad['source']})" for bad in row.get("known_bad", []))
            or "-",
        ]
        for row in known.table("releases")
        if row["engine"] == engine
    ]


def launch_rows(known: Catalog) -> list[list[str]]:
    """Return every published launch that counts as validated."""
    return [
        [
            f"{row['engine']} {', '.join(row['versions'])}",
            " ".join(row["chip"]),
            " ".join(row["checkpoint"]),
            layout(row),
            " ".join(row.get("spec", ["any"])),
            row["kind"],
            source(row["source"]),
        ]
        for row in known.table("recipes")
    ]


def layout(row: Row) -> str:
    """Return the layouts of a published launch, its side of a pair and its nodes."""
    tps, dps = row.get("tp", ["any"]), row.get("dp", ["any"])
    sizes = ", ".join(f"TP{tp} x DP{dp}" for tp in tps for dp in dps)
    role, nodes = row.get("role", "mixed"), row.get("nodes", 1)
    side = f"{role} " if role != "mixed" else ""
    return f"{side}{sizes}" + (f" over {nodes} nodes" if nodes > 1 else "")


def source(text: str) -> str:
    """Return a source as a link where it is one."""
    return f"[{text.rsplit('/', 1)[-1]}]({text})" if text.startswith("https:") else text


def release_page(known: Catalog) -> str:
    """Return the page as Markdown."""
    stack = ("release", "vLLM", "torch-npu", "CANN", "checkpoints", "engine-verified", "known bad")
    launches = ("release", "chip", "checkpoint", "layout", "speculation", "kind", "source")
    return (
        HEAD
        + "## vllm-ascend\n\n"
        + table(stack, release_rows("vllm-ascend", known))
        + VERIFIED
        + "\n## vLLM (NVIDIA, CPU)\n\n"
        + table(stack, release_rows("vllm", known))
        + "\n## Validated launches\n\n"
        + PUBLISHED
        + table(launches, launch_rows(known))
    )


def main() -> int:
    """Write ``docs/releases.md`` of the current directory; return the exit status."""
    Path("docs/releases.md").write_text(release_page(catalog()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
