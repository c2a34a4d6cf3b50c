"""A bash script that starts processes, waits, and ends all of them with the first.

What several processes of a group share is written once, with its reasons; each process
then adds its own ranks, ports and devices. Every word is already text for the shell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Entry", "Part", "script"]


@dataclass(frozen=True)
class Part:
    """Some shell words with the reason they stand; ``words`` of a variable is its value."""

    words: tuple[str, ...]
    reason: str = ""
    name: str = ""


@dataclass(frozen=True)
class Entry:
    """One process: its variables, what to unset, secrets by file, and its argument list."""

    name: str
    group: str
    program: tuple[str, ...]
    env: tuple[Part, ...] = ()
    unset: tuple[str, ...] = ()
    secrets: tuple[Part, ...] = ()
    #: The arguments in order; processes of a group share words within a section only.
    sections: tuple[tuple[Part, ...], ...] = ()
    note: str = ""
    #: What removes the process for good once its grace is over, where a kill is not enough.
    removal: tuple[str, ...] = field(default=())


HEAD = """\
set -euo pipefail

declare -A started=()

log_to() { # NAME: write to a log of its own in $LOG_DIR, if that is set
  if [[ -n ${LOG_DIR:-} ]]; then exec >>"$LOG_DIR/$1.log" 2>&1; fi
}

finish() { # STATUS: drain, then end what is left
  local pid alive
  trap '' TERM INT
  for pid in "${!started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for ((tenth = 0; tenth < GRACE * 10; tenth++)); do
    alive=
    for pid in "${!started[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then alive=1; fi
    done
    if [[ -z $alive ]]; then break; fi
    sleep 0.1
  done
  for pid in "${!started[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
REMOVALS  exit "$1"
}

trap 'finish 143' TERM
trap 'finish 130' INT
"""

JOB_CONTROL = (
    "# Job control: each process in a group of its own, so Ctrl-C reaches this script alone."
)
TAIL = """
# The first process to end, however it ends, ends the others: a deployment with a part
# missing serves nobody.
while :; do
  for pid in "${!started[@]}"; do
    if ! kill -0 "$pid" 2>/dev/null; then
      status=0
      wait "$pid" || status=$?
      echo "${started[$pid]} ended (status $status); stopping the rest" >&2
      finish "$status"
    fi
  done
  sleep 1 &
  wait $!
done
"""


def identifier(name: str) -> str:
    """Return a name for a shell function or array."""
    return re.sub(r"\W", "_", name)


def common(parts: Sequence[Sequence[Part]]) -> set[Part]:
    """Return the parts that stand in every one of the lists."""
    return set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()


def commented(reason: str, indent: str, width: int = 98) -> list[str]:
    """Return a reason as comment lines; a URL is never broken."""
    lines = []
    for text in reason.splitlines():
        line = f"{indent}#"
        for word in text.split():
            if len(line) + 1 + len(word) > width and line.strip() != "#":
                lines.append(line)
                line = f"{indent}#"
            line += f" {word}"
        lines.append(line)
    return lines


def exports(parts: Sequence[Part], indent: str = "  ") -> list[str]:
    """Return an export line for each variable, its reason above."""
    lines = []
    for part in parts:
        lines += [*commented(part.reason, indent), f"{indent}export {part.name}={part.words[0]}"]
    return lines


def array(name: str, parts: Sequence[Part], indent: str = "") -> list[str]:
    """Return an array of arguments, one flag a line, its reason above."""
    lines = [f"{indent}{name}=("]
    for part in parts:
        inner = indent + "  "
        lines += [*commented(part.reason, inner), inner + " ".join(part.words)]
    return [*lines, f"{indent})"]


def arrays(kind: str, count: int) -> list[str]:
    """Return the names of the arrays of each section."""
    return [kind if count == 1 else f"{kind}{nth}" for nth in range(1, count + 1)]


def body(entry: Entry, shared_env: set[Part], shared: Sequence[set[Part]]) -> list[str]:
    """Return the function that becomes one process."""
    group = identifier(entry.group)
    lines = [*commented(entry.note, ""), f"{identifier(entry.name)}() {{"]
    lines.append(f"  log_to {entry.name}")
    if shared_env or entry.unset:
        lines.append(f"  {group}_env")
    lines += exports([part for part in entry.env if part not in shared_env])
    for secret in entry.secrets:
        # Apart, so that a file that can't be read stops the start.
        lines += [f"  {secret.name}={secret.words[0]}", f"  export {secret.name}"]
    words = [*entry.program]
    for name, section, common_parts in zip(
        arrays("args", len(shared)), entry.sections, shared, strict=True
    ):
        own = [part for part in section if part not in common_parts]
        lines += array(f"local {name}", own, "  ") if own else []
        words += [f'"${{{group}_{name}[@]}}"'] if common_parts else []
        words += [f'"${{{name}[@]}}"'] if own else []
    return [*lines, f"  exec {' '.join(words)}", "}", ""]


def unset_lines(names: Sequence[str]) -> list[str]:
    """Return one unset command, a few names a line."""
    rows = [" ".join(names[first : first + 3]) for first in range(0, len(names), 3)]
    joined = " \\\n    ".join(rows)
    return f"  unset {joined}".splitlines()


def group_lines(entries: Sequence[Entry]) -> list[str]:
    """Return what the processes of a group share, then a function for each."""
    group = identifier(entries[0].group)
    shared_env = common([entry.env for entry in entries])
    sections = list(zip(*(entry.sections for entry in entries), strict=True))
    shared = [common(section) for section in sections]
    lines = []
    if shared_env or entries[0].unset:
        lines.append(f"{group}_env() {{")
        if entries[0].unset:
            lines.append("  # set by nothing in this plan; an old export would spoil it")
            lines += unset_lines(entries[0].unset)
        lines += [*exports([part for part in entries[0].env if part in shared_env]), "}", ""]
    for name, section, common_parts in zip(
        arrays("args", len(shared)), sections, shared, strict=True
    ):
        if common_parts:
            kept = [part for part in section[0] if part in common_parts]
            lines += [*array(f"{group}_{name}", kept), ""]
    for entry in entries:
        lines += body(entry, shared_env, shared)
    return lines


def script(
    header: Sequence[str],
    entries: Sequence[Entry],
    grace_s: int,
    *,
    prepare: Sequence[str] = (),
    shebang: bool = True,
) -> str:
    """Return the whole script.

    ``header`` is comment lines without ``#``; ``prepare`` are lines that run first;
    ``grace_s`` is how many seconds the processes have to end by themselves.
    """
    removals = "".join(
        f"  {' '.join(entry.removal)} >/dev/null 2>&1 || true\n"
        for entry in entries
        if entry.removal
    )
    lines = ["#!/usr/bin/env bash"] if shebang else []
    for text in header:
        lines += commented(text, "") or ["#"]
    lines += [*prepare, *HEAD.replace("REMOVALS", removals).splitlines(), ""]
    lines.insert(lines.index("declare -A started=()"), f"GRACE={grace_s} # seconds")
    groups = dict.fromkeys(entry.group for entry in entries)
    for group in groups:
        lines += group_lines([entry for entry in entries if entry.group == group])
    lines += [JOB_CONTROL, "set -m"]
    for entry in entries:
        lines += [f"{identifier(entry.name)} &", f"started[$!]={entry.name}"]
    lines.append("set +m")
    return "\n".join(lines) + "\n" + TAIL
