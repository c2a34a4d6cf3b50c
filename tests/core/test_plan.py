"""The launch plan: refuses what can't run, and its JSON form holds to the schema."""

import itertools
import json
from pathlib import Path

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.finding import refusing
from ascend_v4.core.plan import LaunchPlan, Port, Process, Validated
from ascend_v4.core.plan_schema import PlanModel, json_schema
from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.run.prelaunch import engine_command

DOCS = Path(__file__).resolve().parents[2] / "docs"
VERSIONS = [r["version"] for r in catalog().table("releases") if r["engine"] == "vllm-ascend"]
WORKLOADS = ["latency", "throughput", "long-context"]
ASCEND = [
    {"chip": chip, "engine_version": version, "workload": workload}
    for chip, version, workload in itertools.product(["a2", "a3"], VERSIONS, WORKLOADS)
]


def test_schema_document_is_current():
    assert (DOCS / "launch-plan.schema.json").read_text() == json_schema()


@pytest.mark.parametrize("options", ASCEND, ids=lambda o: "-".join(o.values()))
def test_every_ascend_plan_is_valid_and_says_so(options):
    plan = compile_plan(LaunchRequest(**options, allow_unvalidated=True), catalog()).plan
    PlanModel.model_validate_json(json.dumps(plan.to_json()))
    assert refusing(plan.notes) == []
    env = plan.processes[0].env
    assert env["USE_MULTI_BLOCK_POOL"] == "1"
    assert env["VLLM_ASCEND_ENABLE_FUSED_MC2"] in ("0", "1")


@pytest.mark.parametrize("origin", ["flag", "host"])
def test_more_devices_than_the_nodes_have_only_where_the_host_says_so(origin):
    request = LaunchRequest(chip="h200", devices=16, origins={"devices": origin})
    if origin == "host":
        assert compile_plan(request, catalog()).facts["devices"] == 16
        return
    with pytest.raises(AscendV4Error, match="a node of h200 has 8") as caught:
        compile_plan(request, catalog())
    assert caught.value.code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("chip", "words"),
    [
        ("a2", "or pip install 'ascend-v4[ascend]'"),
        ("a2:910b4", "or pip install 'ascend-v4[ascend]'"),
        ("a3", "or add --runtime docker"),
        ("a5", "or add --runtime docker"),
        ("h200", "or pip install 'ascend-v4[cuda]'"),
    ],
)
def test_a_missing_engine_is_in_the_image_where_no_wheel_is_for_the_chip(chip, words):
    plan = compile_plan(LaunchRequest(chip=chip), catalog()).plan
    assert engine_command(plan) == f"run inside the image {plan.image}, {words}"


def process(name: str, **changes) -> Process:
    return Process(**{"name": name, "role": "mixed", "argv": ("vllm",), "env": {}, **changes})


def plan_of(*processes: Process) -> LaunchPlan:
    return LaunchPlan(
        "cpu", "vllm", "0.32.0", "", "cpu", "m", "/m", "rehearsal", Validated("ci", "x"), processes
    )


@pytest.mark.parametrize(
    "processes,message",
    [
        ([], "unique and at least one"),
        ([process("a"), process("a")], "unique and at least one"),
        ([process("a", argv=())], "argv must name a program"),
        ([process("a", argv=("vllm", "x\0y"))], "hold no NUL"),
        ([process("a", env={"X": "1"}, unset=("X",))], "both set and unset"),
        ([process("a", starts_after=("b",))], "isn't there"),
        ([process("a", ports=(Port(1, "x"),)), process("b", ports=(Port(1, "y"),))], "one port"),
    ],
)
def test_a_plan_that_cant_run_is_refused(processes, message):
    with pytest.raises(ValueError, match=message):
        plan_of(*processes)


def test_one_port_on_two_nodes_is_fine():
    plan_of(process("a", ports=(Port(1, "x"),)), process("b", node="two", ports=(Port(1, "x"),)))


@pytest.mark.parametrize(
    "options,told",
    [
        ({"chip": "a3"}, "60"),
        ({"chip": "a3", "drain_s": 7}, "7"),
        ({"chip": "a3", "drain_s": 0}, "0"),
        ({"chip": "a3", "drain_s": 7, "extra": ("--shutdown-timeout", "9")}, "9"),
        ({"chip": "h200", "drain_s": 7}, "7"),
        ({"profile": "cpu", "drain_s": 7}, "7"),
        ({"chip": "a3", "drain_s": 7, "engine_version": "0.13.0rc3"}, None),
    ],
    ids=str,
)
def test_the_drain_is_part_of_the_plan(options, told):
    """vLLM has the flag since 0.18, so every release but the one on 0.13."""
    process = compile_plan(LaunchRequest(**options, allow_unvalidated=True), catalog())
    process = process.plan.processes[0]
    argv = process.argv
    said = argv[argv.index("--shutdown-timeout") + 1] if "--shutdown-timeout" in argv else None
    assert (said, process.drain_s) == (told, int(told or 7))


def test_every_release_on_vllm_0_18_or_later_is_told_to_drain():
    for row in catalog().table("releases"):
        chip = "a3" if row["engine"] == "vllm-ascend" else "h200"
        request = LaunchRequest(
            chip=chip, engine_version=row["version"], model="flash", allow_unvalidated=True
        )
        argv = compile_plan(request, catalog()).plan.processes[0].argv
        major, minor = map(int, row["vllm"].split(".")[:2])
        assert ("--shutdown-timeout" in argv) == ((major, minor) >= (0, 18)), row["version"]
