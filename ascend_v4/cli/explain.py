"""``ascend-v4 explain``: why the plan says what it says, and what a name has meant."""

from __future__ import annotations

from typing import Any

import click

from .options import json_option, launch_options
from .output import print_json, print_result

__all__ = ["command"]


@click.command("explain")
@click.argument("name", required=False)
@json_option
@launch_options
@click.pass_context
def command(ctx: click.Context, /, name: str | None, as_json: bool, **_options: Any) -> None:
    """Say where each variable and flag of a plan comes from, and what it does.

    With a NAME (a variable, a flag or a JSON key), say what it has meant in every
    release instead.
    """
    from ascend_v4.catalog.load import catalog
    from ascend_v4.lint.explain import explain_name

    if name and not name.startswith("-"):
        rows = explain_name(name, catalog())
        if as_json:
            print_json(rows)
        else:
            print_result("\n\n".join(name_lines(row) for row in rows))
        return
    if name:
        # `explain -- --max-num-seqs 4`: click gave the first argument behind -- to NAME.
        ctx.params["extra"] = (name, *ctx.params["extra"])
    explain_command(ctx, as_json)


def explain_command(ctx: click.Context, as_json: bool) -> None:
    """Explain the plan of the command line; a refused plan is explained too."""
    from ascend_v4.catalog.load import catalog
    from ascend_v4.lint.explain import explain_plan

    from .options import request_of
    from .output import print_findings
    from .planning import compiled_request, host_of

    request = request_of(ctx)
    compiled = compiled_request(request, host_of(ctx))
    rows = explain_plan(compiled, request.extra, catalog())
    print_findings(note for note in compiled.plan.notes if note.severity != "info")
    plan = compiled.plan
    head = f"{plan.checkpoint} on {plan.chip} with {plan.engine} {plan.engine_version}"
    if as_json:
        print_json(
            {
                "plan": head,
                "validated": {"status": plan.validated.status, "source": plan.validated.source},
                "values": rows,
                "unset": list(plan.processes[0].unset),
            }
        )
        return
    text = [f"{head}: {plan.validated.status} ({plan.validated.source})", *map(value_lines, rows)]
    print_result("\n\n".join(text))


def written(path: str, value: Any) -> str:
    """Return a path and its value as a script would write them."""
    kind, _, name = path.partition(".")
    if kind == "env":
        return f"{name}={value}"
    head, dot, key = name.partition(".")
    if dot:
        return f"--{head} {key}: {value}"
    return f"--{head}" if value is True else f"--{head} {value}"


def value_lines(row: dict[str, Any]) -> str:
    """Return the text on one value of a plan."""
    lines = [written(row["path"], row["value"]), f"  origin: {row['origin']}, {row['reason']}"]
    if row["effect"]:
        lines.append(f"  effect: {row['effect']['kind']}; {row['effect']['says']}")
    if row["source"]:
        lines.append(f"  source: {row['source']}")
    return "\n".join(lines)


def name_lines(row: dict[str, Any]) -> str:
    """Return the text on one name: its meaning, its history, our settings and the rules."""
    kind, _, name = row["path"].partition(".")
    head, dot, key = name.partition(".")
    title = name if kind == "env" else f"{key} of --{head}" if dot else f"--{head}"
    about = f" ({row['engine']}, {row['type']})" if row["engine"] else ""
    lines = [f"{title}{about}"]
    lines += [f"  {row['meaning']}"] if row["meaning"] else []
    lines += [f"  moved to {row['moved_to']}"] if row["moved_to"] else []
    for effect in row["history"]:
        chips = f" on {', '.join(effect['chips'])}" if effect["chips"] else ""
        values = f" [{', '.join(map(str, effect['values']))}]" if effect["values"] else ""
        default = f", default {effect['default']}" if effect["default"] is not None else ""
        head_ = f"{effect['releases']}{chips}: {effect['effect']}{values}{default}"
        lines.append(f"  {head_}; {effect['says']}")
    lines += [f"  we set {s['value']} [{s['id']}]: {s['reason']}" for s in row["set_by"]]
    lines += [f"  rule {r['id']} ({r['severity']}): {r['message']}" for r in row["rules"]]
    lines += [f"  source: {row['source']}"] if row["source"] else []
    return "\n".join(lines)
