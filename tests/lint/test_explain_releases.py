"""Explain and releases: where values come from, what names have meant, what serves what."""

from __future__ import annotations

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.lint.explain import explain_name, explain_plan
from ascend_v4.lint.releases import check_release, list_releases
from tests.lint.small import SMALL, SOURCE


def explained(**asked):
    known = catalog()
    request = LaunchRequest(allow_unvalidated=True, **asked)
    rows = explain_plan(compile_plan(request, known), request.extra, known)
    return {row["path"]: row for row in rows}


def test_every_value_of_a_plan_has_an_origin_and_a_source():
    for chip in ("a2", "a3", "a5", "h200"):
        for row in explained(chip=chip).values():
            assert row["origin"].startswith("rule:"), row
            assert row["reason"] and row["source"], row


def test_what_was_asked_for_and_what_stands_behind_the_dashes():
    rows = explained(
        chip="a3",
        max_num_seqs=4,
        origins={"max_num_seqs": "variable"},
        extra=("--seed", "7", "--additional-config", '{"enable_cpu_binding": false}'),
    )
    origins = {path: (row["value"], row["origin"]) for path, row in rows.items()}
    assert origins["flag.max-num-seqs"] == (4, "variable")
    assert origins["flag.seed"] == ("7", "extra")
    assert origins["flag.additional-config.enable_cpu_binding"] == (False, "extra")
    assert origins["flag.tensor-parallel-size"] == (4, "rule:a3-tp")
    assert rows["env.USE_MULTI_BLOCK_POOL"]["effect"]["kind"] == "inert"


@pytest.mark.parametrize("name", ["VLLM_ASCEND_FAST", "vllm_ascend_fast"])
def test_the_history_of_a_name(name):
    assert explain_name(name, SMALL) == [
        {
            "path": "env.VLLM_ASCEND_FAST",
            "engine": "vllm-ascend",
            "type": "boolean",
            "meaning": "m",
            "moved_to": "additional_config.fast",
            "source": SOURCE,
            "history": [
                {
                    "releases": "1.0",
                    "chips": None,
                    "effect": "read",
                    "default": None,
                    "values": [0, 1],
                    "says": "read",
                },
                {
                    "releases": "2.0 and later",
                    "chips": None,
                    "effect": "ignored",
                    "default": None,
                    "values": None,
                    "says": "nobody reads it",
                },
            ],
            "set_by": [],
            "rules": [],
        }
    ]


def test_a_key_is_found_by_its_last_part_and_a_flag_with_its_dashes():
    assert [row["path"] for row in explain_name("mode", SMALL)] == ["flag.additional-config.mode"]
    assert explain_name("mode", SMALL)[0]["rules"][0]["id"] == "mode-needs-need"
    paths = [row["path"] for row in explain_name("--block-size", catalog())]
    assert "flag.block-size" in paths


def test_an_unknown_name_is_a_usage_error_with_the_nearest():
    with pytest.raises(AscendV4Error) as error:
        explain_name("ascend_fast", SMALL)
    assert error.value.code == ExitCode.USAGE
    assert error.value.message.endswith("did you mean VLLM_ASCEND_FAST?")


def test_the_releases_that_serve_dspark_on_a2_begin_with_0_25_1rc1():
    rows = list_releases("vllm-ascend", "a2", "flash-0731-w8a8", catalog())
    assert [row["version"] for row in rows][:2] == ["0.25.1rc1", "0.26.0rc1"]
    everything = list_releases("vllm-ascend", None, None, catalog())
    assert [row["version"] for row in everything] == catalog().versions("vllm-ascend")


@pytest.mark.parametrize(
    ("version", "engine", "chip", "model", "kind"),
    [
        ("0.23.0", "vllm-ascend", "a3", "flash", "stale-kv-dp"),
        ("0.23.0", "vllm-ascend", "a2", "flash-0731-w8a8", "checkpoint-needs-release"),
        ("0.13.0rc3", "vllm-ascend", "a5", None, "chip-not-served"),
        ("0.32.0", "vllm", "a100", None, "chip-not-served"),
    ],
)
def test_bad_pairs_are_refused_with_the_reason(version, engine, chip, model, kind):
    with pytest.raises(AscendV4Error) as error:
        check_release(version, engine, chip, model, catalog())
    assert (error.value.code, error.value.kind) == (ExitCode.REFUSED, kind)
    assert error.value.next


def test_good_pairs_pass_and_unknown_releases_are_usage_errors():
    known = catalog()
    assert check_release("0.23.0.post1", "vllm-ascend", "a3", "flash", known)[0]["default"]
    notes = check_release("0.23.0", "vllm-ascend", "a2", "flash", known)[1]
    assert {note.severity for note in notes} <= {"warn", "info"}
    with pytest.raises(AscendV4Error) as error:
        check_release("9.9", "vllm-ascend", None, None, known)
    assert error.value.code == ExitCode.USAGE
