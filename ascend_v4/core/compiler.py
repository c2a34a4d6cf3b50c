"""Compile: from a request and the catalog to one validated launch plan.

The flow is one way. Options: what was asked, else the last matching row of
``choices``. Launch: the last matching row of ``settings`` for each variable, flag and
JSON key, then the user's own arguments on top. Then ``rules`` judge the whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ascend_v4.catalog.load import Catalog, Row
from ascend_v4.errors import AscendV4Error, ExitCode

from .conditions import applies, look_up
from .connectors import connector_facts, pool_of
from .finding import Finding, refusing, worst_first
from .launch import Launch, Words, merge_flags, parse_flags, set_path
from .layout import fit_layout
from .placement import Placement, is_placed
from .plan import LaunchPlan, Validated
from .process import DRAIN_S, build_process
from .request import LaunchRequest
from .resolve import Subject, refuse_devices, resolve
from .rules import break_rules, fill
from .validated import topology_command, validation_of

__all__ = ["Compiled", "choices_of", "compile_plan", "refuse", "relaunch"]

#: Which merged flag tells an option's real value once EXTRA has been laid on top.
FLAG_OF = {
    "tensor_parallel_size": "tensor-parallel-size",
    "data_parallel_size": "data-parallel-size",
    "max_num_seqs": "max-num-seqs",
    "max_num_batched_tokens": "max-num-batched-tokens",
    "block_size": "block-size",
    "context": "max-model-len",
    "gpu_memory_utilization": "gpu-memory-utilization",
    "served_model_name": "served-model-name",
    "host": "host",
    "port": "port",
    "drain_s": "shutdown-timeout",
}


@dataclass(frozen=True)
class Compiled:
    """A plan, with the launch it came from and the row that stated each value."""

    plan: LaunchPlan
    launch: Launch
    facts: dict[str, Any]
    rows: dict[str, Row]


def subject_facts(subject: Subject, request: LaunchRequest, model_path: str) -> dict[str, Any]:
    """Return the facts that don't depend on any choice."""
    checkpoint, chip = subject.checkpoint, subject.chip
    per_node = int(chip["devices_per_node"])
    nodes = request.nodes or 1
    default_devices = chip.get("default_devices", per_node)
    return {
        "engine": subject.engine,
        "version": subject.release["version"],
        "profile": subject.profile,
        "chip": chip["id"],
        "chip_variant": subject.variant,
        "chip_title": chip["title"],
        "chip_memory_gib": chip.get("memory_gib"),
        "checkpoint_gib": round((checkpoint.get("bytes") or 0) / 2**30, 2) or None,
        "devices_per_node": per_node,
        "devices": request.devices or default_devices * nodes,
        "nodes": nodes,
        "checkpoint": checkpoint["id"],
        "checkpoint_spec": checkpoint["spec"],
        "checkpoint_chips": checkpoint["chips"],
        "checkpoint_title": checkpoint["title"],
        "family": checkpoint["family"],
        "o_groups": checkpoint.get("o_groups"),
        "quantization": checkpoint.get("quantization"),
        "nodes_needed": checkpoint.get("nodes", {}).get(chip["id"], 1),
        "capabilities": subject.release.get("capabilities", []),
        "release_checkpoints": list(subject.release.get("checkpoints", {})),
        "model_path": model_path,
        "served_model_name": checkpoint["served_as"],
        "topology": "single-node" if nodes == 1 else "multi-node-dp",
        "role": "mixed",
        "keyed": bool(request.api_key_file),
        "placed": False,
        "drain_s": DRAIN_S if request.drain_s is None else request.drain_s,
    }


def value_of(value: Any, facts: Mapping[str, Any]) -> Any:
    """Return a row's value with ``{option}`` filled in; a lone ``{option}`` keeps its type."""
    if isinstance(value, dict):
        return {key: value_of(leaf, facts) for key, leaf in value.items()}
    if isinstance(value, list):
        return [value_of(leaf, facts) for leaf in value]
    if not isinstance(value, str) or "{" not in value:
        return value
    bare = value[1:-1]
    if value == "{" + bare + "}" and bare in facts:
        return facts[bare]
    return fill(value, facts)


def choose(
    facts: dict[str, Any], request: LaunchRequest, catalog: Catalog
) -> tuple[dict[str, Any], dict[str, str], dict[str, Row]]:
    """Return the facts with every option chosen, the origin of each, and the rows that chose."""
    facts, origins, rows = dict(facts), {}, {}
    asked = request.asked()
    facts.update({name: value for name, value in asked.items() if name in request_options()})
    origins.update({name: request.origins.get(name, "flag") for name in asked})
    for row in catalog.table("choices"):
        name = row["set"]
        if name not in asked and applies(row.get("when", {}), facts, catalog):
            facts[name] = value_of(row["value"], facts)
            origins[name], rows[name] = f"rule:{row['id']}", row
    return facts, origins, rows


def request_options() -> tuple[str, ...]:
    """Return the options whose asked value is a fact as it stands."""
    return (
        *FLAG_OF,
        "workload",
        "concurrency",
        "spec",
        "prefix_caching",
        "fused_mc2",
        "nodes",
        "devices",
    )


def settle(facts: Mapping[str, Any], catalog: Catalog) -> tuple[Launch, dict[str, Row]]:
    """Return the launch that the settings state, and the row behind each value."""
    tree: dict[str, Any] = {"env": {}, "flag": {}}
    rows: dict[str, Row] = {}
    for row in catalog.table("settings"):
        if applies(row.get("when", {}), facts, catalog):
            set_path(tree, row["set"], value_of(row["value"], facts))
            rows[row["set"]] = row
    launch = Launch(tree["env"], tree["flag"], str(facts["model_path"]))
    return launch, rows


def lay_env(launch: Launch, rows: dict[str, Row], env: Mapping[str, str]) -> dict[str, Row]:
    """Lay the user's own variables over the launch; return the rows whose values still stand."""
    launch.env.update(env)
    return {path: row for path, row in rows.items() if path.removeprefix("env.") not in env}


def ours(rows: Mapping[str, Row], extra: tuple[str, ...]) -> set[str]:
    """Return the paths whose values are the catalog's own, nothing of the user's among them."""
    flags = parse_flags(extra)
    return {path for path in rows if look_up(flags, path.removeprefix("flag.")) is None}


def whole(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags; raises AscendV4Error (usage) for a value that is JSON cut short."""
    for name, value in flags.items():
        words = value if isinstance(value, Words) else [value]
        if isinstance(words[0], str) and words[0].lstrip().startswith("{"):
            raise AscendV4Error(
                ExitCode.USAGE,
                "not-json",
                f"--{name} after -- starts like JSON and isn't: {' '.join(map(str, words))}",
                f"--{name} '{{\"key\": value}}'",
            )
    return flags


def lay_extra(
    launch: Launch, facts: dict[str, Any], extra: tuple[str, ...], catalog: Catalog
) -> dict[str, Any]:
    """Lay the user's own arguments over the launch and return the facts they change."""
    launch.flags = merge_flags(launch.flags, whole(parse_flags(extra)))
    facts = dict(facts)
    for option, flag in FLAG_OF.items():
        if flag in launch.flags:
            value = launch.flags[flag]
            numeric = isinstance(facts.get(option), int) and str(value).isdigit()
            facts[option] = int(value) if numeric else value
    facts["spec"] = spec_of(launch, facts)
    facts["env"], facts["flag"] = launch.env, launch.flags
    facts["kv_pool"] = pool_of(launch.flags)
    return facts | derived(facts) | connector_facts(launch.flags, facts, catalog)


def derived(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that follow from others: ranks, device memory in GiB, tokens of a step.

    ``step_tokens`` is what a step takes in which every request decodes, with its drafts.
    """
    tp, dp = (facts.get(name) or 1 for name in ("tensor_parallel_size", "data_parallel_size"))
    ranks = int(tp) * int(dp) if str(tp).isdigit() and str(dp).isdigit() else None
    memory = facts.get("chip_memory_gib")
    used = min(ranks, int(facts["devices"])) if ranks else None
    drafts = look_up(facts, "flag.speculative-config.num_speculative_tokens") or 0
    seqs = str(facts.get("max_num_seqs"))
    both = seqs.isdigit() and str(drafts).isdigit()
    return {
        "ranks": ranks,
        "device_memory_gib_total": memory * used if memory and used else None,
        "step_tokens": int(seqs) * (1 + int(drafts)) if both else None,
    }


def spec_of(launch: Launch, facts: Mapping[str, Any]) -> str:
    """Return mtp, dspark or none as the speculative config of the launch says."""
    config = launch.flags.get("speculative-config")
    method = str(config.get("method", "")) if isinstance(config, dict) else ""
    return "dspark" if method == "dspark" else "mtp" if method.endswith("mtp") else "none"


def default_path(subject: Subject, models: str) -> str:
    """Return where a model's weights are by default: ``<org>--<name>`` below ``models``."""
    hubs = subject.checkpoint.get("hubs", [])
    known = subject.model_id == subject.checkpoint["id"]
    name = hubs[0]["repo"] if known and hubs else subject.model_id
    return f"{models}/{name.replace('/', '--')}"


def choices_of(
    request: LaunchRequest, catalog: Catalog, models: str, placed: dict[str, Any]
) -> dict[str, Any]:
    """Return the facts of a group of a deployment once its options are chosen.

    ``placed`` holds what is known before its processes are placed: topology, role, nodes,
    devices. Raises AscendV4Error (usage) as :func:`compile_plan` does.
    """
    subject = resolve(request, catalog)
    facts = subject_facts(subject, request, request.model_dir or default_path(subject, models))
    facts, origins, _ = choose(facts | placed, request, catalog)
    fit_layout(facts, request, origins)
    return facts


def relaunch(
    launch: Launch, facts: Mapping[str, Any], rows: Mapping[str, Row], extra: tuple[str, ...]
) -> None:
    """Fill the rows that insert a place in anew, in place, and lay EXTRA on top again."""
    tree = {"env": launch.env, "flag": launch.flags}
    for path, row in rows.items():
        if path.startswith(("env.", "flag.")) and is_placed(row):
            set_path(tree, path, value_of(row["value"], facts))
    if extra:
        launch.flags = merge_flags(launch.flags, whole(parse_flags(extra)))


def compile_plan(
    request: LaunchRequest,
    catalog: Catalog,
    models: str = "models",
    placement: Placement | None = None,
    known: dict[str, Any] | None = None,
) -> Compiled:
    """Return the plan of a request, with every rule it breaks among its notes.

    ``models`` is the directory that holds all weights, used when no ``model_dir`` was
    asked for; ``placement`` says which server process of a deployment this is and
    ``known`` holds more facts of its topology. Raises AscendV4Error (usage) for unknown
    or contradictory words; a broken
    rule doesn't raise, see :func:`refuse`.
    """
    subject = resolve(request, catalog)
    if placement is None:
        refuse_devices(request, subject.chip)
    facts = subject_facts(subject, request, request.model_dir or default_path(subject, models))
    placed = {**(known or {}), **(placement.facts() if placement else {})}
    facts, origins, rows = choose(facts | placed, request, catalog)
    facts |= placed
    fit_layout(facts, request, origins)
    launch, stated = settle(facts, catalog)
    stated = lay_env(launch, stated, request.env)
    facts = lay_extra(launch, facts, request.extra, catalog)
    notes = [*subject.notes, *break_rules(facts, catalog, ours(stated, request.extra))]
    validated = validation_of(facts, subject, catalog)
    several = topology_command(facts, subject.model_id, catalog) if placement is None else ""
    notes += validation_notes(validated, subject, request, several)
    origins |= {path: f"rule:{row['id']}" for path, row in stated.items()}
    origins |= {f"env.{name}": "file" for name in request.env}
    plan = LaunchPlan(
        profile=subject.profile,
        engine=subject.engine,
        engine_version=str(subject.release["version"]),
        image=image_of(subject, request),
        chip=subject.variant,
        model_id=subject.model_id,
        model_path=launch.model,
        checkpoint=str(subject.checkpoint["id"]),
        validated=validated,
        processes=(build_process(launch, facts, request, catalog, placement),),
        notes=tuple(worst_first(notes)),
        origins=origins,
    )
    return Compiled(plan, launch, facts, rows | stated)


def image_of(subject: Subject, request: LaunchRequest) -> str:
    """Return the image that was asked for, else the official one of release and chip, or ``""``.

    Raises AscendV4Error (usage) for what is no image, (refused) where none has the operating
    system that was asked for; that of the host is only taken where there is one.
    """
    images: Mapping[str, str] = subject.release.get("images", {})
    chip, asked = subject.chip["id"], request.image
    plain = images.get(chip) or images.get(subject.profile, "")
    plain = plain if subject.profile != "cpu" else ""
    if asked in (None, "ubuntu"):
        return plain
    if asked == "openeuler":
        found = images.get(f"{chip}-openeuler")
        if found is None and request.origins.get("image") != "host":
            what = f"{subject.engine} {subject.release['version']} for {chip}"
            raise AscendV4Error(
                ExitCode.REFUSED,
                "no-image",
                f"there is no official image of {what} with openEuler",
                "--image ubuntu, or --image NAME:TAG",
            )
        return found or plain
    if asked is None or not re.fullmatch(r"[A-Za-z0-9][\w.:/@-]*", asked):
        text = f"'{asked}' is no image: ubuntu, openeuler, or NAME:TAG"
        raise AscendV4Error(ExitCode.USAGE, "bad-image", text, "--image NAME:TAG")
    return asked


def validation_notes(
    validated: Validated, subject: Subject, request: LaunchRequest, several: str = ""
) -> list[Finding]:
    """Return the notes on chips without support and on launches that nobody published.

    ``several`` is what starts a launch over several nodes, empty for one node.
    """
    notes = []
    severity: Any = "warn" if request.allow_unvalidated else "error"
    if "unsupported" in subject.chip:
        notes.append(
            Finding(
                "chip-unsupported",
                severity,
                f"{subject.chip['title']}: {subject.chip['unsupported']}",
                "ascend-v4 profiles lists the chips that work; forks need --allow-unvalidated",
                subject.chip["source"],
            )
        )
    elif validated.status == "unvalidated":
        notes.append(
            Finding(
                "unvalidated",
                severity,
                f"this launch is unvalidated: {validated.source}",
                several or "choose a published one, or take the risk with --allow-unvalidated",
                subject.release["source"],
            )
        )
    return notes


def refuse(plan: LaunchPlan) -> None:
    """Raise AscendV4Error (refused, 3) when the plan breaks a rule that refuses a launch."""
    broken = refusing(plan.notes)
    if broken:
        first = broken[0]
        also = "".join(f"\n  also {note.id}: {note.message}" for note in broken[1:])
        raise AscendV4Error(
            ExitCode.REFUSED,
            first.id,
            f"{first.message} [{first.id}, {first.source}]{also}",
            first.fix,
        )
