"""A sized launch for people: the verdict first, then what decides it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from .output import print_result, print_table

if TYPE_CHECKING:
    from ascend_v4.core.compiler import Compiled
    from ascend_v4.sizing.fit import Sizing

__all__ = ["print_sizing", "print_sweep", "print_terms"]


def between(low: float, high: float, form: str = ",.1f") -> str:
    """Return one number, or two ends where they differ."""
    first, last = format(low, form), format(high, form)
    return first if first == last else f"{first} to {last}"


def print_sizing(compiled: Compiled, sized: Sizing, argv: tuple[str, ...]) -> None:
    """Print the answer of ``plan``; ``argv`` serves it, empty where this package doesn't."""
    from ascend_v4.sizing.layouts import nearest, ranked_layouts, token_cost
    from ascend_v4.sizing.report import bar
    from ascend_v4.sizing.throughput import prefill_decode

    sizing = sized.input
    print_result(f"{sized.verdict}: {sized.reason}")
    print_result(
        f"{sizing.model.get('title', sizing.model.get('id'))} on {sizing.devices} x {sizing.chip}, "
        f"TP{sizing.tp} x DP{sizing.dp}"
        + (f" x PP{sizing.pp}" if sizing.pp > 1 else "")
        + f", {sizing.engine} {sizing.version}, spec {sizing.spec}"
    )
    if sized.verdict == "unsure" and compiled.plan.validated.status == "recipe":
        source = compiled.plan.validated.source
        print_result(f"a tutorial has this layout ({source}); that alone proves no start")
    if sized.pool is None and sized.low is not None:
        print_result("general formulas for another architecture: not the engine's own arithmetic")
    print_memory(sized)
    line = bar(sized)
    if line:
        print_result(line + "  W weights, o other, ? in doubt, k KV, . unused")
    print_kv(sized)
    if sized.pool is not None:
        print_result(
            f"one token of --max-num-batched-tokens costs a request as much KV as "
            f"{token_cost(sized):.0f} tokens of context (plan --sweep shows the trade)"
        )
    print_layouts(compiled, ranked_layouts(sizing))
    for split in prefill_decode(sizing):
        print_result(f"  published prefill to decode {split['ratio']} nodes ({split['anchor']})")
    if sized.verdict != "fits":
        for change in nearest(sizing, sized):
            print_result(f"fits with {change['change']}: {change['reason']}")
    print_throughput(sized)
    if sized.verdict != "does not fit" and argv:
        print_next(compiled, argv)


def print_next(compiled: Compiled, argv: tuple[str, ...]) -> None:
    """Print what starts the launch; nothing for one that ``serve`` refuses."""
    from ascend_v4.catalog.load import catalog
    from ascend_v4.core.finding import refusing
    from ascend_v4.core.validated import topology_command

    several = topology_command(compiled.facts, compiled.plan.model_id, catalog())
    if several:
        print_result(f"next: {several}")
    elif not refusing(compiled.plan.notes):
        print_result("serve it with: " + " ".join(shlex.quote(word) for word in argv))


def experts(row: dict[str, Any]) -> str:
    """Return over how many ranks a layout spreads the experts, nothing for one or a dense model."""
    ranks = row["expert_parallel_size"] or 1
    return f" x EP{ranks}" if ranks > 1 else ""


def print_layouts(compiled: Compiled, rows: list[dict[str, Any]]) -> None:
    """Print the ranked layouts, and why the launch has another than the first."""
    from ascend_v4.sizing.choice import layout_choice, layout_words

    choice = layout_choice(compiled, rows)
    print_result("layouts, best first (by verdict, then by requests at once):")
    for number, row in enumerate(rows, 1):
        if number > 4 and number != choice["rank"]:
            continue
        low, high = row["concurrency"]
        mark = " (this plan)" if number == choice["rank"] else ""
        print_result(
            f"  {layout_words(row)}{experts(row)}{mark}: {row['verdict']}, "
            f"{between(low, high)} requests at once; {row['reason']}"
        )
    if choice["why"]:
        source = f" ({choice['source']})" if choice["source"] else ""
        print_result(
            f"this plan has {choice['served']}: {choice['why']}{source}; "
            f"the first in the ranking with {choice['for_the_first']}"
        )


def print_memory(sized: Sizing) -> None:
    """Print what takes the memory of a device."""
    from ascend_v4.sizing.report import buffers, draft_gib, span

    budget = sized.budget
    if budget is None:
        return
    weights = budget.weights
    about = f"about {weights.estimate:.2f} GiB, " if weights.estimate is not None else ""
    print_result(f"weights a device: {about}{span(weights.bounds)} ({weights.source})")
    drafts = draft_gib(sized)
    if drafts > 0:
        print_result(f"  of it {sized.input.spec} draft layers: {drafts:.2f} GiB")
    state = f"anchor {budget.anchor}, {budget.source}" if budget.calibrated else "not calibrated"
    if budget.proven:
        state = f"a published start proves at least {budget.available.low:.2f} GiB of KV: {state}"
    print_result(f"activations, graphs, buffers: {span(budget.other)} ({state})")
    communication = buffers(sized)
    if communication and communication["count"]:
        of = ", ".join(communication["of"])
        size = "whose size the launch doesn't state"
        if communication["gib"]:
            each, together = communication["mb_each"], communication["gib"]
            size = f"{each} MB each once used, {together} GiB together"
        print_result(
            f"  of it {communication['library']}: {communication['count']} communicators "
            f"({of}), {size}"
        )


def print_kv(sized: Sizing) -> None:
    """Print the KV part."""
    from ascend_v4.sizing.report import fixed_bytes, token_bytes

    low, high = sized.low, sized.high
    if low is None or high is None:
        return
    gib = 2**30
    print_result(
        f"KV of one request: {low.request_bytes / gib:.2f} GiB = "
        f"{fixed_bytes(sized) / gib:.2f} GiB fixed + {token_bytes(sized):,.0f} B a token; "
        f"{low.blocks_per_request:,} blocks of {low.bytes_per_block:,} B"
    )
    replicas = sized.input.dp
    pools = f" a replica, {replicas} replicas" if replicas > 1 else ""
    print_result(
        f"requests of {sized.input.context:,} tokens at once: "
        f"{between(low.max_concurrency, high.max_concurrency, '.2f')}{pools}; the log will print "
        f"{between(low.log_max_concurrency, high.log_max_concurrency, '.2f')}x and "
        f"{between(low.log_kv_tokens, high.log_kv_tokens, ',d')} tokens, which is no capacity"
    )
    if sized.pool is not None:
        longest = between(sized.longest("low"), sized.longest("high"), ",d")
        print_result(f"longest context of one request: {longest} tokens")


def print_throughput(sized: Sizing) -> None:
    """Print the published measurements of the hardware, or that there is none."""
    from ascend_v4.sizing.throughput import interpolated

    said = interpolated(sized.input)
    if said["status"] == "no anchor":
        print_result("throughput: no anchor (nothing published for this model, chip and count)")
        return
    for row in said["anchors"][:3]:
        speed = [f"{row['output_tokens_s']:g} output tokens/s"] if "output_tokens_s" in row else []
        speed += [f"TTFT {row['ttft_ms'] / 1000:g} s"] if "ttft_ms" in row else []
        speed += [f"TPOT {row['tpot_ms']:g} ms"] if "tpot_ms" in row else []
        print_result(
            f"published ({row['id']}): {', '.join(speed)} at {row.get('concurrency', '?')} "
            f"at once, {row.get('input_tokens', '?')} in, {row.get('output_tokens', '?')} out; "
            f"{row['source']}"
        )
    if "interpolated" in said:
        between_ids = " and ".join(said["interpolated"].pop("between"))
        values = ", ".join(f"{name} {value:g}" for name, value in said["interpolated"].items())
        print_result(f"between {between_ids}: {values}")


def print_terms(sized: Sizing) -> None:
    """Print every term with its source."""
    from ascend_v4.sizing.report import terms

    print_table(("term", "value", "source"), terms(sized))


def print_sweep(sized: Sizing, rows: list[dict[str, Any]]) -> None:
    """Print the requests at once by step size and context, the low end where it is in doubt."""
    contexts = list(rows[0]["concurrency"]) if rows else []
    print_result(
        f"requests at once over {sized.input.dp} replica(s), low to high end; 0 does not start"
    )
    table = [
        [
            str(row["max_num_batched_tokens"]),
            *(between(*row["concurrency"][context]) for context in contexts),
        ]
        for row in rows
    ]
    header = ["batched tokens", *(f"{int(context):,}" for context in contexts)]
    print_table(header, table)
