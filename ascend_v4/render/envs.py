"""The sourceable files in ``envs/``: one for each shipped profile, chip and release.

``python -m ascend_v4.render.envs`` writes them from the catalog; a test fails when one
is stale. They hold nothing that depends on a host, so they can be shipped as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from ascend_v4.catalog.load import Catalog, catalog
from ascend_v4.core.compiler import Compiled, compile_plan
from ascend_v4.core.request import LaunchRequest

from .shell import exports, headline

__all__ = ["env_files", "main", "moved_comments"]

SINGLE_CHIP = {"cuda": "h200", "cpu": "cpu"}


def requests(known: Catalog) -> Iterator[tuple[str, LaunchRequest]]:
    """Yield the name and the request of each file: every release that has a profile."""
    for row in known.table("releases"):
        if row["engine"] == "vllm-ascend":
            for chip in ("a2", "a3", "a5"):
                request = LaunchRequest(chip=chip, engine_version=row["version"])
                yield f"ascend-{chip}-{row['version']}.env", request
        else:
            for profile, chip in SINGLE_CHIP.items():
                request = LaunchRequest(chip=chip, engine_version=row["version"])
                yield f"{profile}-{row['version']}.env", request


def moved_comments(compiled: Compiled, known: Catalog) -> list[str]:
    """Return a comment for each JSON key in the plan that was a variable once."""
    config = compiled.launch.flags.get("additional-config", {})
    lines = []
    for row in known.table("variables"):
        key = row.get("moved_to", "").removeprefix("additional_config.")
        if row["kind"] == "env" and key and key in config:
            value = config[key]
            lines.append(
                f"# {row['name']} is additional_config.{key} now: {value!r} in --additional-config"
            )
    return lines


def env_files(known: Catalog) -> dict[str, str]:
    """Return the text of every file by name; launches that nobody published have none."""
    files = {}
    for name, request in requests(known):
        compiled = compile_plan(request, known)
        plan = compiled.plan
        if plan.validated.status == "unvalidated" or any(
            note.severity == "error" for note in plan.notes
        ):
            continue
        head = [
            f"# {headline(plan)}",
            f"# source this file, then: {plan.engine} {plan.engine_version} by `ascend-v4 serve`",
            f"# generated from the catalog; published by {plan.validated.source}",
            *moved_comments(compiled, known),
        ]
        files[name] = "\n".join([*head, *exports(plan, compiled.rows, known)]) + "\n"
    return files


def main() -> int:
    """Write ``envs/`` of the current directory anew; return the exit status."""
    directory = Path("envs")
    directory.mkdir(exist_ok=True)
    files = env_files(catalog())
    for stale in {path.name for path in directory.glob("*.env")} - set(files):
        (directory / stale).unlink()
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
