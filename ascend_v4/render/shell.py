"""A plan as text for a shell: an environment to source, a command to paste.

Values are always single-quoted, so that nothing in them is expanded.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from ascend_v4.catalog.load import Catalog, Row
from ascend_v4.core.plan import LaunchPlan, Process

__all__ = ["dotenv", "effect_comment", "env_json", "env_shell", "exports", "paste"]


def quote(value: str) -> str:
    """Return a value in single quotes, whatever it holds."""
    return "'" + value.replace("'", "'\\''") + "'"


def spans(versions: Sequence[str], order: Sequence[str]) -> str:
    """Return a set of versions as ranges in the order of publication: ``A to B, C, from D on``."""
    runs: list[list[str]] = []
    for version in order:
        if version not in versions:
            continue
        last = runs[-1][-1] if runs else None
        if last is not None and order.index(last) + 1 == order.index(version):
            runs[-1].append(version)
        else:
            runs.append([version])
    words = []
    for run in runs:
        first, last = run[0], run[-1]
        if first == last and first != order[-1]:
            words.append(first)
        elif last == order[-1]:
            words.append("every release" if first == order[0] else f"{first} and later")
        else:
            words.append(f"{first} to {last}")
    return ", ".join(words)


def effect_comment(name: str, catalog: Catalog) -> str:
    """Return on which engine releases a variable has an effect, in one line, or ``""``."""
    row = catalog.variable(name)
    if row is None:
        return ""
    order = catalog.versions(row["engine"] if row["engine"] != "any" else "vllm-ascend")
    read = [v for v in order if any(has_effect(e, v, order) for e in row["effects"])]
    if not read or read == order:
        return ""
    none = [version for version in order if version not in read]
    moved = f"; moved to {row['moved_to']}" if row.get("moved_to") else ""
    return f"has an effect on {spans(read, order)}; none on {spans(none, order)}{moved}"


def has_effect(effect: Row, version: str, order: Sequence[str]) -> bool:
    """Whether an effect row says that a release reads the variable."""
    since, until = effect.get("since", order[0]), effect.get("until", order[-1])
    inside = order.index(since) <= order.index(version) <= order.index(until)
    return inside and effect["effect"] in ("read", "deprecated")


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
    lines = [f"# {headline(plan)}", *exports(plan, rows, catalog)]
    for name, path in process.secret_env.items():
        lines.append(f'export {name}="$(cat {quote(path)})"')
    if process.unset:
        lines += [
            "# set by nothing in this plan; an old export would spoil it",
            "unset " + " ".join(process.unset),
        ]
    return "\n".join(lines) + "\n"


def exports(plan: LaunchPlan, rows: Mapping[str, Row], catalog: Catalog) -> list[str]:
    """Return an ``export`` line for each variable, with comments on why and where it counts."""
    lines = []
    for name, value in plan.processes[0].env.items():
        lines += [*comments(name, rows, catalog), f"export {name}={quote(value)}"]
    return lines


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
    """Return the exact command, pasteable into a shell, env and argv correctly quoted.

    Secrets are assigned by the shell itself, so that they never stand in an argument list.
    """
    secrets = [f'{name}="$(cat {shlex.quote(path)})"' for name, path in process.secret_env.items()]
    unset = [f"-u {name}" for name in process.unset]
    values = [f"{name}={shlex.quote(value)}" for name, value in process.env.items()]
    head = [" ".join([*secrets, "env", *unset[:4]]), *grouped(unset[4:], 4), *grouped(values, 2)]
    words = [shlex.quote(arg) for arg in process.argv]
    return " \\\n  ".join([*head, *by_flag(words)]) + "\n"


def grouped(words: Sequence[str], size: int) -> list[str]:
    """Return words joined in groups, one group a line."""
    return [" ".join(words[i : i + size]) for i in range(0, len(words), size)]


def by_flag(words: Sequence[str]) -> list[str]:
    """Return an argument list in lines: the program first, then one flag with its values each."""
    lines: list[str] = []
    for word in words:
        if not lines or word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return lines
