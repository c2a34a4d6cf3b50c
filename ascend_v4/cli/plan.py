"""``ascend-v4 plan``: does it fit, how long a context, how many requests at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option, launch_options, request_of
from .output import print_findings, print_json
from .plan_hardware import MEMORY, described, here
from .planning import compiled_request, host_of

if TYPE_CHECKING:
    from ascend_v4.core.compiler import Compiled
    from ascend_v4.core.request import LaunchRequest
    from ascend_v4.sizing.fit import Sizing

__all__ = ["command", "sized_launch"]

SUBCOMMANDS = {
    "compare-releases": "What changing the engine's release does to the same launch.",
    "compare-models": "The same hardware with other models.",
    "scale": "Nodes and prefill to decode ratio for a load, from measurements only.",
}


class PlanCommand(click.Command):
    """``plan`` itself, which hands over to a subcommand when its name comes first."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **more: Any,
    ) -> click.Context:
        """Return this command's context, or the subcommand's."""
        if args and args[0] in SUBCOMMANDS:
            from .plan_more import MORE

            chosen = MORE[args[0]]
            return chosen.make_context(f"{info_name} {args[0]}", args[1:], parent, **more)
        if args and not args[0].startswith("-"):
            raise unknown_subcommand(args[0])
        return super().make_context(info_name, args, parent, **more)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands below the options."""
        with formatter.section("Subcommands, named first"):
            formatter.write_dl(list(SUBCOMMANDS.items()))


def unknown_subcommand(word: str) -> AscendV4Error:
    """Return the error for a first word that is no subcommand of ``plan``."""
    from ascend_v4.catalog.load import nearest

    hint = nearest(word, list(SUBCOMMANDS))
    return AscendV4Error(
        ExitCode.USAGE,
        "unknown-subcommand",
        f"plan has no subcommand '{word}'; there are {', '.join(SUBCOMMANDS)}. {hint}".rstrip(),
        "ascend-v4 plan --hardware 4xh200, or ascend-v4 plan --help",
    )


def sized_launch(
    ctx: click.Context, request: LaunchRequest, options: dict[str, Any]
) -> tuple[Compiled, Sizing]:
    """Return the compiled launch of a request and its sizing."""
    from ascend_v4.sizing.fit import size
    from ascend_v4.sizing.groups import GroupingError
    from ascend_v4.sizing.inputs import inputs_of

    try:
        compiled = compiled_request(request, host_of(ctx))
    except AscendV4Error as error:
        raise here(error) from error
    asynchronous = False if options.get("no_async_scheduling") else None
    directory = request.model_dir or compiled.plan.model_path
    sizing = inputs_of(compiled, directory, options.get("available_kv_gib"), asynchronous)
    try:
        return compiled, size(sizing)
    except GroupingError as error:
        raise AscendV4Error(
            ExitCode.REFUSED,
            "kv-grouping",
            f"{sizing.engine} {sizing.version} stops while grouping these caches: {error}",
            "ascend-v4 plan with another --block-size or release",
        ) from error


@click.command("plan", cls=PlanCommand)
@click.option("--hardware", metavar="NxCHIP|host", help="2xa3 (nodes), 4xh200 (devices), host.")
@MEMORY
@click.option("--no-async-scheduling", is_flag=True, help="As the engine's own flag.")
@click.option("--sweep", is_flag=True, help="Requests at once by step size and context.")
@click.option("--explain", is_flag=True, help="Every term with its source.")
@click.option(
    "--from-log",
    type=click.Path(exists=True, dir_okay=False),
    help="Calibrate with a startup log, and compare line by line.",
)
@click.option("--plot", type=click.Path(dir_okay=False), help="Picture (png or svg).")
@json_option
@launch_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    hardware: str | None,
    sweep: bool,
    explain: bool,
    from_log: str | None,
    plot: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Say whether a launch fits: weights, KV blocks to the engine's integer, the rest.

    Exits 0 when it fits, 5 when it does not, 16 when nothing published decides it.
    """
    request = described(ctx, request_of(ctx), hardware)
    if from_log:
        from .plan_more import calibrate

        return calibrate(ctx, request, from_log, options, as_json)
    compiled, sized = sized_launch(ctx, request, options)
    if plot:
        from ascend_v4.sizing.plot import draw

        draw(sized, plot)
    if sweep:
        from ascend_v4.sizing.layouts import sweep as tabulate

        from .plan_text import print_sweep

        rows = tabulate(sized.input)
        if as_json:
            print_json({"sweep": rows, "replicas": sized.input.dp})
        else:
            print_sweep(sized, rows)
        return sized.exit_code
    show(compiled, sized, as_json, explain)
    return sized.exit_code


def serving(compiled: Compiled, sized: Sizing) -> tuple[str, ...]:
    """Return the command that serves the plan, empty for a model that isn't DeepSeek-V4."""
    return tuple(compiled.plan.processes[0].argv) if sized.input.model["kind"] == "v4" else ()


def show(compiled: Compiled, sized: Sizing, as_json: bool, explain: bool) -> None:
    """Print the answer as JSON or as text; findings of rules stand beside it."""
    from ascend_v4.sizing.choice import layout_choice
    from ascend_v4.sizing.guides import guide_errors
    from ascend_v4.sizing.report import sizing_json, terms

    notes = [*compiled.plan.notes, *guide_errors(sized)]
    if as_json:
        flags = list(serving(compiled, sized))
        answer = sizing_json(sized, notes, flags)
        answer["layout_choice"] = layout_choice(compiled, answer["layouts"])
        if explain:
            answer["terms"] = [
                {"term": name, "value": value, "source": source}
                for name, value, source in terms(sized)
            ]
        print_json(answer)
        return
    from .plan_text import print_sizing, print_terms

    print_findings(note for note in notes if note.severity != "info")
    print_sizing(compiled, sized, serving(compiled, sized))
    if explain:
        print_terms(sized)
