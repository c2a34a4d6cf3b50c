"""Variables in a topology: read as they are written, and never a secret among them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

import yaml

__all__ = ["TEXT", "looks_secret", "read_variables"]

#: Names of what nobody else may read. A file or a directory that holds it is no secret.
SECRET = re.compile(
    r"(?:^|_)(?:\w*SECRETS?|\w*PASSWORD|\w*PASSWD|API_?KEYS?|CREDENTIALS?)(?:_|$)"
    r"|(?:^|_)(?:\w*KEY|\w*TOKEN|AUTH)$",
    re.IGNORECASE,
)
PLACE = re.compile(r"_(?:FILE|PATH|DIR)$", re.IGNORECASE)
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
TEXT = "tag:yaml.org,2002:str"


def looks_secret(name: str) -> bool:
    """Whether a variable's name is that of a key, a token or a password."""
    return bool(SECRET.search(name)) and not PLACE.search(name)


def read_variables(root: yaml.Node, shown: list[str]) -> None:
    """Make numbers under ``env`` the text they are written as; blot secrets out of ``shown``.

    YAML takes ``010`` for eight and ``1:30`` for ninety, an environment doesn't.
    """
    groups = items(value(root, "groups"))
    for env in chain([value(root, "env")], (value(group, "env") for group in groups)):
        if not isinstance(env, yaml.MappingNode):
            continue
        for key, scalar in env.value:
            if scalar.tag in NUMBERS:
                scalar.tag = TEXT
            if looks_secret(str(key.value)):
                blot(scalar, shown)


def value(node: yaml.Node | None, name: str) -> yaml.Node | None:
    """Return what stands under a key of a mapping, None where nothing does."""
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((below for key, below in node.value if key.value == name), None)


def items(node: yaml.Node | None) -> Iterator[yaml.Node]:
    """Yield the items of a sequence, none for anything else."""
    if isinstance(node, yaml.SequenceNode):
        yield from node.value


def blot(node: yaml.Node, shown: list[str]) -> None:
    """Put an ellipsis for what a node holds, so that no message repeats it."""
    first, last = node.start_mark, node.end_mark
    for number in range(first.line, min(last.line + 1, len(shown))):
        line = shown[number]
        begin = first.column if number == first.line else 0
        end = last.column if number == last.line else len(line)
        shown[number] = f"{line[:begin]}…{line[end:]}"
