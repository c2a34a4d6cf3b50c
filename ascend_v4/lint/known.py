"""What a launch names, against what the catalog knows of those names on a release."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from ascend_v4.catalog.load import Row
from ascend_v4.core.conditions import OPERATORS
from ascend_v4.core.finding import Finding, Severity

from .launches import JSON_FLAGS, Launched
from .names import Names, effect_of, harmless, key_path, near
from .target import Target
from .three import Unknown, find

__all__ = ["Named", "check_names", "entries", "live_names"]

#: A finding and the launch path that it is about.
Named = tuple[Finding, str]
#: Families in which every name is known, so that an unknown one is a mistake.
OWNED = {"vllm-ascend": "VLLM_ASCEND_"}


def entries(launched: Launched) -> Iterator[tuple[str, Any]]:
    """Yield each path of a launch with its value; JSON objects before their keys."""
    for name, value in launched.env.items():
        yield f"env.{name}", value
    for name, value in launched.flags.items():
        yield from nested(f"flag.{name}", value)


def nested(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield a path and the paths inside its value."""
    yield path, value
    if isinstance(value, dict):
        for key, leaf in value.items():
            yield from nested(f"{path}.{key}", leaf)


def check_names(launched: Launched, target: Target, names: Names) -> list[Named]:
    """Return what is wrong with the names of a launch on the target's release."""
    found: list[Named] = []
    for path, value in entries(launched):
        row = names.rows.get(path)
        if row is not None:
            finding = judge(path, value, row, launched, target)
        else:
            finding = unknown_name(path, value, target, names)
        if finding:
            found.append((finding, path))
    return found


def live_names(launched: Launched, target: Target, names: Names) -> int:
    """Return how many names of a launch the target's release acts on."""
    count = 0
    for path, _ in entries(launched):
        row = names.rows.get(path)
        effect = row and effect_of(row, target.version, target.chips, target.catalog, target.engine)
        count += bool(effect and effect["effect"] in ("read", "deprecated"))
    return count


def shown(path: str, value: Any) -> str:
    """Return a path and its value as a script would write them."""
    kind, _, name = path.partition(".")
    if kind == "env":
        return name if isinstance(value, Unknown) else f"{name}={value}"
    head, dot, rest = name.partition(".")
    if not dot:
        bare = value is True or isinstance(value, (dict, Unknown))
        return f"--{head}" if bare else f"--{head} {value}"
    tail = "" if isinstance(value, (dict, Unknown)) else f" ({value!r})"
    return f"{rest} of --{head}{tail}"


def judge(path: str, value: Any, row: Row, launched: Launched, target: Target) -> Finding | None:
    """Return what the target's release makes of a name that the catalog knows."""
    effect = effect_of(row, target.version, target.chips, target.catalog, target.engine)
    if effect is None:
        return uncovered(path, value, row, target)
    kind = effect["effect"]
    if kind in ("read", "deprecated") and bad_value(value, effect):
        allowed = ", ".join(str(v) for v in effect["values"])
        return say("bad-value", "error", path, value, effect["says"], row, f"use one of {allowed}")
    if kind == "read":
        return None
    fix = "it can go" if kind == "inert" else moved(row)
    severity: Severity = "error" if kind == "refused" else "info"
    if kind == "ignored" and not isinstance(value, Unknown):
        idle = harmless(value, effect.get("default")) or said_elsewhere(row, value, launched)
        severity = "info" if idle else "silent"
    return say(kind, severity, path, value, effect["says"], row, fix)


def bad_value(value: Any, effect: Row) -> bool:
    """Whether a value is none of those the release accepts; words for yes and no pass."""
    values = effect.get("values")
    if not values or isinstance(value, (Unknown, dict, list)):
        return False
    if isinstance(value, str) and any(isinstance(v, bool) for v in values):
        return value.lower() not in ("true", "false", "0", "1", *map(str, values))
    return not OPERATORS["in"](value, values)


def said_elsewhere(row: Row, value: Any, launched: Launched) -> bool:
    """Whether the key that a variable became says the same as the variable."""
    if "moved_to" not in row:
        return False
    key = find({"flag": launched.flags}, key_path(row["moved_to"]))
    return key is not None and harmless(key) == harmless(value)


def moved(row: Row) -> str:
    """Return the fix for a name that became a configuration key."""
    if "moved_to" not in row:
        return "remove it"
    return f"give {row['moved_to']} in --additional-config instead (ascend-v4 migrate does it)"


def uncovered(path: str, value: Any, row: Row, target: Target) -> Finding | None:
    """Return the finding on a name that other releases or chips know, not this one."""
    spans = ", ".join(dict.fromkeys(span(e) for e in row["effects"] if e["effect"] != "inert"))
    bounded = any(e.get("since") or e.get("until") for e in row["effects"])
    elsewhere = [
        e for e in row["effects"] if e.get("chips") and not set(e["chips"]) & set(target.chips)
    ]
    if not bounded and not elsewhere:
        return None
    where = f"{target.engine} {target.version} on {target.chips[1]}"
    says = f"{where} doesn't know it; it belongs to {spans or 'other releases'}"
    refused = row["kind"] == "flag" or (row["kind"] == "additional_config" and target.strict_keys)
    if refused and not elsewhere:
        return say("not-in-release", "error", path, value, says, row, "remove it")
    idle = harmless(value) or isinstance(value, Unknown)
    return say("not-in-release", "info" if idle else "silent", path, value, says, row, "remove it")


def span(effect: Row) -> str:
    """Return the releases and chips of an effect in words."""
    since, until = effect.get("since"), effect.get("until")
    text = (
        f"{since} to {until}"
        if since and until
        else (
            f"{since} and later"
            if since
            else f"releases up to {until}"
            if until
            else "every release"
        )
    )
    text = since if since and since == until else text
    return f"{text} on {', '.join(effect['chips'])}" if effect.get("chips") else str(text)


def say(
    ident: str, severity: Severity, path: str, value: Any, says: str, row: Row, fix: str
) -> Finding:
    """Return a finding on a known name."""
    kind = path.split(".")[0] if path.count(".") < 2 else "key"
    confidence: Literal["stated", "measured", "inferred"] = row.get("confidence", "stated")
    text = f"{shown(path, value)}: {says}"
    return Finding(f"{kind}-{ident}", severity, text, fix, str(row["source"]), confidence)


def unknown_name(path: str, value: Any, target: Target, names: Names) -> Finding | None:
    """Return the finding on a name that the catalog doesn't know, if it should."""
    if path.startswith("env."):
        return unknown_variable(path.removeprefix("env."), target, names)
    head, _, rest = path.removeprefix("flag.").partition(".")
    if not rest:
        return unknown_flag(head, target, names)
    return unknown_key(path, target, names) if head in JSON_FLAGS else None


def unknown_variable(name: str, target: Target, names: Names) -> Finding | None:
    """Return the finding on a variable that nobody reads but that looks like one somebody does."""
    known = names.variables
    family = OWNED.get(target.engine, "\0")
    owned = name.startswith(family) and any(other.startswith(family) for other in known)
    if not owned and (len(name) < 8 or "_" not in name):
        return None
    siblings = frozenset(other for other in known if other.startswith(family)) if owned else known
    meant = near(name, siblings, 0.6) if owned else near(name, known)
    if not meant and not owned:
        return None
    fix = f"did you mean {meant}?" if meant else "remove it"
    text = f"{name}: {target.engine} reads no variable of this name in any release"
    return Finding("unknown-variable", "error", text, fix, source_of(meant, names), "inferred")


def source_of(meant: str, names: Names) -> str:
    """Return the source of the variable that was meant, or of the engine's list."""
    row = names.rows.get(f"env.{meant}")
    default = (
        "https://docs.vllm.ai/projects/ascend/en/latest/user_guide/configuration/env_vars.html"
    )
    return str(row["source"]) if row else default


def unknown_flag(name: str, target: Target, names: Names) -> Finding | None:
    """Return the finding on a flag that no known release takes."""
    bare = name.lstrip("-").removeprefix("no-")
    # A unique beginning is taken by argparse; one letter is -O and its like.
    begun = [flag for flag in names.flags if flag.startswith(bare)]
    if bare in names.flags or len(bare) < 3 or len(begun) == 1:
        return None
    meant = near(name, names.flags, 0.8)
    typed = name if name.startswith("-") else f"--{name}"
    text = f"{typed}: no known release of vLLM takes this flag"
    return Finding(
        "unknown-flag",
        "error" if meant else "warn",
        text,
        f"did you mean --{meant}?" if meant else "check `vllm serve --help=all` of the release",
        "https://docs.vllm.ai/en/latest/cli/serve/",
        "inferred",
    )


def unknown_key(path: str, target: Target, names: Names) -> Finding | None:
    """Return the finding on a JSON key that isn't one of its object's."""
    parent, _, key = path.rpartition(".")
    siblings = names.children(parent)
    if key in siblings or not siblings:
        return None
    ours = parent.startswith("flag.additional-config")
    top = parent == "flag.additional-config"
    meant = near(key, siblings, 0.72 if ours else 0.8)
    if not meant and not top:
        return None
    flag = parent.removeprefix("flag.")
    fix = f"did you mean {meant}?" if meant else "remove it"
    return Finding(
        "unknown-key",
        "error",
        f"{key} of --{flag}: no release knows this key{fate(top, target)}",
        fix,
        "vllm-ascend 0.27.1rc1 (sdist), vllm_ascend/ascend_config.py"
        if ours
        else "https://docs.vllm.ai/en/latest/cli/serve/",
        "inferred",
    )


def fate(top: bool, target: Target) -> str:
    """Return what becomes of an unknown ``additional_config`` key on the release."""
    if not top:
        return ""
    if target.strict_keys:
        return f"; {target.engine} {target.version} refuses to start with it"
    return f"; {target.engine} {target.version} ignores it without a word"
