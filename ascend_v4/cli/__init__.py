"""The command line: one file a command, loaded only when it is called.

``main`` is the one exit door: it turns every error into a sentence, the next command
to type and the shared exit code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import click
from click.core import ParameterSource

from ascend_v4 import __version__
from ascend_v4.errors import AscendV4Error, ExitCode

from .output import finish, open_closed, print_error, stdout_lost

__all__ = ["COMMANDS", "cli", "main"]

#: Command name -> (module below this package, one line of help). The line stands here
#: so that ``--help`` imports no command.
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("serve", "Launch the server and wait until it has generated a token."),
    "status": ("status", "Show a run: its state, processes and how it ended."),
    "wait": ("wait", "Wait until a run is ready or stopped."),
    "stop": ("stop", "Drain and stop a run."),
    "logs": ("logs", "Print or follow the logs of a run."),
    "ps": ("ps", "List the runs of this user."),
    "reap": ("reap", "Find and end what a run left behind."),
    "cluster": ("cluster", "Start, stop and watch a deployment over several nodes."),
    "chat": ("chat", "Ask a running server one question."),
    "download": ("download", "Fetch the weights of a profile or model."),
    "verify": ("verify", "Check weights on disk, by header or by every byte."),
    "bundle": ("bundle", "Pack weights and packages for a site without a network."),
    "doctor": ("doctor", "Check whether this host can serve, before loading anything."),
    "diagnose": ("diagnose", "Name the first cause in the logs of a server that died."),
    "topology": ("topology", "Start, check and show a deployment over several nodes."),
    "plan": ("plan", "Say whether a launch fits, with which context and how many requests."),
    "env": ("env", "Print the environment of a launch, ready for eval."),
    "render": ("render", "Write a deployment as bash, docker, systemd, Kubernetes, Slurm, …"),
    "lint": ("lint", "Say what is wrong with a launch script."),
    "migrate": ("migrate", "Rewrite a launch script for another release."),
    "explain": ("explain", "Say where each value of a plan comes from, or what a name has meant."),
    "releases": ("releases", "List which release serves what; --check VERSION."),
    "profiles": ("profiles", "List profiles, chips, models and releases."),
    "engine": ("engine", "Install or show the engine of a profile."),
}


#: What click 8.2 and later raise for a group called with nothing; its text is the whole help.
NO_ARGUMENTS: tuple[type, ...] = tuple(
    found for name in ("NoArgsIsHelpError",) if (found := getattr(click.exceptions, name, None))
)


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, imported now, or None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f".{COMMANDS[cmd_name][0]}", __name__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command, or say which known one is nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from ascend_v4.catalog.load import nearest

            hint = nearest(args[0], list(COMMANDS)) if args else ""
            text = f"{error.message} {hint[:1].upper()}{hint[1:]}".rstrip()
            raise click.UsageError(text, ctx) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V", prog_name="ascend-v4")
def cli() -> None:
    """From a bare host to a verified DeepSeek-V4 endpoint on Ascend NPUs.

    The same commands run on NVIDIA GPUs (--profile cuda) and rehearse on a CPU
    (--profile cpu) with the real vLLM.
    """


def wants_json(args: Sequence[str]) -> bool:
    """Whether ``--json`` stands among our own arguments, before any ``--``."""
    own = list(args)[: list(args).index("--")] if "--" in args else list(args)
    return "--json" in own


def usage_error(error: click.ClickException) -> AscendV4Error:
    """Return click's error as ours, with the help of the command as the next thing to type."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "ascend-v4"
    text = error.format_message()
    if context and isinstance(error, NO_ARGUMENTS):
        group = context.command
        names = group.list_commands(context) if isinstance(group, click.Group) else []
        text = f"{path} needs a command: {', '.join(names)}"
    elif context and isinstance(error, click.BadParameter) and error.param:
        text += came_from(context, error.param)
    return AscendV4Error(ExitCode.USAGE, "usage", text, f"{path} --help")


def came_from(context: click.Context, param: click.Parameter) -> str:
    """Return where a bad value came from, if not from the command line."""
    source = context.get_parameter_source(param.name or "")
    if source is ParameterSource.ENVIRONMENT:
        return f" (from the variable {param.envvar})"
    if source is ParameterSource.DEFAULT_MAP:
        return " (from the file given by --config)"
    return ""


def main(argv: Sequence[str] | None = None, obj: object = None) -> int:
    """Run the command line and return the exit status; never raises for a known failure.

    ``obj`` is the Host to look at, for tests; the real one when None.
    """
    open_closed()
    try:
        return judged(list(sys.argv[1:] if argv is None else argv), obj)
    finally:
        finish()


def judged(args: list[str], obj: object) -> int:
    """Run the command line, and turn what it raises into words and an exit status."""
    try:
        outcome = cli.main(args=args, prog_name="ascend-v4", standalone_mode=False, obj=obj)
        return outcome if isinstance(outcome, int) else 0
    except click.ClickException as error:
        print_error(usage_error(error), as_json=wants_json(args))
        return int(ExitCode.USAGE)
    except AscendV4Error as error:
        print_error(error, as_json=wants_json(args))
        return int(error.code)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader went away (`… | head`); there is nobody left to tell.
        sys.stderr.close()
        return 141
    except OSError as error:
        if not stdout_lost(error):
            raise
        text = f"the result can't be written to stdout: {error.strerror}"
        lost = AscendV4Error(ExitCode.FAULT, "stdout", text, "make room there, or write elsewhere")
        print_error(lost, as_json=wants_json(args))
        return int(ExitCode.FAULT)
