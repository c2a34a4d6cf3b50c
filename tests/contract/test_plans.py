"""The proof: every shipped plan passes the engine's own checks; every broken one fails both.

One run asks each release and chip about all plans and all broken examples, so that each
is imported once. ``-s`` prints the agreement table and what is not engine-verified.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import AscendV4Error
from tests.contract.client import Job, check_all
from tests.contract.overlays import VLLM_VERSIONS, IndexUnreachable
from tests.contract.shapes import deployed, parser_jobs, pooled
from tests.contract.shipped import broken, shipped

pytestmark = pytest.mark.contract
DATA = Path(__file__).resolve().parents[1] / "data"
#: Warnings that the engine gives whatever the plan says, each with the reason.
TOLERATED = yaml.safe_load((DATA / "engine_warnings.yaml").read_text())
#: The code in the deepseekv4 images was never published, so nothing can be asked.
NOT_VERIFIABLE = "deepseekv4"

PLANS = shipped()
DEPLOYED = [*deployed(), *pooled()]
BROKEN = list(broken())


@pytest.fixture(scope="module")
def verdicts(contract_env):
    """Ask the engines once about everything; verdicts by the job's identity."""
    jobs = [item.job for item in [*PLANS, *DEPLOYED, *BROKEN]]
    try:
        answers = check_all(jobs, contract_env)
    except IndexUnreachable as error:
        pytest.skip(f"the package index can't be reached: {error}")
    return {id(job): answer for job, answer in zip(jobs, answers, strict=True)}


def test_plans_are_many_and_cover_every_release():
    assert len(PLANS) >= 100
    assert len(DEPLOYED) >= 150
    releases = {r["version"] for r in catalog().table("releases") if r["engine"] == "vllm-ascend"}
    covered = {plan.job.release for plan in PLANS}
    assert releases - covered == {NOT_VERIFIABLE}
    verified = {
        r["version"]
        for r in catalog().table("releases")
        if r["engine"] == "vllm-ascend" and r["engine_verified"] == "start-up"
    }
    assert verified == covered


@pytest.mark.parametrize("plan", [*PLANS, *DEPLOYED], ids=lambda plan: plan.name)
def test_shipped_plan_passes_the_engines_own_checks(plan, verdicts):
    verdict = verdicts[id(plan.job)]
    assert verdict.accepted, f"{verdict.stage}: {verdict.error_type}: {verdict.message}"
    told = " ".join(note.message for note in plan.notes)
    unexplained = [
        line
        for line in verdict.warnings
        if not any(re.search(row["pattern"], line) for row in TOLERATED) and line not in told
    ]
    assert unexplained == []


def agreement(verdicts):
    """Return (rule id, our verdict, the engine's verdict, stage) of each broken example."""
    rows = []
    for example in BROKEN:
        verdict = verdicts[id(example.job)]
        rows.append((example.rule["id"], example.ours, not verdict.accepted, verdict.stage))
    return rows


def test_lint_and_engine_agree_on_what_is_broken(verdicts):
    rows = agreement(verdicts)
    print(f"\nbroken launches: {len(rows)}; both refuse: {sum(o and e for _, o, e, _ in rows)}")
    for name, ours, engine, stage in rows:
        print(f"  {name:40} ours {'refuses' if ours else 'ACCEPTS'}"
              f"  engine {'refuses' if engine else 'ACCEPTS'} ({stage})")  # fmt: skip
    assert [name for name, ours, _, _ in rows if not ours] == []
    assert [name for name, _, engine, _ in rows if not engine] == []
    assert len(rows) >= 60


def test_engine_refuses_for_the_reason_we_give(verdicts):
    """The engine's own words are those the rule quotes, where it quotes any."""
    wrong = []
    for example in BROKEN:
        quoted = example.rule.get("engine_message")
        verdict = verdicts[id(example.job)]
        said = f"{verdict.message}\n{verdict.output}\n{verdict.traceback}"
        if quoted and " ".join(quoted.split()).lower() not in " ".join(said.split()).lower():
            wrong.append(f"{example.rule['id']}: {verdict.stage}: {verdict.message[:120]}")
    assert wrong == []


def test_0_13_0rc3_needs_its_switch(verdicts, contract_env):
    """Without USE_MULTI_BLOCK_POOL the release doesn't even know the model."""
    plan = next(plan for plan in PLANS if plan.job.release == "0.13.0rc3")
    env = {name: v for name, v in plan.job.env.items() if name != "USE_MULTI_BLOCK_POOL"}
    without = replace(plan.job, env=env)
    assert verdicts[id(plan.job)].accepted
    assert not check_all([without], contract_env)[0].accepted


def cuda_plans():
    """Return (name, job) of the default plan of each GPU type on each vLLM release."""
    found = []
    for version in VLLM_VERSIONS:
        for chip in ("h200", "b200", "rtx-pro-6000"):
            for model in ("flash-fp4", "flash-0731-fp4"):
                request = LaunchRequest(chip=chip, engine_version=version, model=model)
                try:
                    plan = compile_plan(request, catalog()).plan
                except AscendV4Error:
                    continue
                if any(note.severity == "error" for note in plan.notes):
                    continue
                process = plan.processes[0]
                # The parser knows no GPU type, so one process serves all of a release.
                job = Job(version, "h200", process.env, process.argv, model)
                found.append((f"{version}-{chip}-{model}", job))
    return found


def test_cuda_plans_go_through_the_parsers_of_their_releases(contract_env):
    """Single machines, several nodes and pairs; the rehearsal on CPUs as well."""
    plans = [*cuda_plans(), *parser_jobs()]
    answers = check_all([job for _, job in plans], contract_env)
    refused = {
        name: answer.message
        for (name, _), answer in zip(plans, answers, strict=True)
        if not answer.accepted
    }
    assert refused == {}
    assert len(plans) >= 180
