"""From a found launch to variables, flags and where each of them stands."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from ascend_v4.core.launch import add_flag, flag_name, is_flag, parse_flags

from .expand import CLOSE, OPEN, Token, is_marked, marks
from .script import Found, Spot
from .three import UNKNOWN

__all__ = ["FlagUse", "Launched", "locate", "read_launch"]

#: Flags whose value is JSON.
JSON_FLAGS = {
    "additional-config",
    "speculative-config",
    "compilation-config",
    "kv-transfer-config",
    "attention-config",
    "model-loader-extra-config",
    "hf-overrides",
    "override-generation-config",
    "ec-transfer-config",
    "kv-events-config",
    "structured-outputs-config",
    "profiler-config",
    "eplb-config",
}


@dataclass(frozen=True)
class FlagUse:
    """One use of a flag: its canonical name, its token and the tokens of its values."""

    name: str
    token: Token
    values: tuple[Token, ...]


@dataclass
class Launched:
    """A launch in the compiler's own terms, unknown values as UNKNOWN.

    ``open_args`` names the arguments that may hold anything; ``unknown`` maps each
    unknown value, as the script writes it, to its line.
    """

    found: Found
    env: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    uses: list[FlagUse] = field(default_factory=list)
    strays: list[Token] = field(default_factory=list)
    open_args: list[str] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)


def read_launch(found: Found) -> Launched:
    """Return the launch with its flags parsed as the compiler parses its own."""
    launched = Launched(found)
    for name, spot in found.env.items():
        launched.env[name] = UNKNOWN if is_marked(spot.value) else spot.value
        note_unknown(launched, spot.value, spot.line)
    for group in group_tokens(launched, [t for t in found.args if not opens(launched, t)]):
        add_use(launched, group)
    named: Any = launched.flags.get("model")
    launched.model = launched.model or (named if isinstance(named, str) else "")
    return launched


def opens(launched: Launched, token: Token) -> bool:
    """Whether a token may be any number of arguments; if so it is noted."""
    if token.open:
        launched.open_args += marks(token.text)
        note_unknown(launched, token.text, token.line)
    return token.open


def note_unknown(launched: Launched, text: str, line: int) -> None:
    """Remember the unknown values of a text."""
    for name in marks(text):
        launched.unknown.setdefault(name, line)


def group_tokens(launched: Launched, tokens: list[Token]) -> list[list[Token]]:
    """Return the tokens by flag; what stands before the first is the model."""
    groups: list[list[Token]] = []
    for token in tokens:
        note_unknown(launched, token.text, token.line)
        if is_flag(token.text) and token.text != "--":
            groups.append([token])
        elif groups:
            groups[-1].append(token)
        elif not launched.model and launched.found.style == "serve":
            launched.model = token.text
        else:
            launched.strays.append(token)
    return groups


def add_use(launched: Launched, group: list[Token]) -> None:
    """Add one flag and its values to the launch."""
    first, *values = group
    head, equals, inline = first.text.partition("=")
    if equals and values:
        launched.strays += values
        values = []
    texts = [head, *([inline] if equals else [v.text for v in values])]
    texts[1:] = [quote_marks(text) for text in texts[1:]]
    for name, value in parse_flags(texts).items():
        add_flag(launched.flags, name, blank(value))
    launched.uses.append(FlagUse(flag_name(head), first, tuple([first] if equals else values)))


def quote_marks(text: str) -> str:
    """Return JSON whose unquoted unknown values have become strings, so that it parses."""
    if not is_marked(text) or text.lstrip()[:1] not in ("{", "["):
        return text
    out, inside, skip = "", False, False
    for char in text:
        if char == '"' and not skip:
            inside = not inside
        skip = char == "\\" and not skip
        if not inside and char in (OPEN, CLOSE):
            out += '"' + char if char == OPEN else char + '"'
        else:
            out += char
    return out


def blank(value: Any) -> Any:
    """Return a value with each leaf that holds an unknown one replaced by UNKNOWN."""
    if isinstance(value, dict):
        return {key: blank(leaf) for key, leaf in value.items()}
    if isinstance(value, list):
        return UNKNOWN if any(blank(v) is UNKNOWN for v in value) else value
    return UNKNOWN if isinstance(value, str) and is_marked(value) else value


def broken_json(launched: Launched) -> list[tuple[FlagUse, str]]:
    """Return the JSON-valued flags whose value isn't JSON, each with the reason."""
    broken = []
    for use in launched.uses:
        value = launched.flags.get(use.name)
        if use.name not in JSON_FLAGS or not isinstance(value, str):
            continue
        try:
            json.loads(value)
            reason = "a JSON object is wanted here"
        except ValueError as error:
            reason = str(error)
        broken.append((use, reason))
    return broken


def locate(launched: Launched, path: str) -> int:
    """Return the line where a path (``env.X``, ``flag.y.z``) stands, or 0 if it doesn't."""
    kind, _, rest = path.partition(".")
    if kind == "env":
        spot: Spot | None = launched.found.env.get(rest)
        return spot.line if spot else 0
    for use in reversed(launched.uses):
        head, _, key = rest.partition(".")
        if use.name == rest or (use.name == head and not key):
            return use.token.line
        if use.name == head and (line := line_of_key(use, key.split("."))):
            return line
    return 0


def line_of_key(use: FlagUse, keys: list[str]) -> int:
    """Return the line of a nested JSON key inside a flag's value, or 0."""
    for value in use.values:
        at = 0
        for key in keys:
            match = re.compile(r'"' + re.escape(key) + r'"\s*:').search(value.text, at)
            if not match:
                break
            at = match.start() + 1
        else:
            return value.line + value.text.count("\n", 0, at)
    return 0
