"""The definitions of custom resources, condensed to what a check needs; no prose, no pods.

``python -m tests.render.crds FILE… > tests/data/schemas/NAME.json`` condenses definitions of
a release. A pod template's spec is left to Kubernetes' own schema.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

__all__ = ["SCHEMAS", "condensed", "definition", "text_of", "validators"]

SCHEMAS = Path(__file__).parents[1] / "data" / "schemas"
#: What restricts a value. Defaults, formats and descriptions don't.
KEPT = (
    "type", "enum", "required", "pattern", "minimum", "maximum",
    "minItems", "maxItems", "minLength", "maxLength",
)  # fmt: skip
EITHER = {"type": ["integer", "string"]}
POD = {"type": "object", "required": ["containers"]}


def condensed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI schema as JSON Schema that refuses keys which it doesn't name."""
    if schema.get("x-kubernetes-int-or-string"):
        return dict(EITHER)
    fields = schema.get("properties", {})
    if "containers" in fields and "restartPolicy" in fields:
        return dict(POD)
    whole = {**schema, **schema.get("allOf", [{}])[0]}
    made: dict[str, Any] = {key: whole[key] for key in KEPT if key in whole}
    if fields:
        made["properties"] = {name: condensed(inner) for name, inner in sorted(fields.items())}
        made["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = condensed(schema["additionalProperties"])
    if "items" in schema:
        made["items"] = condensed(schema["items"])
    return made


def definition(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the kind that a CustomResourceDefinition is of, and its condensed schema."""
    loaded = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
    (version,) = loaded["versions"]
    kind = loaded["names"]["kind"]
    made = condensed(version["schema"]["openAPIV3Schema"])
    # Nobody renders a status; the name of the kind is stated outside the schema.
    made["properties"].pop("status", None)
    made["properties"]["apiVersion"] = {"const": f"{loaded['group']}/{version['name']}"}
    made["properties"]["kind"] = {"const": kind}
    made["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return kind, made


def text_of(paths: list[Path]) -> str:
    """Return the condensed schemas of several definitions by kind, as JSON text."""
    return json.dumps(dict(sorted(map(definition, paths))), indent=1) + "\n"


def validators(name: str) -> dict[str, Any]:
    """Return a validator for each kind of a file of ``tests/data/schemas``."""
    import jsonschema

    found = json.loads((SCHEMAS / name).read_text())
    return {kind: jsonschema.Draft202012Validator(schema) for kind, schema in found.items()}


if __name__ == "__main__":
    print(text_of([Path(name) for name in sys.argv[1:]]), end="")
