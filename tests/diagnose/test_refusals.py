"""The engine's own refusals, known by the launch rules that quote them."""

import pytest

from ascend_v4.diagnose import diagnose_lines
from ascend_v4.diagnose.refusals import engine_rules

RULES = engine_rules(None, None)


@pytest.mark.parametrize(("words", "row"), RULES, ids=[row["id"] for _, row in RULES])
def test_every_telling_refusal_is_recognised(words, row):
    found = diagnose_lines(
        [f"(EngineCore pid=9) ERROR 07-21 10:00:05 [x.py:1] ValueError: {words}."]
    )
    # Releases word one refusal alike, and some are signatures too.
    assert found.verdict in ("found", "unsure")
    assert found.cause is not None or found.warnings
    if found.cause is not None and found.cause.row["title"] == "the engine refused the launch":
        assert found.server_exit == 3
        assert "{" not in found.cause.row["cause"] + found.cause.row["fix"]


@pytest.mark.parametrize(("words", "row"), RULES, ids=[row["id"] for _, row in RULES])
def test_the_same_words_in_an_ordinary_line_are_nothing(words, row):
    found = diagnose_lines([f"INFO 07-21 10:00:05 [x.py:1] {words}"])
    assert found.cause is None or found.cause.row["title"] != "the engine refused the launch"


def test_a_rule_of_another_release_is_left_out():
    both = {row["id"] for _, row in engine_rules("vllm-ascend", "0.26.0rc1")}
    late = {row["id"] for _, row in engine_rules("vllm-ascend", "0.30.0rc2")}
    assert "xlite-no-draft" not in both | late
    assert "mega-moe-tokens" in late
    assert all(row["id"] != "mega-moe-tokens" for _, row in engine_rules("vllm", None))


def test_a_signature_that_stands_alone_is_preferred():
    oom = "ERROR 07-21 10:00:05 [x.py:1] RuntimeError: NPU out of memory. Tried to allocate 1 GiB"
    words = RULES[0][0]
    found = diagnose_lines([f"ERROR 07-21 10:00:04 [x.py:1] ValueError: {words}", oom])
    assert found.cause.id == "npu-oom-alloc"
