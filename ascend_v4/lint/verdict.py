"""One launch on one release: the rules it breaks and the names that release passes over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ascend_v4.catalog.load import Row
from ascend_v4.core.finding import Finding, refusing
from ascend_v4.core.rules import finding_of

from .known import Named, check_names
from .launches import Launched
from .names import Names
from .target import Target, facts_of
from .three import Unknown, governs, holds, paths_of

__all__ = ["FLAG_OF_FACT", "Verdict", "judge_launch", "refused", "rule_paths", "unsaid"]

#: Options of the rules that a flag tells, by fact.
FLAG_OF_FACT = {
    "tensor_parallel_size": "flag.tensor-parallel-size",
    "data_parallel_size": "flag.data-parallel-size",
    "max_num_seqs": "flag.max-num-seqs",
    "max_num_batched_tokens": "flag.max-num-batched-tokens",
    "block_size": "flag.block-size",
    "context": "flag.max-model-len",
    "gpu_memory_utilization": "flag.gpu-memory-utilization",
    "served_model_name": "flag.served-model-name",
    "spec": "flag.speculative-config",
    "num_speculative_tokens": "flag.speculative-config.num_speculative_tokens",
    "prefix_caching": "flag.no-enable-prefix-caching",
    "fused_mc2": "env.VLLM_ASCEND_ENABLE_FUSED_MC2",
    "role": "flag.kv-transfer-config",
    "kv_pool": "flag.kv-transfer-config",
    "ranks": "flag.tensor-parallel-size",
}


@dataclass(frozen=True)
class Verdict:
    """What one launch breaks on one release, and the rules that unknown values keep silent."""

    findings: list[tuple[Finding, list[str]]]
    undecided: list[Row]
    facts: dict[str, Any]


def judge_launch(launched: Launched, target: Target, names: Names) -> Verdict:
    """Return what a launch breaks on the target's release; each finding with its paths."""
    facts = facts_of(launched, target)
    broken, undecided = [], []
    for rule in target.catalog.table("rules"):
        applied = governs(rule.get("applies", {}), facts, target.catalog)
        fires = holds(rule["condition"], facts) if applied is not False else False
        if applied and fires:
            broken.append((finding_of(rule, known_facts(facts)), rule_paths(rule)))
        elif fires is not False:
            undecided.append(rule)
    named = [(f, [path]) for f, path in unsaid(check_names(launched, target, names), broken)]
    return Verdict(broken + named, undecided, facts)


def known_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts without the unknown ones, so that messages don't show them."""
    return {key: value for key, value in facts.items() if not isinstance(value, Unknown)}


def rule_paths(rule: Row) -> list[str]:
    """Return the launch paths that a rule looks at."""
    where = rule.get("applies", {}).get("where")
    paths = paths_of(rule["condition"]) + (paths_of(where) if where else [])
    return [FLAG_OF_FACT.get(path, path) for path in paths]


def unsaid(named: list[Named], broken: list[tuple[Finding, list[str]]]) -> list[Named]:
    """Return the findings on names that no rule has already said at least as gravely."""
    worst = ("error", "silent", "risk", "warn", "info").index
    return [
        (finding, path)
        for finding, path in named
        if not any(
            path in paths and worst(rule.severity) <= worst(finding.severity)
            for rule, paths in broken
        )
    ]


def refused(launched: Launched, target: Target, names: Names) -> list[tuple[Finding, list[str]]]:
    """Return the refusing findings of a launch on a release."""
    verdict = judge_launch(launched, target, names)
    return [pair for pair in verdict.findings if refusing([pair[0]])]
