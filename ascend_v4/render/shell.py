"""A plan as text for a shell: an environment to source, a command to paste.

Values are always single-quoted, so that nothing in them is expanded.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from ascend_v4.catalog.load import Catalog, Row
from ascend_v4.core.plan import LaunchPlan, Process

__all__ = ["dotenv", "effect_comment", "env_json", "env_shell", "paste"]


def quote(value: str) -> str:
    """Return a value in single quotes, whatever it holds."""
    return "'" + value.replace("'", "'\\''") + "'"


def span(effect: Mapping[str, str | None]) -> str:
    """Return the releases of an effect in words."""
    since, until = effect.get("since"), effect.get("until")
    if since and until:
        return since if since == until else f"{since} to {until}"
    return f"from {since} on" if since else f"up to {until}" if until else "every release"


def effect_comment(name: str, catalog: Catalog) -> str:
    """Return on which engine releases a variable has an effect, in one line, or ``""``."""
    row = catalog.variable(name)
    if row is None:
        return ""
    read = [e for e in row["effects"] if e["effect"] in ("read", "deprecated")]
    other = [e for e in row["effects"] if e["effect"] not in ("read", "deprecated")]
    parts = []
    if read and (other or any(e.get("since") or e.get("until") or e.get("chips") for e in read)):
        spans = dict.fromkeys(span(e) for e in read)
        chips = sorted({chip for e in read for chip in e.get("chips", [])})
        where = f", {', '.join(chips)} only" if chips else ""
        parts.append(f"has an effect on {'; '.join(spans)}{where}")
    if other:
        parts.append(f"none on {'; '.join(dict.fromkeys(span(e) for e in other))}")
    if row.get("moved_to"):
        parts.append(f"moved to {row['moved_to']}")
    return "; ".join(parts)


def comments(name: str, rows: Mapping[str, Row], catalog: Catalog) -> list[str]:
    """Return the comment lines above a variable: why it is set, and where it counts."""
    row = rows.get(f"env.{name}")
    lines = [f"# {row['reason']} ({row['source']})"] if row else []
    effect = effect_comment(name, catalog)
    return [*lines, f"# {name}: {effect}"] if effect else lines


def env_shell(plan: LaunchPlan, rows: Mapping[str, Row], catalog: Catalog) -> str:
    """Return the environment of a plan's server as ``export`` and ``unset`` lines.

    Sourcing the text in any POSIX shell sets a child's environment.
    """
    process = plan.processes[0]
    lines = [f"# {headline(plan)}"]
    for name, value in process.env.items():
        lines += [*comments(name, rows, catalog), f"export {name}={quote(value)}"]
    for name, path in process.secret_env.items():
        lines.append(f'export {name}="$(cat {quote(path)})"')
    if process.unset:
        lines += [
            "# set by nothing in this plan; an old export would spoil it",
            "unset " + " ".join(process.unset),
        ]
    return "\n".join(lines) + "\n"


def headline(plan: LaunchPlan) -> str:
    """Return one line that says what a plan is for."""
    return (
        f"{plan.checkpoint} on {plan.chip} with {plan.engine} {plan.engine_version}"
        f" (profile {plan.profile}, {plan.validated.status})"
    )


def dotenv(process: Process) -> str:
    """Return the environment as ``NAME=value`` lines for docker ``--env-file`` and systemd.

    Raises ValueError for a value with a line break, which that format can't hold.
    """
    for name, value in process.env.items():
        if "\n" in value:
            raise ValueError(f"{name} holds a line break, which a dotenv file can't")
    return "".join(f"{name}={value}\n" for name, value in process.env.items())


def env_json(process: Process) -> dict[str, object]:
    """Return the environment with what to unset and where secrets are read from."""
    return {
        "env": dict(process.env),
        "unset": list(process.unset),
        "secret_env": {name: {"file": path} for name, path in process.secret_env.items()},
    }


def paste(process: Process) -> str:
    """Return the exact command as one pasteable shell line, env and argv correctly quoted.

    Secrets are assigned by the shell itself, so that they never stand in an argument list.
    """
    secrets = [f'{name}="$(cat {shlex.quote(path)})"' for name, path in process.secret_env.items()]
    words = [word for name in process.unset for word in ("-u", name)]
    words += [f"{name}={shlex.quote(value)}" for name, value in process.env.items()]
    program = [shlex.quote(arg) for arg in process.argv]
    return " ".join([*secrets, *(["env", *words] if words else []), *program]) + "\n"
