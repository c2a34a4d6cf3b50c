"""What every rendering shares: names, a header, and the reasons behind each value."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ascend_v4 import __version__
from ascend_v4.core.conditions import look_up
from ascend_v4.core.launch import read_value
from ascend_v4.core.plan import Process
from ascend_v4.topology.deployment import Deployment

from .yours import MADE

__all__ = [
    "ROUTER_PACKAGE",
    "argv_lines",
    "flag_reason",
    "group_label",
    "header",
    "is_secret",
    "made_by_us",
    "quote",
    "quoted",
    "reason",
    "resource_name",
    "secrets_of",
    "unexpanded",
]

#: The router of the catalog's `routers` table, as pip names it.
ROUTER_PACKAGE = "vllm-router==0.1.17"
LONGEST = 50
#: First line of each file, and how a file of ours is told from the user's own.
MADE_BY = f"{MADE} {__version__} render"


def made_by_us(path: Path) -> bool:
    """Whether a file says that render made it; one that can't be read is the user's."""
    try:
        return MADE in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def header(deployment: Deployment, target: str, *more: str) -> list[str]:
    """Return the comment lines (without ``#``) that open a file."""
    plan = deployment.nodes[0].plan
    lines = [
        f"{MADE_BY} {target}; edit the topology and render again.",
        f"{deployment.topology.name}: {plan.checkpoint} on {plan.chip} with {plan.engine}"
        f" {plan.engine_version} ({plan.validated.status})",
    ]
    unsure = [note for note in deployment.notes() if note.severity in ("risk", "warn")]
    lines += [f"{note.severity}: {note.message} ({note.source})" for note in unsure]
    return [*lines, *more]


def reason(deployment: Deployment, process: Process, path: str) -> str:
    """Return why a value stands, ``why (source)``, or ``""``; path is env.NAME or flag.name."""
    row = deployment.rows.get(deployment.group_of(process), {}).get(path)
    return f"{row['reason']} ({row['source']})" if row else ""


def flag_reason(deployment: Deployment, process: Process, words: Sequence[str]) -> str:
    """Return why a flag stands, a line for each key of a JSON-valued one, or ``""``.

    A flag may also be the negation (``--no-x``) of its row's. A key that another row took away
    again has no reason to stand.
    """
    group, name = deployment.group_of(process), words[0].removeprefix("--")
    rows = deployment.flag_rows
    found = list(rows.get((group, name), ()))
    bare = name.removeprefix("no-")
    if bare != name:
        found += [(key, row) for key, row in rows.get((group, bare), ()) if not key]
    value = read_value(words[1]) if len(words) > 1 else None
    if isinstance(value, dict):
        found = [(key, row) for key, row in found if not key or look_up(value, key) is not None]
    return "\n".join(f"{key and f'{key}: '}{row['reason']} ({row['source']})" for key, row in found)


def argv_lines(process: Process) -> list[list[str]]:
    """Return the argument list in groups: the program first, then a flag with its values each."""
    groups: list[list[str]] = []
    for word in process.argv:
        if not groups or word.startswith("--"):
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups


def secrets_of(deployment: Deployment) -> dict[str, str]:
    """Return every secret variable with the file that holds it."""
    found: dict[str, str] = {}
    for _, process in deployment.processes():
        found.update(process.secret_env)
    return found


def is_secret(deployment: Deployment) -> bool:
    """Whether the deployment needs a secret at all."""
    return bool(secrets_of(deployment))


def group_label(deployment: Deployment, process: Process) -> str:
    """Return the group of a server, ``router`` for the router."""
    return deployment.group_of(process) or process.role


def resource_name(*parts: str) -> str:
    """Return a label that leaves room for pod indices in 63 characters, as Services want it.

    RFC 1035: it starts with a letter, so a name that starts with a digit gets one. A name that
    is too long is cut and told apart by a hash.
    """
    name = "-".join(part for part in parts if part)
    name = f"v4-{name}" if name[:1].isdigit() else name
    if len(name) <= LONGEST:
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: LONGEST - 9].rstrip('-')}-{mark}"


@lru_cache(maxsize=4096)
def quote(word: str) -> str:
    """Return a word quoted for a shell; a comma is quoted too, or an array looks misspelt."""
    quoted = shlex.quote(word)
    return f"'{word}'" if quoted == word and "," in word else quoted


def quoted(words: Sequence[str]) -> tuple[str, ...]:
    """Return words quoted for a shell."""
    return tuple(quote(word) for word in words)


def unexpanded(word: str) -> str:
    """Return a word of a container's or a probe's command that Kubernetes expands nothing in.

    It replaces ``$(NAME)`` and reads ``$$`` as one dollar sign:
    https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/
    """
    return re.sub(r"\$(?=[$(])", "$$", word)
