"""Plain data as YAML with comments: what every Kubernetes and compose file is written with.

``Noted(value, "why")`` puts a comment above a key or an item. PyYAML can't write
comments, so the few lines that do are here; the tests read every file back with PyYAML.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Noted", "document", "documents", "plain"]

#: Strings that every YAML reader takes as strings without quotes.
SAFE = re.compile(r"[A-Za-z/][A-Za-z0-9_./@+-]*")
#: What YAML 1.1 takes for something else than a string.
WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none"})


@dataclass(frozen=True)
class Noted:
    """A value with comment lines to stand above it."""

    value: Any
    note: str | Sequence[str]

    def lines(self) -> list[str]:
        """Return the comment, a line each."""
        words = [self.note] if isinstance(self.note, str) else self.note
        return [readable(line) for word in words for line in word.splitlines()]


def readable(line: str) -> str:
    """Return a comment line without what YAML refuses even there."""
    return "".join(char if char.isprintable() else "?" for char in line)


def plain(value: Any) -> Any:
    """Return the data without its comments."""
    if isinstance(value, Noted):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def scalar(value: Any) -> str:
    """Return a scalar as YAML; strings are JSON strings wherever a plain one might mislead."""
    if isinstance(value, str):
        safe = SAFE.fullmatch(value) and value.lower() not in WORDS
        return value if safe else escaped(json.dumps(value, ensure_ascii=False))
    if isinstance(value, float):
        return number(value)
    return json.dumps(value)


def escaped(text: str) -> str:
    """Return a double-quoted string with what YAML takes no literal of escaped."""
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in text)


def number(value: float) -> str:
    """Return a float as YAML 1.1 knows it: with a point, or an infinity's own word."""
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    mantissa, _, exponent = repr(value).partition("e")
    point = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{point}e{exponent}" if exponent else point


def noted(value: Any, indent: str) -> tuple[Any, list[str]]:
    """Return the bare value and its comment lines."""
    if isinstance(value, Noted):
        return value.value, [f"{indent}# {line}".rstrip() for line in value.lines()]
    return value, []


def is_block(value: str) -> bool:
    """Whether a string is better written as a literal block, and can be."""
    body = value.rstrip("\n")
    printable = all(char == "\n" or char.isprintable() for char in value)
    return "\n" in body and printable and not value.startswith((" ", "\n"))


def block(value: str, indent: str) -> list[str]:
    """Return a string of several lines as a literal block's lines, the header first."""
    kept = "|" if value.endswith("\n") and not value.endswith("\n\n") else "|-"
    if value.endswith("\n\n"):
        kept = "|+"
    body = value[:-1] if value.endswith("\n") else value
    return [
        kept,
        *(f"{indent}{line}".rstrip() if not line else indent + line for line in body.split("\n")),
    ]


def written(value: Any, indent: str) -> list[str]:
    """Return a value's lines; the first one goes behind its key or dash."""
    if isinstance(value, Mapping) and value:
        return ["", *mapping(value, indent)]
    if isinstance(value, (list, tuple)) and value:
        return ["", *items(value, indent)]
    if isinstance(value, str) and is_block(value):
        return block(value, indent)
    if isinstance(value, (Mapping, list, tuple)):
        return ["{}" if isinstance(value, Mapping) else "[]"]
    return [scalar(value)]


def mapping(value: Mapping[str, Any], indent: str) -> list[str]:
    """Return a mapping's lines."""
    lines = []
    for key, item in value.items():
        bare, comment = noted(item, indent)
        # Items of a list stand under their key, as Kubernetes' own files have them.
        deeper = indent if isinstance(bare, (list, tuple)) else indent + "  "
        first, *rest = written(bare, deeper)
        lines += [*comment, f"{indent}{scalar(str(key))}: {first}".rstrip(), *rest]
    return lines


def items(value: Sequence[Any], indent: str) -> list[str]:
    """Return a list's lines."""
    lines = []
    for item in value:
        bare, comment = noted(item, indent)
        first, *rest = written(bare, indent + "  ")
        if not first and rest and not rest[0].lstrip().startswith("#"):
            first, rest = rest[0].lstrip(), rest[1:]
        lines += [*comment, f"{indent}- {first}".rstrip(), *rest]
    return lines


def document(value: Mapping[str, Any], header: Sequence[str] = ()) -> str:
    """Return one YAML document, comment lines (without ``#``) first."""
    return "\n".join([*(f"# {line}".rstrip() for line in header), *mapping(value, "")]) + "\n"


def documents(values: Sequence[Mapping[str, Any]], header: Sequence[str] = ()) -> str:
    """Return several YAML documents as one text."""
    first, *others = [document(value) for value in values]
    head = "".join(f"# {line}".rstrip() + "\n" for line in header)
    return "---\n".join([head + first, *others])
