"""A launch as variables and flags: what compile writes, what EXTRA changes, what rules read.

Flag names are written with dashes and without the leading ones; the value of a
JSON-valued flag is a nested dictionary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ascend_v4.errors import AscendV4Error, ExitCode

__all__ = ["Launch", "Words", "deep_merge", "human_int", "parse_flags", "set_path", "to_argv"]

#: Short spellings that vLLM's parser takes (vllm/engine/arg_utils.py).
SHORT = {
    "tp": "tensor-parallel-size",
    "dp": "data-parallel-size",
    "pp": "pipeline-parallel-size",
    "dpl": "data-parallel-size-local",
    "dpn": "data-parallel-rank",
    "dpr": "data-parallel-start-rank",
    "dpa": "data-parallel-address",
    "dpp": "data-parallel-rpc-port",
    "dpb": "data-parallel-backend",
    "dph": "data-parallel-hybrid-lb",
    "dpe": "data-parallel-external-lb",
    "dpm": "data-parallel-multi-port-external-lb",
    "dcp": "decode-context-parallel-size",
    "pcp": "prefill-context-parallel-size",
    "n": "nnodes",
    "r": "node-rank",
    "ep": "enable-expert-parallel",
    "q": "quantization",
    "asc": "api-server-count",
    "sc": "speculative-config",
    "cc": "compilation-config",
    "ac": "attention-config",
    "dc": "diffusion-config",
}


#: What vLLM takes behind a number; only those of ten may have a fraction before them.
SUFFIX = {
    **{"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12},
    **{"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40},
}
HUMAN = re.compile(r"(\d+)(?:(\.\d+)(?=[kmgtKMGT]))?([kmgtKMGT]?)")


class Words(list[Any]):
    """Several values of one flag, each a word of its own; a plain list is one JSON array."""


@dataclass
class Launch:
    """One ``vllm serve``: its variables, its flags and the model it names."""

    env: dict[str, str] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    model: str = ""


def deep_merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid on top, nested dictionaries merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = deep_merge(merged[key], value) if both else value
    return merged


def set_path(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path in a nested dictionary; None takes the leaf away."""
    *parents, leaf = path.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
    if value is None:
        tree.pop(leaf, None)
    else:
        tree[leaf] = value


def flag_name(token: str) -> str:
    """Return the canonical name of a flag token: no leading dashes, dashes within.

    A spelling with one dash that isn't known, such as ``-O3``, stays as it is.
    """
    head, dot, rest = token.lstrip("-").partition(".")
    if not token.startswith("--"):
        if head not in SHORT:
            return token
        head = SHORT[head]
    return head.replace("_", "-") + dot + rest


def read_value(text: str) -> Any:
    """Return a flag's value: JSON objects and arrays are parsed, all else stays text."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def read_dotted(text: str) -> Any:
    """Return the value of ``--flag.key`` as vLLM reads it: JSON, else a number such as 4k, or text.

    vllm 0.32.0, vllm/utils/argparse_utils.py:441.
    """
    try:
        return json.loads(text)
    except ValueError:
        number = human_int(text)
        return text if number is None else number


def human_int(text: str) -> int | None:
    """Return a whole number with or without a suffix (4k is 4000, 4K 4096); None for other text."""
    found = HUMAN.fullmatch(text.strip())
    if not found or (found[2] and found[3].isupper()):
        return None
    times = SUFFIX[found[3]]
    return int(float(found[1] + found[2]) * times) if found[2] else int(found[1]) * times


def is_flag(token: str) -> bool:
    """Whether a token starts a flag; ``-1`` is a value."""
    return token.startswith("-") and len(token) > 1 and not token[1].isdigit()


def parse_flags(tokens: Sequence[str]) -> dict[str, Any]:
    """Return the flags of an argument list by canonical name.

    A flag without a value is True; several values make Words; ``--flag.key value``
    becomes a nested key. Raises AscendV4Error (usage) for a token that belongs to no flag.
    """
    flags: dict[str, Any] = {}
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if not is_flag(token):
            raise AscendV4Error(
                ExitCode.USAGE,
                "stray-argument",
                f"'{token}' after -- belongs to no flag; flags and their values come after --",
                "ascend-v4 serve --help",
            )
        token, equals, inline = token.partition("=")
        index += 1
        values = [inline] if equals else []
        while not equals and index < len(tokens) and not is_flag(tokens[index]):
            values.append(tokens[index])
            index += 1
        name = flag_name(token)
        dotted = "." in name and not name.startswith("-")
        if dotted and name.endswith("+") and values:
            name, values = name[:-1], [json.dumps(",".join(values).split(","))]
        value = Words((read_dotted if dotted else read_value)(v) for v in values)
        add_flag(flags, name, True if not value else value[0] if len(value) == 1 else value)
    return flags


def add_flag(flags: dict[str, Any], name: str, value: Any) -> None:
    """Add a parsed flag; JSON objects given twice are merged, as vLLM's parser does."""
    head, dot, rest = name.partition(".") if not name.startswith("-") else (name, "", "")
    for key in reversed(rest.split(".")) if dot else ():
        value = {key: value}
    if isinstance(value, dict) and isinstance(flags.get(head), dict):
        value = deep_merge(flags[head], value)
    flags[head] = value


def merge_flags(flags: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return the flags with a user's own on top: JSON is deep-merged, all else replaced.

    ``--no-x`` takes ``--x`` away and the other way round.
    """
    merged = dict(flags)
    for name, value in over.items():
        opposite = name.removeprefix("no-") if name.startswith("no-") else f"no-{name}"
        merged.pop(opposite, None)
        merged = deep_merge(merged, {name: value})
    return merged


def to_argv(flags: dict[str, Any]) -> list[str]:
    """Return the argument list of the flags, in their order."""
    argv: list[str] = []
    for name, value in flags.items():
        argv.append(name if name.startswith("-") else f"--{name}")
        if value is not True:
            argv += map(word_of, value if isinstance(value, Words) else [value])
    return argv


def word_of(value: Any) -> str:
    """Return one value of a flag as a word; objects and arrays as JSON."""
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
