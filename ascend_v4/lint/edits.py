"""Changes to a script that leave every other byte as it was.

Each function returns the new text, or None where the place can't be rewritten: the
value comes out of a variable, or stands inside another script.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from .expand import CLOSE, OPEN, Token
from .launches import FlagUse, Launched
from .script import CONTAINERS, KEYWORDS, Spot

__all__ = ["drop_flag", "drop_variable", "set_flag", "set_key", "set_variable"]

GAP = re.compile(r"(?:[ \t]|\\\r?\n)+")
MARKED = re.compile(f"{OPEN}[^{CLOSE}]*{CLOSE}")
DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Span:
    """Where a JSON member stands in a text: its key, its value and the end of it."""

    key: int
    value: int
    end: int


def cut(text: str, start: int, end: int, instead: str = "") -> str:
    """Return a text with a span replaced."""
    return text[:start] + instead + text[end:]


def drop_variable(text: str, spot: Spot) -> str | None:
    """Return the script without an assignment; a line that held nothing else goes whole."""
    if spot.start < 0:
        return None
    if spot.whole and spot.branch:
        # An empty branch is a syntax error.
        return cut(text, *spot.whole, ":")
    if spot.whole:
        return cut(text, *line_span(text, *spot.whole))
    after = GAP.match(text, spot.end)
    if after and text[after.end() : after.end() + 1] not in ("", "\n", "\r", "#", ";", "&", "|"):
        return cut(text, spot.start, after.end())
    return cut(text, before(text, spot.start), spot.end)


def line_span(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span of a command with its line if it is alone there, else with its ``;``."""
    begin = text.rfind("\n", 0, start) + 1
    tail = re.compile(r"[ \t]*;?[ \t]*(\r?\n|\Z)").match(text, end)
    if not text[begin:start].strip() and tail:
        return begin, tail.end()
    following = re.compile(r"[ \t]*(;|&&)[ \t]*").match(text, end)
    return start, following.end() if following else end


def before(text: str, start: int) -> int:
    """Return where the blanks and continuations in front of an offset begin."""
    while True:
        if start and text[start - 1] in " \t":
            start -= 1
        elif text[:start].endswith("\\\n"):
            start -= 2
        elif text[:start].endswith("\\\r\n"):
            start -= 3
        else:
            return start


def set_variable(text: str, launched: Launched, name: str, value: str) -> str | None:
    """Return the script with a variable exported before a launch, or changed where it is set."""
    found = launched.found
    spot = found.env.get(name)
    if spot and spot.start >= 0 and not text[spot.start :].startswith("-"):
        return cut(text, spot.start, spot.end, f"{name}={value}")
    if found.start < 0 or found.style == "env":
        return None
    begin = text.rfind("\n", 0, found.start) + 1
    indent = text[begin : found.start]
    first = re.match(r"\S+", text[found.start :])
    word = first.group().rsplit("/", 1)[-1] if first else ""
    if word in KEYWORDS | CONTAINERS:
        return None
    if indent.strip() or re.search(r"\\\r?\n\Z", text[:begin]) or "=" in word:
        return cut(text, found.start, found.start, f"{name}={value} ")
    newline = "\r\n" if text[:begin].endswith("\r\n") else "\n"
    return cut(text, begin, begin, f"{indent}export {name}={value}{newline}")


def drop_flag(text: str, use: FlagUse) -> str | None:
    """Return the script without one use of a flag and its values."""
    tokens = [use.token, *use.values]
    if any(not in_place(token) for token in tokens):
        return None
    return cut(text, before(text, use.token.start), tokens[-1].end)


def in_place(token: Token) -> bool:
    """Whether every character of a token stands in the script itself."""
    return bool(token.at) and -1 not in token.at


def set_flag(text: str, launched: Launched, name: str, value: Any) -> str | None:
    """Return the script with a flag set: changed where it is given, else added at the end."""
    if launched.found.start < 0:
        return None
    written = as_word(value)
    for use in reversed(launched.uses):
        if use.name == name:
            if value is True or not in_place(use.values[-1] if use.values else use.token):
                return None
            begin, end = use.token.end, (use.values or (use.token,))[-1].end
            if "=" in use.token.text:
                begin = use.token.start
                return cut(text, begin, end, f"--{name}={written}")
            return cut(text, begin, end, f" {written}")
    extra = f"--{name}" if value is True else f"--{name} {written}"
    return append(text, launched, extra)


def as_word(value: Any) -> str:
    """Return a flag's value as a shell word."""
    if isinstance(value, (dict, list)):
        return "'" + json.dumps(value) + "'"
    text = str(value)
    return text if re.fullmatch(r"[\w./:@,+-]+", text) else "'" + text.replace("'", "'\\''") + "'"


def append(text: str, launched: Launched, extra: str) -> str | None:
    """Return the script with arguments added to a launch, in the layout of its own."""
    tokens = [t for t in launched.found.args if t.start >= launched.found.start]
    last = max(tokens, key=lambda token: token.end, default=None)
    if last is None or last.end > launched.found.end:
        return None
    begin = text.rfind("\n", 0, last.start) + 1
    lead = re.match(r"[ \t]*", text[begin:])
    several = begin > launched.found.start and lead is not None
    newline = "\r\n" if text[:begin].endswith("\r\n") else "\n"
    gap = f" \\{newline}{lead.group() if lead else ''}" if several else " "
    return cut(text, last.end, last.end, gap + extra)


def set_key(text: str, launched: Launched, path: str, value: Any) -> str | None:
    """Return the script with a JSON key set, added or, for None, taken away.

    ``path`` is ``flag.key`` or deeper. The flag itself is added where it is missing.
    """
    if launched.found.start < 0:
        return None
    flag, *keys = path.split(".")
    uses = [use for use in launched.uses if use.name == flag and use.values]
    if not uses:
        if any(use.name.startswith(flag + ".") for use in launched.uses):
            return None
        return None if value is None else append(text, launched, new_flag(flag, keys, value))
    for use in reversed(uses):
        token = use.values[-1]
        spans = members(token.text)
        if spans is None:
            return None
        if tuple(keys) in spans:
            return change(text, token, spans, tuple(keys), value)
    token = uses[-1].values[-1]
    return None if value is None else insert(text, token, members(token.text) or {}, keys, value)


def new_flag(flag: str, keys: list[str], value: Any) -> str:
    """Return a whole JSON-valued flag that holds one key."""
    for key in reversed(keys):
        value = {key: value}
    return f"--{flag} {as_word(value)}"


def members(text: str) -> dict[tuple[str, ...], Span] | None:
    """Return the members of a JSON object by path, or None if the text isn't one."""
    spans: dict[tuple[str, ...], Span] = {(): Span(0, 0, len(text))}
    # An unknown value inside becomes a number of the same length, so that places hold.
    plain = MARKED.sub(lambda m: "1" * len(m[0]), text)
    try:
        walk(plain, blank(plain, plain.index("{")), (), spans)
    except (ValueError, IndexError):
        return None
    return spans


def blank(text: str, at: int) -> int:
    """Return the next offset that isn't white space."""
    while text[at].isspace():
        at += 1
    return at


def walk(text: str, at: int, path: tuple[str, ...], spans: dict[tuple[str, ...], Span]) -> int:
    """Note the members of the JSON value at an offset; return the offset behind it."""
    if text[at] != "{":
        return DECODER.raw_decode(text, at)[1]
    at = blank(text, at + 1)
    while text[at] != "}":
        start = at
        key, at = DECODER.raw_decode(text, at)
        at = blank(text, at)
        if text[at] != ":" or not isinstance(key, str):
            raise ValueError(f"no member at {start}")
        value = blank(text, at + 1)
        end = walk(text, value, (*path, key), spans)
        spans[(*path, key)] = Span(start, value, end)
        at = blank(text, end)
        if text[at] == ",":
            at = blank(text, at + 1)
    return at + 1


def source(text: str, token: Token, start: int, end: int) -> tuple[int, int] | None:
    """Return the span in the script of characters of a token, escapes included."""
    places = token.at[start:end]
    if not places or -1 in places:
        return None
    first = places[0]
    if token.quotes[start] in ('"', "\\") and text[first - 1] == "\\":
        first -= 1
    return first, places[-1] + 1


def change(
    text: str, token: Token, spans: dict[tuple[str, ...], Span], keys: tuple[str, ...], value: Any
) -> str | None:
    """Return the script with a member's value replaced, or the member taken away."""
    span = spans[keys]
    if value is not None:
        place = source(text, token, span.value, span.end)
        return place and cut(text, *place, encode(json.dumps(value), token.quotes[span.value]))
    tail = re.compile(r"\s*,\s*").match(token.text, span.end)
    head = re.search(r"\s*,\s*\Z", token.text[: span.key])
    start = span.key if tail or not head else head.start()
    place = source(text, token, start, tail.end() if tail else span.end)
    return place and cut(text, *place)


def insert(
    text: str, token: Token, spans: dict[tuple[str, ...], Span], keys: list[str], value: Any
) -> str | None:
    """Return the script with a member added at the front of its object."""
    depth = max(n for n in range(len(keys)) if tuple(keys[:n]) in spans)
    opening = token.text.find("{", spans[tuple(keys[:depth])].value)
    for key in reversed(keys[depth + 1 :]):
        value = {key: value}
    place = source(text, token, opening, opening + 1)
    if place is None:
        return None
    empty = token.text[opening + 1 :].lstrip().startswith("}")
    member = f"{json.dumps(keys[depth])}: {json.dumps(value)}{'' if empty else ', '}"
    return cut(text, place[1], place[1], encode(member, token.quotes[opening]))


def encode(text: str, quote: str) -> str:
    """Return characters as they must be written under a kind of quoting."""
    if quote == "'":
        return text.replace("'", "'\\''")
    if quote == '"':
        return re.sub(r'(["\\$`])', r"\\\1", text)
    return re.sub(r"([^\w.,:/-])", r"\\\1", text.replace(": ", ":").replace(", ", ","))
