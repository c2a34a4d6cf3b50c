"""Check ``data/*.yaml`` against the schema and write ``compiled.json``.

Run as ``python -m ascend_v4.catalog.build`` after editing a row; ``--check`` only
compares and exits 1 when the compiled file is stale, as the tests do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from .diagnosis import COMPILED as DIAGNOSIS
from .load import COMPILED
from .rendering import COMPILED as RENDERING
from .schema import TABLES
from .schema_diagnosis import DIAGNOSIS_TABLES
from .schema_rendering import RENDERING_TABLES
from .schema_sizing import SIZING_TABLES
from .schema_topology import TOPOLOGY_TABLES

__all__ = ["LAUNCH_TABLES", "build", "build_diagnosis", "build_rendering", "main"]

DATA = Path(__file__).with_name("data")
#: What planning reads: the tables of catalog.json, in its order.
LAUNCH_TABLES = {**TABLES, **SIZING_TABLES, **TOPOLOGY_TABLES}


def read_rows(table: str) -> list[dict[str, Any]]:
    """Return the checked rows of one table, defaults left out; ``table*.yaml`` are read in order.

    Raises pydantic.ValidationError for a row that breaks the schema.
    """
    model = {**LAUNCH_TABLES, **DIAGNOSIS_TABLES, **RENDERING_TABLES}[table]
    rows: list[dict[str, Any]] = []
    for path in sorted(DATA.glob(f"{table}*.yaml")):
        for raw in yaml.safe_load(path.read_text(encoding="utf-8")) or []:
            rows.append(model.model_validate(raw).model_dump(exclude_defaults=True, mode="json"))
    return rows


def check_references(tables: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return what is wrong between rows: duplicate ids and releases that don't exist."""
    wrong = []
    known = {
        engine: [r["version"] for r in tables["releases"] if r["engine"] == engine]
        for engine in ("vllm-ascend", "vllm")
    }
    for table, rows in tables.items():
        keys = [
            row.get("id") or (row.get("engine"), row.get("version"), row.get("name"))
            for row in rows
        ]
        wrong += [f"{table}: {key} appears twice" for key in set(keys) if keys.count(key) > 1]
    for row in tables["connectors"]:
        named = [v for v in (row.get("since"), row.get("until")) if v]
        if any(v not in known[row["engine"]] for v in named):
            wrong.append(f"connectors: {row['id']} names an unknown release")
    for table in ("choices", "settings", "routers", "rules", "deployment_rules"):
        for row in tables[table]:
            when = row.get("when") or row.get("applies") or {}
            bounds = [when.get("since"), when.get("until"), *(when.get("versions") or [])]
            named = [v for v in bounds if v]
            if named and not when.get("engine"):
                wrong.append(f"{table}: {row['id']} bounds a release but names no engine")
            elif any(v not in known[when["engine"]] for v in named):
                wrong.append(f"{table}: {row['id']} names an unknown release in {named}")
    return wrong


def build() -> str:
    """Return the compiled catalog as JSON text.

    Raises ValueError naming every broken reference.
    """
    tables = {table: read_rows(table) for table in LAUNCH_TABLES}
    wrong = check_references(tables)
    if wrong:
        raise ValueError("; ".join(wrong))
    return json.dumps(tables, ensure_ascii=False, separators=(",", ":"), sort_keys=False) + "\n"


def build_diagnosis() -> str:
    """Return the tables of doctor and diagnose as JSON text: other commands never load them.

    Raises ValueError naming every id that appears twice or is explained but isn't there.
    """
    tables = {table: read_rows(table) for table in DIAGNOSIS_TABLES}
    wrong = []
    for table, rows in tables.items():
        ids = [row.get("id") or row["code"] for row in rows]
        wrong += [f"{table}: {name} appears twice" for name in set(ids) if ids.count(name) > 1]
    known = {row["id"] for row in tables["signatures"]}
    for row in tables["signatures"]:
        wrong += [
            f"{row['id']} explains unknown {name}"
            for name in row.get("explains", [])
            if name not in known
        ]
    if wrong:
        raise ValueError("; ".join(sorted(wrong)))
    return json.dumps(tables, ensure_ascii=False, separators=(",", ":")) + "\n"


def build_rendering() -> str:
    """Return the tables that only renderers read as JSON text.

    Raises ValueError naming every id that appears twice or belongs to no exporter.
    """
    tables = {table: read_rows(table) for table in RENDERING_TABLES}
    wrong = []
    for table, rows in tables.items():
        ids = [row["id"] for row in rows]
        wrong += [f"{table}: {name} appears twice" for name in set(ids) if ids.count(name) > 1]
    exporters = {"prometheus", *(row["id"] for row in tables["exporters"])}
    wrong += [row["id"] for row in tables["metrics"] if row["exporter"] not in exporters]
    if wrong:
        raise ValueError("; ".join(sorted(wrong)))
    return json.dumps(tables, ensure_ascii=False, separators=(",", ":")) + "\n"


def main() -> int:
    """Write or, with ``--check``, compare the compiled catalog; return the exit status."""
    texts = {COMPILED: build(), DIAGNOSIS: build_diagnosis(), RENDERING: build_rendering()}
    if "--check" in sys.argv[1:]:
        fresh = (p.exists() and p.read_text(encoding="utf-8") == text for p, text in texts.items())
        return 0 if all(fresh) else 1
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
