"""Migrate: exact rewrites, nothing else touched, clean and idempotent."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_v4.catalog.load import catalog
from ascend_v4.core.finding import refusing
from ascend_v4.lint.check import lint_text
from ascend_v4.lint.migrate import diff_of, migrate_text
from tests.lint.small import SMALL
from tests.lint.test_script import PIECES
from tests.lint.tutorials import LATEST_A2, TUTORIALS

TINY = "vllm serve org/Tiny-1 --tensor-parallel-size 8"


def migrate(text, old="1.0", new="2.0", known=SMALL, chip="a2"):
    return migrate_text(text, old, new, chip, known, name="x.sh")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            f"# keep\nexport VLLM_ASCEND_FAST=1\nexport A=1 # x\n{TINY}\n",
            f"# keep\nexport A=1 # x\n{TINY} --additional-config '{{\"fast\": true}}'\n",
        ),
        (
            f"export A=1 VLLM_ASCEND_FAST=0\r\n{TINY} \\\r\n  --additional-config '{{}}'\r\n",
            f"export A=1\r\n{TINY} \\\r\n  --additional-config '{{\"fast\": false}}'\r\n",
        ),
        (
            f'VLLM_ASCEND_FAST=1 \\\n B=2 {TINY} --additional-config "{{\\"mode\\": false}}" &\n',
            f'B=2 {TINY} --additional-config "{{\\"fast\\": true, \\"mode\\": false}}" &\n',
        ),
        (
            f"if x; then\n  export VLLM_ASCEND_FAST=1\nfi\n{TINY} \\\n    --port 1\n",
            f"if x; then\n  :\nfi\n{TINY} \\\n    --port 1 \\\n"
            "    --additional-config '{\"fast\": true}'\n",
        ),
        (
            f"docker run -e VLLM_ASCEND_FAST=1 -e B=2 img {TINY}\n",
            f"docker run -e B=2 img {TINY} --additional-config '{{\"fast\": true}}'\n",
        ),
        (f"export VLLM_ASCEND_OLD=1; {TINY}\n", f"{TINY}\n"),
    ],
)
def test_variables_are_dropped_or_become_keys(before, after):
    text, found = migrate(before)
    assert text == after
    assert [f.id for f in found] == ["migrated"]
    assert migrate(after) == (after, [])
    assert refusing(lint_text(text, "x.sh", None, "2.0", "a2", SMALL)) == []


def test_a_key_becomes_the_variable_that_it_was_on_an_older_release():
    before = f'cd /x\n  {TINY} --additional-config \'{{"fast": true, "mode": 1}}\' --port 1\n'
    text, _ = migrate(before, "2.0", "1.0")
    assert text == (
        "cd /x\n  export VLLM_ASCEND_FAST=1\n"
        f"  {TINY} --additional-config '{{\"mode\": 1}}' --port 1\n"
    )


def test_what_the_new_release_requires_is_added():
    before = f"{TINY} --additional-config '{{\"mode\": true}}'\n"
    text, found = migrate(before)
    assert text == f"export VLLM_ASCEND_NEED=1\n{before}"
    assert [(f.id, f.message) for f in found] == [
        ("required", "VLLM_ASCEND_NEED set to 1: mode needs NEED")
    ]
    assert migrate(text)[0] == text


def test_a_value_whose_meaning_changed_is_flagged_and_left_alone():
    before = f"export HCCL_BUFFSIZE=8\n{TINY}\n"
    text, found = migrate(before)
    assert text == before
    assert [(f.id, f.severity, f.evidence[0].line, f.message) for f in found] == [
        ("meaning-changed", "warn", 1, "HCCL_BUFFSIZE in 1.0: read In 2.0: twice as much")
    ]


def test_what_cannot_be_rewritten_in_place_is_left_and_said():
    before = f"bash -c 'export VLLM_ASCEND_FAST=1; {TINY}'\n"
    text, found = migrate(before)
    assert text == before
    assert [(f.id, f.severity) for f in found] == [("env-ignored", "silent"), ("by-hand", "warn")]


def test_bytes_that_are_not_text_come_through():
    before = f"# \udcff\nexport VLLM_ASCEND_OLD=1\n{TINY}"
    assert migrate(before)[0] == f"# \udcff\n{TINY}"


def test_the_diff_is_one_that_patch_reads():
    assert diff_of("a\nb\n", "a\nc", "x", "1.0", "2.0") == (
        "--- x (1.0)\n+++ x (2.0)\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n\\ No newline at end of file\n"
    )


RELEASES = ["0.20.2rc1", "0.23.0.post1", "0.26.0rc1", "0.27.1rc1", "0.30.0rc2"]


@pytest.mark.parametrize("new", RELEASES)
@pytest.mark.parametrize("name", ["0.20.2rc1-a2", "0.25.1rc1-a3", "0.26.0rc1-a2", "0.13.0rc3-a3"])
def test_published_launches_migrate_clean_and_once(name, new):
    tutorial, known = TUTORIALS[name], catalog()
    text, _ = migrate(tutorial.script(), tutorial.version, new, known, tutorial.chip)
    assert refusing(lint_text(text, "x.sh", None, new, tutorial.chip, known)) == []
    assert migrate(text, tutorial.version, new, known, tutorial.chip)[0] == text


def test_the_latest_a2_command_gets_flashcomm1_for_0_23_0():
    before = LATEST_A2.script()
    text, _ = migrate(before, "0.27.1rc1", "0.23.0", catalog())
    assert text == before.replace(
        "vllm serve ", "export VLLM_ASCEND_ENABLE_FLASHCOMM1=1\nvllm serve ", 1
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_a_text_without_our_names_is_not_touched(text):
    assert migrate(text)[0] == text
