"""The catalog is whole: rows, sources, ranges, and the examples of its rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ascend_v4.catalog.build import LAUNCH_TABLES, build, read_rows
from ascend_v4.catalog.load import COMPILED, Row, catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.conditions import OPERATORS
from ascend_v4.core.request import LaunchRequest
from ascend_v4.core.rules import finding_of

from .broken import base_facts, broken_facts, broken_ids

RULES = catalog().table("rules")
VARIABLES = catalog().table("variables")
KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
UNFILLED = re.compile(r"\{[a-z_][A-Za-z0-9_.-]*\}")


def test_compiled_is_current() -> None:
    assert COMPILED.read_text(encoding="utf-8") == build(), "run python -m ascend_v4.catalog.build"


@pytest.mark.parametrize("table", LAUNCH_TABLES)
def test_rows_keep_the_schema(table: str) -> None:
    assert read_rows(table) == catalog().table(table)


@pytest.mark.parametrize("table", ["releases", "variables", "settings", "recipes", "rules"])
def test_no_table_of_launches_is_empty(table: str) -> None:
    assert len(catalog().table(table)) > 20


def conditions(row: Row) -> Iterator[list[Any]]:
    """Yield the plain comparisons of a rule."""

    def walk(condition: list[Any]) -> Iterator[list[Any]]:
        if condition[0] in ("all", "any", "not"):
            assert condition[0] != "not" or len(condition) == 2, row["id"]
            for part in condition[1:]:
                assert isinstance(part, list), f"{row['id']}: {part} is no condition"
                yield from walk(part)
        else:
            yield condition

    yield from walk(row["condition"])
    if "where" in row.get("applies", {}):
        yield from walk(row["applies"]["where"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["id"]))
def test_conditions_use_known_operators(rule: Row) -> None:
    for comparison in conditions(rule):
        assert len(comparison) == 3, comparison
        path, operator, value = comparison
        assert operator in OPERATORS, comparison
        assert isinstance(path, str)
        assert not isinstance(value, dict) or set(value) == {"fact"}, comparison


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["id"]))
def test_rule_is_broken_by_its_example_only(rule: Row) -> None:
    example = rule["broken"]
    known = {"base", "options", "args", "env", "drop", "drop_env"}
    assert set(example) <= known and len(example) > 1
    base, broken = base_facts(example), broken_facts(example)
    assert rule["id"] not in broken_ids(base)
    assert rule["id"] in broken_ids(broken)
    finding = finding_of(rule, broken)
    assert not UNFILLED.search(finding.message), finding.message
    assert finding.severity == rule["severity"] and finding.source == rule["source"]


def test_rule_ids_are_kebab_case_and_unique() -> None:
    ids = [rule["id"] for rule in RULES]
    assert [ident for ident in ids if not KEBAB.fullmatch(ident)] == []
    assert len(set(ids)) == len(ids)


def test_a_refusal_by_the_engine_names_its_words() -> None:
    silent = [
        rule["id"]
        for rule in RULES
        if rule["severity"] == "error"
        and rule.get("engine_checks") == "startup"
        and not rule.get("engine_message")
    ]
    assert silent == []


def test_every_error_and_silent_rule_has_a_way_out() -> None:
    assert [r["id"] for r in RULES if not r.get("fix")] == []


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda row: str(row["name"]))
def test_effects_cover_ranges_in_order(variable: Row) -> None:
    effects = variable["effects"]
    assert effects
    engine = variable["engine"]
    if engine == "any":
        assert not any(e.get("since") or e.get("until") for e in effects)
        return
    versions = catalog().versions(engine)
    by_chips: dict[str, list[tuple[int, int]]] = {}
    for effect in effects:
        first = versions.index(effect["since"]) if "since" in effect else 0
        last = versions.index(effect["until"]) if "until" in effect else len(versions) - 1
        assert first <= last, effect
        by_chips.setdefault(",".join(effect.get("chips", [])), []).append((first, last))
    for ranges in by_chips.values():
        assert ranges == sorted(ranges)
        assert all(a[1] < b[0] for a, b in pairwise(ranges)), ranges


def names_of(path: str) -> str:
    """Return the variable row's name of a path in settings or rules."""
    kind, _, rest = path.partition(".")
    if kind == "env":
        return rest
    flag, _, key = rest.partition(".")
    if flag == "additional-config" and key:
        return f"additional_config.{key}"
    return f"--{flag}"


def test_settings_set_known_names_only() -> None:
    wanted = {names_of(row["set"]) for row in catalog().table("settings")}
    assert sorted(name for name in wanted if catalog().variable(name) is None) == []


#: Flags that rules look at but that no launch of DeepSeek-V4 is meant to use.
NOT_OURS = {
    "--calculate-kv-scales", "--cp-kv-cache-interleave-size", "--enable-dbo",
    "--enable-layerwise-nvtx-tracing", "--max-num-partial-prefills", "--numa-bind",
    "--ubatch-size",
}  # fmt: skip


def test_rules_look_at_known_names_only() -> None:
    wanted = {
        names_of(path)
        for rule in RULES
        for path, _, _ in conditions(rule)
        if path.startswith(("env.", "flag."))
    }
    unknown = {name for name in wanted if catalog().variable(name) is None}
    assert unknown == NOT_OURS


def test_every_runtime_switch_of_the_plugin_is_owned() -> None:
    switches = [row for row in VARIABLES if row["name"].startswith("VLLM_ASCEND_")]
    free = {row["name"] for row in switches if not row.get("owned")}
    assert free == {"VLLM_ASCEND_ENABLE_BATCH_MEMCPY"}
    wiring = ("HCCL_IF_IP", "GLOO_SOCKET_IFNAME", "ASCEND_RT_VISIBLE_DEVICES", "LD_PRELOAD")
    assert [name for name in wiring if (catalog().variable(name) or {}).get("owned")] == []


def effect_of(name: str, version: str, chip: str) -> Row:
    """Return what a variable does in one release on one chip."""
    versions = catalog().versions("vllm-ascend")
    at = versions.index(version)
    for effect in (catalog().variable(name) or {})["effects"]:
        first = versions.index(effect["since"]) if "since" in effect else 0
        last = versions.index(effect["until"]) if "until" in effect else len(versions) - 1
        if first <= at <= last and chip in effect.get("chips", [chip]):
            return effect
    raise AssertionError(f"{name} says nothing about {version} on {chip}")


FUSED = "VLLM_ASCEND_ENABLE_FUSED_MC2"


@pytest.mark.parametrize(
    ("name", "version", "chip", "effect", "values"),
    [
        ("USE_MULTI_BLOCK_POOL", "0.13.0rc3", "a3", "read", [0, 1]),
        ("USE_MULTI_BLOCK_POOL", "0.20.2rc1", "a3", "inert", None),
        ("USE_MULTI_BLOCK_POOL", "0.30.0rc2", "a2", "inert", None),
        (FUSED, "0.13.0rc3", "a3", "read", [0, 1, 2]),
        (FUSED, "0.13.0rc3", "a2", "inert", None),
        (FUSED, "0.23.0.post1", "a3", "deprecated", [0, 1, 2]),
        (FUSED, "0.23.0.post1", "a2", "read", [0, 1]),
        (FUSED, "0.24.0rc1", "a3", "deprecated", [0, 1]),
        (FUSED, "0.26.0rc1", "a3", "deprecated", [0, 1]),
        (FUSED, "0.27.1rc1", "a3", "ignored", None),
        ("additional_config.enable_fused_mc2", "0.13.0rc3", "a3", "ignored", None),
        ("additional_config.enable_fused_mc2", "0.26.0rc1", "a3", "read", [0, 1]),
        ("additional_config.enable_fused_mc2", "0.30.0rc2", "a3", "read", [0, 1, 2]),
        ("VLLM_ASCEND_ENABLE_FLASHCOMM1", "0.23.0", "a2", "deprecated", [0, 1]),
        ("VLLM_ASCEND_ENABLE_FLASHCOMM1", "0.30.0rc2", "a2", "read", [0, 1]),
        ("VLLM_ASCEND_APPLY_DSV4_PATCH", "0.20.2rc1", "a3", "read", [0, 1]),
        ("VLLM_ASCEND_APPLY_DSV4_PATCH", "0.23.0", "a3", "inert", None),
        ("ASCEND_LAUNCH_BLOCKING", "0.28.0rc1", "a3", "refused", [0, 1]),
        ("ASCEND_LAUNCH_BLOCKING", "0.29.0rc1", "a3", "read", [0, 1]),
    ],
)
def test_dossiers(
    name: str, version: str, chip: str, effect: str, values: list[int] | None
) -> None:
    found = effect_of(name, version, chip)
    assert (found["effect"], found.get("values")) == (effect, values)


def sources(value: Any) -> Iterator[str]:
    """Yield every source in a table's rows."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "source":
                yield item
            else:
                yield from sources(item)
    elif isinstance(value, list):
        for item in value:
            yield from sources(item)


@pytest.mark.parametrize("table", LAUNCH_TABLES)
def test_sources_are_public(table: str) -> None:
    for source in sources(catalog().table(table)):
        assert source.startswith(
            ("https://", "vllm-ascend ", "vllm ", "modelscope", "torch", "observed ")
        ), source
        assert not re.search(r"/(root|home|tmp)/|localhost|\b(?:10|127|192)\.\d", source), source


def test_data_files_name_no_private_place() -> None:
    for path in (Path(COMPILED).with_name("data")).glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bfacts/|main@", text), path.name


def plans() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the options of every default plan of both Ascend chips."""
    for release in catalog().table("releases"):
        if release["engine"] != "vllm-ascend":
            continue
        for ident in release["checkpoints"]:
            row = catalog().checkpoint(ident) or {}
            for chip in ("a2", "a3"):
                if chip not in row["chips"] or row["family"] != "flash":
                    continue
                for workload in ("latency", "throughput", "long-context"):
                    for spec in row["spec"]:
                        options = {
                            "chip": chip,
                            "engine_version": release["version"],
                            "model": ident,
                            "workload": workload,
                            "spec": spec,
                            "allow_unvalidated": True,
                        }
                        yield f"{release['version']}-{chip}-{ident}-{workload}-{spec}", options


PLANS = dict(plans())


@pytest.mark.parametrize("name", PLANS)
def test_what_we_emit_lints_clean(name: str) -> None:
    options = PLANS[name]
    notes = compile_plan(LaunchRequest(**options), catalog()).plan.notes
    bad = {note.id for note in notes if note.severity in ("error", "silent", "risk")}
    stale = (options["engine_version"], options["chip"]) == ("0.23.0", "a3")
    assert bad == ({"stale-kv-dp"} if stale else set())


def test_fused_mc2_asked_for_is_a_risk_from_0_20_2rc1_on() -> None:
    for version in catalog().versions("vllm-ascend"):
        request = LaunchRequest(
            chip="a3", engine_version=version, fused_mc2=True, allow_unvalidated=True
        )
        ids = [note.id for note in compile_plan(request, catalog()).plan.notes]
        assert ("fused-mc2-risk" in ids) == (version not in ("0.13.0rc3", "deepseekv4")), version


def test_the_latest_a2_tutorial_on_an_older_image_is_refused() -> None:
    """The command of vllm-ascend issue 15836: enable_dsa_cp without FlashComm1."""
    cases = {"0.20.2rc1": True, "0.23.0": True, "0.26.0rc1": True, "0.28.0rc1": False}
    for version, refused in cases.items():
        request = LaunchRequest(chip="a2", engine_version=version, allow_unvalidated=True)
        made = compile_plan(request, catalog())
        flags = made.launch.flags | {
            "additional-config": {"enable_cpu_binding": True, "enable_dsa_cp": True}
        }
        env = {k: v for k, v in made.launch.env.items() if k != "VLLM_ASCEND_ENABLE_FLASHCOMM1"}
        ids = broken_ids(made.facts | {"flag": flags, "env": env})
        assert ("dsa-cp-needs-flashcomm1" in ids) == refused, version
