"""The options of ``serve`` that say how to run a plan, not what the plan is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from .types import Amount, ReadyDescriptor, ReadyFile

__all__ = ["run_options"]

Command = TypeVar("Command", bound=Callable[..., Any])
SECONDS = Amount(min=0)

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    (
        "--runtime",
        {
            "type": click.Choice(["native", "docker", "auto"]),
            "default": "auto",
            "help": "Where the engine runs: here, or in the official image.",
        },
    ),
    ("--detach", {"is_flag": True, "help": "Start in the background and print the run id."}),
    (
        "--deadline",
        {
            "type": Amount(min=1),
            "metavar": "SECONDS",
            "help": "Longest start (30 min, Pro 60 min).",
        },
    ),
    (
        "--drain-timeout",
        {
            "type": click.IntRange(min=0),
            "metavar": "SECONDS",
            "help": "How long running requests may finish (60).",
        },
    ),
    (
        "--ready-check",
        {
            "type": click.Choice(["none", "generate", "gate"]),
            "default": "generate",
            "show_default": True,
            "help": "Ready when it listens, has generated a token, or answers right.",
        },
    ),
    (
        "--check-engine/--no-check-engine",
        {
            "default": True,
            "show_default": True,
            "help": "Ask the installed engine's own parser and start-up checks first.",
        },
    ),
    (
        "--ready-fd",
        {"type": ReadyDescriptor(), "metavar": "FD", "help": "Write one line there when ready."},
    ),
    (
        "--ready-file",
        {
            "type": ReadyFile(),
            "metavar": "FILE",
            "help": "A file that exists while it serves.",
        },
    ),
    (
        "--restart",
        {
            "type": click.Choice(["no", "on-failure"]),
            "default": "no",
            "show_default": True,
            "help": "Start again after a failure that a new start can cure.",
        },
    ),
    (
        "--probe-interval",
        {
            "type": SECONDS,
            "default": 30.0,
            "show_default": True,
            "metavar": "SECONDS",
            "help": "One-token probes while serving; 0 for none.",
        },
    ),
    (
        "--probe-timeout",
        {
            "type": Amount(min=0.1),
            "default": 15.0,
            "show_default": True,
            "metavar": "SECONDS",
            "help": "How long a probe may take.",
        },
    ),
]


def run_options(command: Command) -> Command:
    """Add the options to a command, in the order of the table."""
    for declaration, settings in reversed(OPTIONS):
        variable = "ASCEND_V4_" + declaration.lstrip("-").replace("-", "_").upper()
        command = click.option(declaration, envvar=variable, **settings)(command)
    return command
