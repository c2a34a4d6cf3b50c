"""Lint and the compiler judge alike: a rule's own broken launch, pasted as a script, is found."""

from __future__ import annotations

import shlex

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.core.launch import to_argv
from ascend_v4.lint.check import lint_text
from tests.catalog.broken import broken_facts

EXAMPLES = [rule for rule in catalog().table("rules") if "broken" in rule]


def script_of(facts):
    """Return a launch's facts as a pasted command."""
    env = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in facts["env"].items())
    argv = ["vllm", "serve", facts["model_path"], *to_argv(facts["flag"])]
    return f"{env} {shlex.join(argv)}\n"


@pytest.mark.parametrize("rule", EXAMPLES, ids=[rule["id"] for rule in EXAMPLES])
def test_lint_finds_what_breaks_a_rule(rule):
    facts = broken_facts(rule["broken"])
    options = {**rule["broken"]["base"], **rule["broken"].get("options", {})}
    found = lint_text(
        script_of(facts),
        "x.sh",
        facts["engine"],
        facts["version"],
        facts["chip_variant"],
        catalog(),
        options.get("model", facts["checkpoint"]),
    )
    assert rule["id"] in [finding.id for finding in found]
