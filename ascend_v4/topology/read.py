"""Read a topology file: every problem with its line, one error for each cause."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ascend_v4.catalog.load import nearest
from ascend_v4.core.finding import Evidence, Finding
from ascend_v4.errors import AscendV4Error, ExitCode

from .lines import BadYaml, Lines, Path, load

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    from .model import Topology

__all__ = ["TopologyError", "TopologyFile", "known_keys_of", "parse_topology", "read_topology"]

#: How many problems a message lists; all of them are among the findings.
LISTED = 20
#: Launch options that the topology says in a place of its own.
ELSEWHERE = {
    "host": "the nodes' addresses, and router.host, decide that",
    "port": "a group and the router have a `port`",
    "nodes": "list the nodes of the group",
    "devices": "a node and a group have `devices`",
    "profile": "one profile for the whole deployment: a key at the top",
    "chip": "a key at the top, or of a node",
    "engine": "the profile decides the engine",
    "engine_version": "one release for the whole deployment: a key at the top",
    "image": "a key at the top",
    "model": "one model for the whole deployment: a key at the top",
    "model_dir": "one place on every node: a key at the top",
    "allow_unvalidated": "a key at the top",
}


@dataclass(frozen=True)
class TopologyFile:
    """A topology and the lines that its parts stand on."""

    topology: Topology
    lines: Lines


class TopologyError(AscendV4Error):
    """A file that is no topology; ``findings`` holds every problem with its place."""

    def __init__(self, findings: list[Finding]) -> None:
        listed = [f"{place(f.evidence[0])}: {f.message}" for f in findings[:LISTED]]
        more = len(findings) - len(listed)
        tail = [f"  and {more} more"] if more else []
        text = "\n".join([listed[0], *(f"  also {line}" for line in listed[1:]), *tail])
        super().__init__(ExitCode.USAGE, "bad-topology", text, findings[0].fix)
        self.findings = tuple(findings)


def place(evidence: Evidence) -> str:
    """Return evidence as ``file:line``."""
    return f"{evidence.file}:{evidence.line}"


def read_topology(path: str) -> TopologyFile:
    """Return the topology of a file, or of stdin for ``-``.

    Raises AscendV4Error (usage) when it can't be read, TopologyError (usage) when it
    isn't a topology.
    """
    from ascend_v4.files import read_user_text

    if path != "-":
        return parse_topology(read_user_text(path, "the topology"), path)
    try:
        return parse_topology(sys.stdin.buffer.read().decode("utf-8"), "<stdin>")
    except UnicodeDecodeError as error:
        raise AscendV4Error(
            ExitCode.USAGE, "unreadable-file", "the topology on stdin is not UTF-8 text", ""
        ) from error


def parse_topology(text: str, name: str) -> TopologyFile:
    """Return the topology of a text; ``name`` is what errors call its file.

    Raises TopologyError (usage) naming every problem.
    """
    from pydantic import ValidationError

    from .model import Topology

    try:
        data, lines, twice = load(text, name)
    except BadYaml as error:
        where = Lines(name, tuple(text.splitlines())).at(error.line)
        raise TopologyError([problem(error.cause, where)]) from error
    root = data if isinstance(data, dict) else {}
    found = [
        problem(f"{named(path[:-1], root)}: {path[-1]} stands here twice", lines.at(at))
        for path, at in twice
    ]
    if not isinstance(data, dict):
        what = "empty" if data is None else f"a {kind_of(data)}"
        cause = f"a topology is a mapping of keys such as nodes and groups; this is {what}"
        raise TopologyError([*found, problem(cause, lines.at(1))])
    try:
        topology = Topology.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        every = [*found, *problems(details, data, lines)]
        raise TopologyError(sorted(every, key=lambda f: f.evidence[0].line)) from error
    if found:
        raise TopologyError(found)
    return TopologyFile(topology, lines)


def problem(cause: str, where: Evidence) -> Finding:
    """Return what is wrong with a file as a finding."""
    file = where.file if where.file != "<stdin>" else "the topology"
    return Finding("topology-file", "error", cause, f"edit {file}", evidence=(where,))


def problems(
    details: list[ErrorDetails], data: Mapping[str, Any], lines: Lines
) -> Iterator[Finding]:
    """Yield a finding for each cause, in the order of the file."""
    unknown = {detail["loc"] for detail in details if detail["type"] == "extra_forbidden"}
    misspelt = {(*loc[:-1], meant(loc, data)) for loc in unknown}
    seen = set()
    for detail in sorted(details, key=lambda detail: lines.line(detail["loc"])):
        loc = detail["loc"]
        # A misspelt key is missing under its right name: that is one cause.
        if (detail["type"] == "missing" and loc in misspelt) or loc in seen:
            continue
        seen.add(loc)
        yield problem(sentence(detail, data), lines.evidence(loc))


def sentence(detail: ErrorDetails, data: Mapping[str, Any]) -> str:
    """Return what is wrong at a place, as a sentence that names the place."""
    loc = detail["loc"]
    where, key = named(loc[:-1], data), loc[-1] if loc else "topology"
    if isinstance(key, int):
        where, key = named(loc[:-2], data), f"item {key + 1} of {loc[-2]}"
    if "env" in loc[-3:-1]:
        return f"{named(env_path(loc), data)}: {variable_sentence(detail)}"
    if detail["type"] == "missing":
        return f"{where}: {key} is missing"
    if detail["type"] == "extra_forbidden":
        known = known_keys(loc[:-1])
        hint = ELSEWHERE.get(str(key), "") if loc[-2:-1] == ("options",) else ""
        return f"{where}: {key!r} is not a key here; {hint or guess(str(key), known)}"
    if detail["type"] == "too_short":
        return f"{where}: {key} must have at least one item"
    return f"{where}: {key} {wants(detail)}, not {shown(detail['input'])}"


def env_path(loc: Path) -> Path:
    """Return the ``env`` that a place within one belongs to."""
    return loc[: loc.index("env") + 1]


def variable_sentence(detail: ErrorDetails) -> str:
    """Return what is wrong with a variable; its value is not repeated, it may be a secret."""
    loc = detail["loc"]
    name = loc[loc.index("env") + 1]
    if loc[-1] == "[key]":
        return f"{name!r} is no name of a variable: letters, digits and underscores"
    if detail["type"] == "string_pattern_mismatch":
        return f"the value of {name} must be one line of text"
    return f"the value of {name} must be text or a number; true and false go in quotes"


def guess(key: str, known: list[str]) -> str:
    """Return the nearest known key, or all of them."""
    return nearest(key, known) or f"the keys are {', '.join(known)}"


def meant(loc: Path, data: Mapping[str, Any]) -> str:
    """Return the known key that a misspelt one is nearest to and that isn't there."""
    there = data
    for part in loc[:-1]:
        there = there[part]  # type: ignore[index]
    free = [key for key in known_keys(loc[:-1]) if key not in there]
    return nearest(str(loc[-1]), free).removeprefix("did you mean ").rstrip("?")


def wants(detail: ErrorDetails) -> str:
    """Return what a value must be."""
    about = detail.get("ctx", {})
    if detail["type"] == "string_pattern_mismatch":
        return "must be " + of_pattern(about["pattern"])
    says = {
        "greater_than_equal": "must be at least {ge}",
        "less_than_equal": "must be at most {le}",
        "greater_than": "must be above {gt}",
        "literal_error": "must be {expected}",
        "string_type": "must be text (in quotes where it looks like a number)",
        "string_too_short": "must not be empty",
        "list_type": "must be a list",
        "int_type": "must be a whole number",
        "bool_type": "must be true or false",
        "float_type": "must be a number",
        "float_parsing": "must be a number",
        "model_type": "must be a mapping of keys",
        "dict_type": "must be a mapping of keys",
    }
    said = says.get(detail["type"])
    if detail["type"] == "int_type" and isinstance(detail["input"], str):
        return "must be a whole number, in plain decimals"
    return said.format(**about) if said else f"is wrong: {detail['msg']}"


def of_pattern(pattern: str) -> str:
    """Return what a text must be to fit a pattern of the model."""
    from .model import INTERFACE, LINE

    return {
        LINE: "one line of text",
        INTERFACE: "the name of an interface: up to 15 letters, digits, dots, dashes, underscores",
    }.get(pattern, "up to 42 lower-case letters, digits and inner dashes")


def shown(value: Any) -> str:
    """Return a value for a message: scalars as they are, anything else by its kind."""
    if isinstance(value, (str, int, float, bool)):
        text = repr(value)
        return text if len(text) <= 60 else text[:59] + "…"
    return "nothing" if value is None else f"a {kind_of(value)}"


def kind_of(value: Any) -> str:
    """Return what a value is, in YAML's words."""
    return {"dict": "mapping", "list": "list", "str": "text"}.get(type(value).__name__, "value")


def named(path: Path, data: Mapping[str, Any]) -> str:
    """Return a part of a topology as people call it: ``node p0``, ``group decode, options``."""
    if len(path) > 1 and path[0] in ("nodes", "groups") and isinstance(path[1], int):
        item = data[str(path[0])][path[1]]
        name = item.get("name") if isinstance(item, dict) else None
        what = f"{str(path[0])[:-1]} {name if isinstance(name, str) else path[1] + 1}"
        return ", ".join([what, *map(str, path[2:])])
    return ", ".join(map(str, path)) or "topology"


@lru_cache(maxsize=64)
def known_keys_of(kind: str) -> tuple[str, ...]:
    """Return the keys of a part of a topology."""
    from .model import Group, KvPool, LaunchOptions, Node, Router, Topology

    if kind == "options":
        return tuple(LaunchOptions.__annotations__)
    models: dict[str, type[BaseModel]] = {
        "nodes": Node,
        "groups": Group,
        "router": Router,
        "kv_pool": KvPool,
        "": Topology,
    }
    fields = models[kind].model_fields
    return tuple(field.alias or name for name, field in fields.items())


def known_keys(path: Path) -> list[str]:
    """Return the keys that may stand at a path."""
    if path[-1:] == ("options",):
        return list(known_keys_of("options"))
    return list(known_keys_of(str(path[0]) if path else ""))
