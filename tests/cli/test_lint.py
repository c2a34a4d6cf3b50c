"""``lint``, ``migrate``, ``explain`` and ``releases`` on the command line."""

from __future__ import annotations

import io
import json
import sys

import pytest

from ascend_v4.cli import COMMANDS
from tests.lint.tutorials import LATEST_A2

TINY = (
    "export VLLM_ASCEND_ENABLE_FUSED_MC2=1\nvllm serve Eco-Tech/DeepSeek-V4-Flash-w8a8-mtp -tp 8\n"
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The four commands stand in the table, whoever put them there."""
    for name in ("lint", "migrate", "explain", "releases"):
        monkeypatch.setitem(COMMANDS, name, (name, name))


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Write a script where the command runs and return its name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "run.sh").write_bytes(text.encode())
        return "run.sh"

    return write


def test_lint_prints_place_severity_fix_and_source(ascend, script):
    out = ascend(
        "lint",
        script("MODE=1\n" + LATEST_A2.script()),
        "--engine-version",
        "0.23.0",
        "--chip",
        "a2",
    )
    assert (out.code, out.err) == (3, "")
    first = out.out.split("\nrun.sh")[0].split("\n")
    line = next(n for n, t in enumerate(LATEST_A2.script().split("\n"), 2) if "dsa_cp" in t)
    assert first[0].startswith(f"run.sh:{line}: error: enable_dsa_cp needs FlashComm1")
    assert [row.split(":")[0].strip() for row in first[1:]] == ["line", "fix", "source"]


def test_lint_as_json_and_fail_on(ascend, script):
    name = script(TINY)
    args = ("--engine-version", "0.27.1rc1", "--chip", "a3")
    loud = ascend("lint", name, *args, "--json")
    assert loud.code == 3
    assert {
        "id",
        "severity",
        "message",
        "evidence",
        "fix",
        "source",
        "confidence",
        "since",
        "until",
    } == set(json.loads(loud.out)[0])
    assert ascend("lint", name, *args, "--fail-on", "never").code == 0
    assert ascend("lint", name, *args, "--fail-on", "error").code == 0


def test_lint_reads_stdin(ascend, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TINY.encode())))
    out = ascend("lint", "-", "--engine-version", "0.27.1rc1", "--chip", "a3")
    assert out.code == 3
    assert out.out.startswith("-:1: silent: VLLM_ASCEND_ENABLE_FUSED_MC2")


def test_usage_errors(ascend, script):
    name = script(TINY)
    for args in (
        ("lint", name, "--chip", "zz"),
        ("lint", name, "--chip", "a3", "--engine-version", "9.9"),
        ("lint", name),
        ("lint", "nowhere.sh", "--chip", "a3"),
        ("migrate", name, "--from", "0.23.0", "--to", "9.9", "--chip", "a3"),
        ("explain", "NO_SUCH_NAME_AT_ALL"),
        ("releases", "--check", "9.9"),
    ):
        out = ascend(*args)
        assert (out.code, out.out) == (2, ""), args
        assert out.err.startswith("error: "), args


def test_migrate_prints_the_script_or_a_diff(ascend, script):
    name = script(TINY)
    args = ("--from", "0.26.0rc1", "--to", "0.27.1rc1", "--chip", "a3")
    out = ascend("migrate", name, *args)
    assert out.out == (
        "vllm serve Eco-Tech/DeepSeek-V4-Flash-w8a8-mtp -tp 8"
        " --additional-config '{\"enable_fused_mc2\": 1}'\n"
    )
    assert "became additional_config.enable_fused_mc2" in out.err
    diff = ascend("migrate", name, *args, "--diff").out
    assert diff.startswith(
        "--- run.sh (0.26.0rc1)\n+++ run.sh (0.27.1rc1)\n@@ -1,2 +1 @@\n-export "
    )
    assert json.loads(ascend("migrate", name, *args, "--json").out)["text"] == out.out


def test_migrate_keeps_bytes(ascend, tmp_path):
    path = tmp_path / "run.sh"
    path.write_bytes(b"# \xff\r\nvllm serve m --port 1")
    out = ascend("migrate", path, "--from", "0.23.0", "--to", "0.23.0.post1", "--chip", "a2")
    assert out.out.encode("utf-8", "surrogateescape").endswith(b"\r\nvllm serve m --port 1")


def test_explain_a_plan_and_a_name(ascend):
    plan = ascend("explain", "--chip", "a2", "--", "--seed", "7")
    assert plan.code == 0
    assert "\n\n--seed 7\n  origin: extra, given behind --\n" in plan.out
    assert "\n\n--tensor-parallel-size 8\n  origin: rule:a2-tp, " in plan.out
    rows = json.loads(ascend("explain", "--chip", "a2", "--json").out)["values"]
    assert {"path", "value", "origin", "reason", "effect", "source"} == set(rows[0])
    name = ascend("explain", "USE_MULTI_BLOCK_POOL")
    assert name.out.startswith("USE_MULTI_BLOCK_POOL (vllm-ascend, boolean")
    assert "\n  0.13.0rc3: read [0, 1], default 0; " in name.out


def test_releases_table_and_check(ascend):
    table = ascend("releases", "--chip", "a2", "--model", "flash-0731-w8a8").out.split("\n")
    assert table[0].split()[:3] == ["release", "vllm", "python"]
    assert table[1].startswith("0.25.1rc1 ")
    bad = ascend("releases", "--check", "0.23.0", "--chip", "a3")
    assert (bad.code, bad.out) == (3, "")
    assert "stale KV" in bad.err and "0.23.0.post1" in bad.err
    good = ascend("releases", "--check", "0.23.0.post1", "--chip", "a3")
    assert good.code == 0
    assert good.out.startswith("vllm-ascend 0.23.0.post1 serves its models on a3 (https://")
