"""YAML with the line of every key and item, so that a problem can say where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ascend_v4.core.finding import Evidence

from .variables import TEXT, read_variables

__all__ = ["BadYaml", "Lines", "Path", "load"]

Path = tuple[str | int, ...]
INTEGER = "tag:yaml.org,2002:int"
DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
#: libyaml's composer calls itself for each level and would overflow the stack; a topology
#: needs six levels.
DEEPEST = 40
#: What libyaml 0.2.6 and later says by itself, ahead of our count.
TOO_DEEP = "nesting depth"
#: The C loader is about ten times as quick; where PyYAML was built without it, its own.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class BadYaml(Exception):
    """Text that isn't one YAML document: what is wrong, and the 1-based line."""

    cause: str
    line: int


@dataclass(frozen=True)
class Lines:
    """The lines of a file and the 1-based line of each path into its data.

    A path names keys and indices from the root: ``("nodes", 2, "address")``.
    """

    file: str
    text: tuple[str, ...] = ()
    numbers: Mapping[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """Return the line of a path, of the nearest part of it that stands in the file."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.numbers:
                return self.numbers[path[:end]]
        return 1

    def has(self, path: Path) -> bool:
        """Whether any part of a path stands in the file."""
        return any(path[:end] in self.numbers for end in range(len(path), 0, -1))

    def evidence(self, path: Path) -> Evidence:
        """Return where a path stands, with the text of the line."""
        return self.at(self.line(path))

    def at(self, line: int) -> Evidence:
        """Return a line as evidence."""
        text = self.text[line - 1].strip() if 0 < line <= len(self.text) else ""
        return Evidence(self.file, line, text)


def load(text: str, file: str) -> tuple[Any, Lines, list[tuple[Path, int]]]:
    """Return the data of a text, its lines, and the keys that stand twice with their line.

    Raises BadYaml for text that isn't one YAML document.
    """
    try:
        check_depth(text)
        loader = LOADER(text)
        node = loader.get_single_node()
        numbers: dict[Path, int] = {}
        twice: list[tuple[Path, int]] = []
        shown = text.splitlines()
        if node is not None:
            walk(node, (), numbers, twice, set())
            read_variables(node, shown)
        data = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        raise bad(error, text) from error
    except (ValueError, RecursionError) as error:
        raise BadYaml(f"a value that YAML can't hold: {error}", 1) from error
    return data, Lines(file, tuple(shown), numbers), twice


def check_depth(text: str) -> None:
    """Raise BadYaml where collections lie deeper in each other than any topology."""
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise BadYaml(f"nested deeper than {DEEPEST} levels", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def bad(error: yaml.YAMLError, text: str) -> BadYaml:
    """Return YAML's own error with its line."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        cause = getattr(error, "problem", None) or getattr(error, "context", None)
        if TOO_DEEP in str(cause):
            return BadYaml(f"nested deeper than {DEEPEST} levels", mark.line + 1)
        return BadYaml(f"not valid YAML: {cause}", mark.line + 1)
    position = getattr(error, "position", 0)
    reason = getattr(error, "reason", None) or " ".join(str(error).split())
    return BadYaml(f"not valid YAML: {reason}", text.count("\n", 0, position) + 1)


def walk(
    node: yaml.Node,
    path: Path,
    numbers: dict[Path, int],
    twice: list[tuple[Path, int]],
    seen: set[int],
) -> None:
    """Note the line of everything below a node; what an alias repeats is noted once."""
    numbers.setdefault(path, node.start_mark.line + 1)
    if id(node) in seen:
        return
    if isinstance(node, yaml.CollectionNode):
        seen.add(id(node))
    as_written(node)
    for part, mark, child in children(node):
        below = (*path, path_name(part, path))
        if below in numbers and isinstance(node, yaml.MappingNode):
            twice.append((below, mark))
        numbers[below] = mark
        walk(child, below, numbers, twice, seen)


def children(node: yaml.Node) -> Iterator[tuple[str | int, int, yaml.Node]]:
    """Yield the key or index, line and node of everything in a collection."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                check_key(key)
                yield str(key.value), key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield index, item.start_mark.line + 1, item


def as_written(node: yaml.Node) -> None:
    """Make a whole number that isn't plainly decimal the text it is written as.

    YAML 1.1 takes ``010`` for eight and ``2:13`` for 133; nobody who writes a port means that.
    """
    if node.tag == INTEGER and not DECIMAL.fullmatch(node.value):
        node.tag = TEXT


def check_key(key: yaml.Node) -> None:
    """Raise BadYaml for a key that YAML reads as a number, a date, a yes or no, or nothing."""
    if isinstance(key, yaml.ScalarNode) and key.tag != TEXT:
        cause = f"a key must be text, not {key.value or 'nothing'}; put it in quotes"
        raise BadYaml(cause, key.start_mark.line + 1)


def path_name(key: str | int, path: Path) -> str | int:
    """Return a key as the model names it: options take dashes for underscores."""
    return key if isinstance(key, int) or path[-1:] == ("env",) else key.replace("-", "_")
