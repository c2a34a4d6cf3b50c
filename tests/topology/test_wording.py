"""Advice for command lines, in the words of a topology file."""

from __future__ import annotations

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.core.request import OPTION_NAMES
from ascend_v4.topology.wording import in_file_words

from .small import PD, changed, checked

SAID = {
    "--tensor-parallel-size 8 or a smaller power of two, and more --data-parallel-size":
        "tensor_parallel_size: 8 or a smaller power of two, and more data_parallel_size",
    "lower --max-num-batched-tokens or --context; ascend-v4 plan --sweep shows the trade":
        "lower options.max_num_batched_tokens or options.context;"
        " ascend-v4 plan --sweep shows the trade",
    "choose a published one, or take the risk with --allow-unvalidated":
        "choose a published one, or take the risk with allow_unvalidated: true",
    "another release, such as --engine-version 0.23.0.post1 or 0.28.0rc1":
        "another release, such as engine_version: 0.23.0.post1 or 0.28.0rc1",
    "--no-fused-mc2": "options.fused_mc2: false",
    "--prefix-caching, or unset the variable":
        "options.prefix_caching: true, or unset the variable",
    "--nodes 2, or --model flash": "2 nodes in the group, or model: flash",
    "--model flash takes the right one for the chip":
        "model: flash takes the right one for the chip",
    "export PYTHONHASHSEED=0": "env: {PYTHONHASHSEED: 0}",
    "--tensor-parallel-size 4, or VLLM_ASCEND_ENABLE_FLASHCOMM1=0":
        "tensor_parallel_size: 4, or env: {VLLM_ASCEND_ENABLE_FLASHCOMM1: 0}",
    "leave --enforce-eager out": "leave --enforce-eager out; flags stand in extra of the group",
    "check `vllm serve --help=all` of the release": "check `vllm serve --help=all` of the release",
    "add --profile ascend, --profile cuda or --profile cpu":
        "add profile: ascend, profile: cuda or profile: cpu",
    "edit t.yaml": "edit t.yaml",
}  # fmt: skip


@pytest.mark.parametrize("text", SAID)
def test_advice_names_keys_of_the_file(text: str) -> None:
    assert in_file_words(text) == SAID[text]
    assert in_file_words(SAID[text]) == SAID[text]


def test_no_rule_advises_an_option_by_its_flag() -> None:
    """Whatever rule fires in a topology, none of its words is a launch option's flag."""
    flags = [f"--{name.replace('_', '-')}" for name in (*OPTION_NAMES, "allow_unvalidated")]
    for row in catalog().table("rules"):
        words = in_file_words(row.get("fix", "")).replace(",", " ").split()
        outside = words if "ascend-v4" not in words else words[: words.index("ascend-v4")]
        assert [word for word in outside if word in flags] == [], row["id"]


def test_findings_of_a_topology_are_worded_so() -> None:
    alone = changed(PD, {"allow_unvalidated": None, "groups.0.data_parallel_size": 2,
                         "groups.0.tensor_parallel_size": 8})  # fmt: skip
    found = [note for note in checked(alone).findings if note.id == "unvalidated"]
    assert [note.fix for note in found] == [
        "choose a published one, or take the risk with allow_unvalidated: true"
    ]


def test_a_rendering_of_options_advises_options(ascend) -> None:
    """No file there: what was typed are flags."""
    outcome = ascend("render", "bash", "--chip", "a3", "--tensor-parallel-size", "8")
    assert outcome.code == 3
    assert outcome.err.splitlines()[-1] == (
        "next:  choose a published one, or take the risk with --allow-unvalidated"
    )
