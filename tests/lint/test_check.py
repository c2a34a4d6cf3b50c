"""Lint: a small catalog for exact outputs, the real one for published launches."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.finding import Evidence, Finding, refusing
from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.lint.check import lint_text
from ascend_v4.lint.names import near
from tests.lint.small import SMALL, SOURCE
from tests.lint.test_script import PIECES
from tests.lint.tutorials import LATEST_A2, TUTORIALS

TINY = "vllm serve org/Tiny-1 --tensor-parallel-size 8 "


def lint(text, version="2.0", name="x.sh", known=SMALL, chip="a2"):
    return lint_text(text, name, None, version, chip, known)


def brief(findings):
    return [(f.id, f.severity, [e.line for e in f.evidence]) for f in findings]


def test_a_broken_rule_names_the_line_of_what_its_condition_looks_at():
    text = f"export X=1\n{TINY} \\\n --additional-config '{{\n  \"mode\": true}}'\n"
    assert lint(text)[0] == Finding(
        "mode-needs-need",
        "error",
        "mode needs NEED",
        "export VLLM_ASCEND_NEED=1",
        SOURCE,
        "stated",
        (Evidence("x.sh", 4, '"mode": true}\''),),
        "2.0",
        None,
    )


def test_the_release_that_a_launch_was_written_for_is_recognised():
    found = lint(f"{TINY} --additional-config '{{\"mode\": true}}'\n")
    assert brief(found) == [("mode-needs-need", "error", [1]), ("other-release", "warn", [1])]
    assert found[1].message == "this looks like a launch for vllm-ascend 1.0, not for 2.0"
    assert found[1].fix == "ascend-v4 migrate FILE --from 1.0 --to 2.0"


def test_rules_that_hang_on_an_unknown_value_stay_silent_and_one_info_says_which():
    found = lint(
        f"vllm serve org/Tiny-1 --tensor-parallel-size $1\n{TINY} --additional-config $2\n"
    )
    assert brief(found) == [("unknown-value", "info", [1]), ("unknown-value", "info", [2])]
    assert [f.message for f in found] == [
        "unknown here: $1; rules that depend on it stay silent: tp-divides",
        "unknown here: $2; rules that depend on it stay silent: mode-needs-need",
    ]


def test_a_checkpoint_that_is_not_recognised_is_said():
    found = lint("vllm serve /data/mine --tensor-parallel-size 3\n")
    assert brief(found) == [("unknown-model", "info", [1])]
    named = lint_text(
        "vllm serve /data/mine --tensor-parallel-size 3\n", "-", None, "2.0", "a2", SMALL, "tiny"
    )
    assert [f.message for f in named] == ["TP 3 does not divide 8"]


def test_misspelt_names_are_errors_with_the_nearest_right_one():
    text = (
        "export VLLM_ASCEND_FATS=1 HCCL_BUFFERSIZE=1 MY_OWN_PORT=3\n"
        f'{TINY} --additional-config \'{{"mood": true, "zzz": 1}}\' --max-num-sequences 3\n'
    )
    found = [f for f in lint(text) if f.id != "other-release"]
    assert [(f.id, f.severity, f.fix, f.evidence[0].line) for f in found] == [
        ("unknown-variable", "error", "did you mean VLLM_ASCEND_FAST?", 1),
        ("unknown-variable", "error", "did you mean HCCL_BUFFSIZE?", 1),
        ("unknown-key", "error", "did you mean mode?", 2),
        ("unknown-key", "error", "remove it", 2),
        ("unknown-flag", "error", "did you mean --max-num-seqs?", 2),
    ]
    assert "ignores it without a word" in found[3].message
    assert "refuses to start with it" in lint(text, "3.0")[3].message


def test_names_that_a_release_passes_over():
    assert brief(lint(f"export VLLM_ASCEND_FAST=1\n{TINY}\n"))[0] == ("env-ignored", "silent", [1])
    assert brief(lint(f"export VLLM_ASCEND_FAST=0\n{TINY}\n")) == [("env-ignored", "info", [1])]
    same = f"export VLLM_ASCEND_FAST=1\n{TINY} --additional-config '{{\"fast\": true}}'\n"
    assert brief(lint(same)) == [("env-ignored", "info", [1])]
    assert brief(lint(f"VLLM_ASCEND_OLD=1 {TINY}\n"))[0] == ("env-not-in-release", "silent", [1])
    assert brief(lint(f"VLLM_ASCEND_FAST=7 {TINY}\n", "1.0")) == [("env-bad-value", "error", [1])]


def test_text_that_vllm_would_never_see_as_meant():
    text = (
        f'{TINY} --additional-config "{{"mode": true}}" --port 1 --port 2 \\\n'
        "  # why\n  --seed 1\n"
        "VLLM_ASCEND_NEED='\n"
    )
    found = lint(text)
    assert brief(found) == [
        ("unclosed-quote", "error", [4]),
        ("not-json", "error", [1]),
        ("cut-command", "error", [2, 3]),
        ("given-twice", "warn", [1]),
    ]
    assert found[1].message == (
        "--additional-config gets {mode: true} once the shell has taken its quotes, which is not "
        "JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    )


def test_exports_alone_are_judged_without_guessing_flags():
    assert brief(lint("VLLM_ASCEND_FAST=1\n", name="x.env"))[0] == ("env-ignored", "silent", [1])
    assert brief(lint("echo hello\n")) == [("no-launch", "warn", [])]


def test_words_that_the_catalog_does_not_know_are_usage_errors():
    for version, chip, model in [("9", "a2", None), ("2.0", "b7", None), ("2.0", "a2", "x")]:
        with pytest.raises(AscendV4Error) as error:
            lint_text("", "-", None, version, chip, SMALL, model)
        assert error.value.code == ExitCode.USAGE
    with pytest.raises(AscendV4Error) as error:
        lint_text("", "-", None, None, None, SMALL)
    assert error.value.kind == "no-chip"


def test_near_leaves_names_with_other_digits_alone():
    assert near("VLLM_USE_V2", frozenset({"VLLM_USE_V1"})) == ""
    assert near("OMP_NUM_THREAD", frozenset({"OMP_NUM_THREADS"})) == "OMP_NUM_THREADS"


# --- the real catalog ---


@pytest.mark.parametrize("name", TUTORIALS)
def test_published_launches_are_clean_on_their_own_release(name):
    tutorial = TUTORIALS[name]
    found = lint(tutorial.script(), tutorial.version, known=catalog(), chip=tutorial.chip)
    assert refusing(found) == []
    assert "other-release" not in [f.id for f in found]


def test_the_latest_a2_command_is_refused_on_0_23_0():
    found = lint(LATEST_A2.script(), "0.23.0", known=catalog())
    line = next(n for n, t in enumerate(LATEST_A2.script().split("\n"), 1) if "enable_dsa_cp" in t)
    assert brief(refusing(found)) == [("dsa-cp-needs-flashcomm1", "error", [line])]
    other = next(f for f in found if f.id == "other-release")
    assert other.message == (
        "this looks like a launch for vllm-ascend 0.27.1rc1 and later, not for 0.23.0"
    )


@pytest.mark.parametrize("chip", ["a2", "a3", "a5"])
def test_our_own_plans_lint_clean_on_every_release(chip):
    known = catalog()
    for version in known.versions("vllm-ascend"):
        release = known.release("vllm-ascend", version)
        if chip not in release["chips"]:
            continue
        request = LaunchRequest(chip=chip, engine_version=version, allow_unvalidated=True)
        process = compile_plan(request, known).plan.processes[0]
        env = " ".join(f"{name}='{value}'" for name, value in process.env.items())
        argv = " ".join(f"'{word}'" for word in process.argv)
        assert refusing(lint(f"{env} {argv}\n", version, known=known, chip=chip)) == [], version


def test_a_script_of_200_lines_is_judged_in_150_ms():
    text = LATEST_A2.script()
    while text.count("\n") < 200:
        text += f'# nothing\nexport MY_{len(text)}=1\nif [ -n "$X" ]; then echo "$Y"; fi\n'
    lint(text, "0.23.0", known=catalog())
    best = 9.0
    for _ in range(5):
        start = time.process_time()
        lint(text, "0.23.0", known=catalog())
        best = min(best, time.process_time() - start)
    assert best < 0.15


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_no_text_stops_lint(text):
    for finding in lint(text):
        assert finding.source and finding.severity in ("error", "silent", "risk", "warn", "info")
