"""Advice in the words of the file: an option's key instead of its flag.

The rules advise whoever types a command; in a topology the same options are keys.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from ascend_v4.core.finding import Finding
from ascend_v4.core.request import OPTION_NAMES

__all__ = ["in_file", "in_file_words"]

#: Options with a key at the top of the file or of a group; the others stand under ``options``.
OWN_KEY = (
    *("profile", "chip", "engine_version", "image", "model", "model_dir", "allow_unvalidated"),
    *("tensor_parallel_size", "data_parallel_size", "devices", "nodes", "port"),
)
ELSEWHERE = {"host": "router.host", "engine": "profile"}
SWITCHES = ("prefix_caching", "fused_mc2", "allow_unvalidated")
#: Words that may follow an option without being its value.
NO_VALUE = ("or", "and", "until", "in", "out", "away", "with", "of", "to", "for", "the", "as")
#: A command stays as it is up to where its clause ends.
WORDS = re.compile(
    r"(?P<command>ascend-v4 [^,;()]*|`[^`]*`)"
    r"|(?P<extra>-- EXTRA)"
    r"|--(?P<option>[a-z][a-z0-9-]*)(?:[ =](?P<value>[\w{][^\s,;()]*))?"
    r"|(?:export )?\b(?P<name>[A-Z][A-Z0-9_]{2,})=(?P<text>[^\s,;()<]+)"
)
ENGINE = "flags stand in extra of the group"


def in_file(finding: Finding) -> Finding:
    """Return a finding whose fix names keys of the file."""
    return replace(finding, fix=in_file_words(finding.fix))


@lru_cache(maxsize=512)
def in_file_words(text: str) -> str:
    """Return advice with each launch option as its key in a topology file."""
    made = WORDS.sub(key_words, text)
    flags = any(match["option"] for match in WORDS.finditer(made))
    return f"{made}; {ENGINE}" if flags and ENGINE not in made else made


def key_words(match: re.Match[str]) -> str:
    """Return what stands in the file for an option, a variable or EXTRA of a command line."""
    if match["extra"]:
        return "extra"
    if match["name"]:
        return f"env: {{{match['name']}: {match['text']}}}"
    return option_words(match["option"], match["value"]) if match["option"] else match[0]


def option_words(option: str, value: str | None) -> str:
    """Return a launch option as a key, with its value if it has one; other flags as they are."""
    name = option.replace("-", "_")
    bare = name if name in (*OPTION_NAMES, *SWITCHES) else name.removeprefix("no_")
    rest = f" {value}" if value else ""
    if bare not in (*OPTION_NAMES, *SWITCHES):
        return f"--{option}{rest}"
    if bare == "nodes" and value and value[0].isdigit():
        return f"{value} nodes in the group"
    key = ELSEWHERE.get(bare, bare if bare in OWN_KEY else f"options.{bare}")
    if bare in SWITCHES:
        return f"{key}: {str(bare == name).lower()}{rest}"
    return f"{key}: {value}" if value and value not in NO_VALUE else f"{key}{rest}"
