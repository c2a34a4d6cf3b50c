"""Verdicts, layouts, calibration and the check that serve and doctor ask."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import AscendV4Error
from ascend_v4.sizing import fit_check
from ascend_v4.sizing.fit import size
from ascend_v4.sizing.fromlog import calibration_row, comparison, options_of, read_startup
from ascend_v4.sizing.inputs import inputs_of
from ascend_v4.sizing.layouts import nearest, ranked_layouts, token_cost
from ascend_v4.sizing.memory import budget_of


def compiled(**options):
    extra = tuple(options.pop("extra", ()))
    request = LaunchRequest(**options, extra=extra, allow_unvalidated=True)
    return compile_plan(request, catalog())


def sizing(available_gib=None, model_dir=None, **options):
    return inputs_of(compiled(**options), model_dir, available_gib)


def test_one_h200_never_holds_the_checkpoint():
    sized = size(sizing(chip="h200", devices=1))
    assert (sized.verdict, sized.exit_code) == ("does not fit", 5)
    assert sized.high.available == 0
    assert nearest(sized.input, sized)[0]["change"].startswith("--devices 2 ")


def test_two_a100_leave_no_room():
    assert size(sizing(chip="a100", devices=2)).verdict == "does not fit"


def test_without_an_anchor_every_figure_is_an_interval():
    budget = budget_of(sizing(chip="h200", devices=2))
    assert not budget.calibrated
    assert budget.other == (1.4, 17.0)
    assert budget.available.low < budget.available.high


def test_a_published_start_proves_its_own_launch():
    launch = sizing(chip="a3", engine_version="0.26.0rc1", context=1 << 20)
    assert (size(launch).verdict, budget_of(launch).anchor) == ("fits", "ci-a3-tp4-dp4")
    # One more token in a step than was published isn't proven by it.
    assert size(replace(launch, batched_tokens=launch.batched_tokens + 1)).verdict == "unsure"


PRO_PREFILL = {
    "chip": "a3",
    "nodes": 2,
    "model": "pro",
    "context": 1 << 20,
    "tensor_parallel_size": 16,
    "data_parallel_size": 2,
    "max_num_batched_tokens": 2048,
}


def test_a_start_with_more_of_the_memory_proves_that_much_less():
    eager = ("--enforce-eager",)
    whole = sizing(**PRO_PREFILL, gpu_memory_utilization=0.94, extra=eager)
    less = sizing(**PRO_PREFILL, gpu_memory_utilization=0.92, extra=eager)
    budgets = budget_of(whole), budget_of(less)
    assert [budget.anchor for budget in budgets] == ["ci-pro-a3-1m-prefill"] * 2
    assert budgets[0].available.low - budgets[1].available.low == pytest.approx(0.02 * 64)
    assert (size(whole).verdict, size(less).verdict) == ("fits", "unsure")


def test_a_start_without_graphs_proves_nothing_about_one_with():
    assert budget_of(sizing(**PRO_PREFILL, gpu_memory_utilization=0.94)).anchor == ""


def test_another_model_s_startup_anchors_nothing():
    a2 = {"chip": "a2", "max_num_batched_tokens": 2048}
    pro = budget_of(sizing(**a2, model="pro", nodes=4))
    assert (pro.anchor, pro.other) == ("K05", pytest.approx((6.5106, 9.5106)))
    assert budget_of(sizing(**a2)).anchor == ""
    # More tokens widen it, and never beyond what was ever published.
    many = budget_of(sizing(chip="a2", model="pro", nodes=4, max_num_batched_tokens=8192))
    assert many.other == pytest.approx((6.5106, 17.0))


def test_a_release_without_known_arithmetic_is_unsure_and_says_so():
    sized = size(sizing(chip="a3", engine_version="0.13.0rc3"))
    assert (sized.verdict, sized.exit_code) == ("unsure", 16)
    assert "0.20.2rc1" in sized.reason


def test_an_asked_concurrency_decides():
    one = sizing(chip="h200", available_gib=32, context=131072, spec="none")
    held = int(size(one).low.max_concurrency) * one.dp
    assert size(replace(one, concurrency=held)).verdict == "fits"
    assert size(replace(one, concurrency=held + one.dp)).verdict == "does not fit"


def test_flags_after_the_dashes_count():
    off = ("--attention_config.use_fp4_indexer_cache", "False")
    plain = sizing(chip="b200", available_gib=32, extra=off)
    saved = sizing(
        chip="b200", available_gib=32, extra=("--attention_config.use_fp4_indexer_cache", "True")
    )
    assert size(saved).low.bytes_per_block < size(plain).low.bytes_per_block
    staged = sizing(chip="b200", available_gib=32, extra=("--pipeline-parallel-size", "2"))
    assert (staged.pp, staged.in_flight) == (2, 3 * staged.batched_tokens)
    calm = sizing(chip="b200", available_gib=32, extra=("--no-async-scheduling",))
    assert calm.in_flight == calm.batched_tokens
    fixed = sizing(chip="b200", extra=("--kv-cache-memory-bytes", "6G"))
    assert fixed.available == 6 << 30


def test_a_block_size_without_a_kernel_gives_no_kv_figures():
    sized = size(sizing(chip="h200", block_size=64))
    assert sized.verdict == "unsure"
    assert sized.low is None
    assert "256" in sized.reason


def test_without_the_hybrid_manager_no_figure_is_given():
    sized = size(sizing(chip="a3", extra=("--disable-hybrid-kv-cache-manager",)))
    assert (sized.verdict, sized.low) == ("unsure", None)
    assert "hybrid KV cache manager" in sized.reason


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 64), st.integers(1, 1 << 20))
def test_tensor_parallelism_leaves_kv_unchanged_and_replicas_add_up(tp, gib, context):
    one = sizing(chip="h200", available_gib=gib, context=context, spec="mtp")
    alone = size(replace(one, tp=1, dp=1))
    split = size(replace(one, tp=tp, dp=1))
    assert split.low == alone.low
    wider = size(replace(one, tp=1, dp=tp))
    assert wider.low.max_concurrency * tp >= alone.low.max_concurrency


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["h200", "b200", "a3", "a5"]), st.sampled_from([1, 2, 4, 8]))
def test_more_devices_never_hold_fewer_requests_under_dp(chip, dp):
    one = replace(sizing(chip=chip), tp=1, pp=1)
    few, many = size(replace(one, dp=dp)), size(replace(one, dp=2 * dp))
    assert many.low.max_concurrency * 2 * dp >= few.low.max_concurrency * dp
    assert many.high.max_concurrency * 2 * dp >= few.high.max_concurrency * dp


def test_layouts_are_ranked_by_what_they_hold():
    rows = ranked_layouts(sizing(chip="h200", devices=8))
    assert rows[0]["tensor_parallel_size"] == 1
    held = [row["concurrency"][0] for row in rows if row["verdict"] == "fits"]
    assert held == sorted(held, reverse=True)
    assert all(row["tensor_parallel_size"] <= 8 for row in rows)


def test_layouts_that_may_not_fit_are_ranked_by_the_room_of_a_replica():
    rows = ranked_layouts(sizing(chip="a2"))
    assert {row["verdict"] for row in rows} == {"unsure"}
    assert [row["tensor_parallel_size"] for row in rows] == [8, 4, 2, 1]


@pytest.mark.parametrize(("version", "tokens"), [("0.25.1", 104), ("0.26.0", 208), ("0.32.0", 208)])
def test_a_token_of_a_step_costs_as_much_as_many_of_context(version, tokens):
    sized = size(sizing(chip="h200", engine_version=version, available_gib=32, spec="none"))
    assert round(token_cost(sized)) == tokens


def test_fit_check_refuses_what_cannot_fit_and_warns_when_tight():
    assert [(f.id, f.severity) for f in fit_check(compiled(chip="h200", devices=1))] == [
        ("does-not-fit", "error")
    ]
    assert fit_check(compiled(chip="h200", devices=4)) == []
    tight = fit_check(compiled(chip="h200", devices=4, concurrency=4000))
    assert [(f.id, f.severity) for f in tight] == [("kv-tight", "warn")]
    assert fit_check(compiled(profile="cpu", model="rehearsal")) == []


@pytest.mark.parametrize("row", catalog().table("recipes"), ids=lambda row: row["id"])
def test_fit_check_refuses_no_published_launch(row):
    for chip in row["chip"]:
        for version in row["versions"][:1]:
            launch = compiled(
                chip=chip,
                engine_version=version,
                model=row["checkpoint"][0],
                nodes=row.get("nodes", 1),
                tensor_parallel_size=(row.get("tp") or [None])[0],
                data_parallel_size=(row.get("dp") or [None])[0],
            )
            assert [f for f in fit_check(launch) if f.severity == "error"] == []


def test_fit_check_imports_nothing_heavy():
    heavy = {"torch", "numpy", "pydantic", "yaml", "rich", "matplotlib"}
    import subprocess

    code = (
        "import sys\n"
        "from ascend_v4.core.compiler import compile_plan\n"
        "from ascend_v4.core.request import LaunchRequest\n"
        "from ascend_v4.catalog.load import catalog\n"
        "from ascend_v4.sizing import fit_check\n"
        "fit_check(compile_plan(LaunchRequest(chip='a3'), catalog()))\n"
        "print(sorted(set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(json.loads(done.stdout.replace("'", '"')))


LOG = """\
INFO 08-01 10:00:00 [api_server.py:100] vLLM API server version 0.25.1
INFO 08-01 10:00:00 [utils.py:233] non-default args: {'model_tag': 'm', 'max_model_len': 1048576, \
'tensor_parallel_size': 2, 'max_num_batched_tokens': 4096, 'gpu_memory_utilization': 0.95, \
'speculative_config': {'method': 'mtp', 'num_speculative_tokens': 2}}
(Worker_TP0) INFO 08-01 10:03:00 [gpu_model_runner.py:1] Model loading took 75.64 GiB memory and 9 s
(Worker_TP1) INFO 08-01 10:03:00 [gpu_model_runner.py:1] Model loading took 75.60 GiB memory and 9 s
(Worker_TP0) INFO 08-01 10:04:00 [gpu_worker.py:1] Available KV cache memory: 10.29 GiB
(EngineCore) INFO 08-01 10:04:01 [kv_cache_utils.py:1] GPU KV cache size: 1,993,100 tokens
(EngineCore) INFO 08-01 10:04:01 [kv_cache_utils.py:1] Maximum concurrency for 1,048,576 tokens \
per request: 1.90x
(Worker_TP0) INFO 08-01 10:05:00 [gpu_model_runner.py:1] Graph capturing finished in 9 secs, \
took 1.58 GiB
"""


def test_a_startup_log_is_read_and_compared():
    startup = read_startup(LOG)
    assert startup.figures == {
        "weights_gib": 75.64,
        "available_gib": 10.29,
        "tokens": 1993100,
        "concurrency": 1.9,
        "context": 1048576,
        "graph_gib": 1.58,
    }
    assert startup.version == "0.25.1"
    stated = options_of(startup)
    assert stated == {
        "context": 1048576,
        "tensor_parallel_size": 2,
        "max_num_batched_tokens": 4096,
        "gpu_memory_utilization": 0.95,
        "spec": "mtp",
    }
    sized = size(sizing(chip="rtx-pro-6000", devices=2, engine_version="0.25.1", **stated))
    lines = {line["what"]: line for line in comparison(startup, sized)}
    assert abs(lines["tokens"]["error"]) < 0.0005
    assert abs(lines["concurrency"]["error"]) < 0.0005
    assert abs(lines["weights GiB"]["error"]) < 0.002
    row = calibration_row(startup, sized, "startup.log", "2026-08-01")
    assert row["other_gib"] == round(95.0 * 0.95 - 75.64 - 10.29, 4)


def test_a_log_of_something_else_is_refused():
    with pytest.raises(AscendV4Error) as caught:
        read_startup("nothing to see here\n")
    assert int(caught.value.code) == 18


def write_config(directory, **config):
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)


def test_another_architecture_gets_general_formulas(tmp_path):
    llama = write_config(
        tmp_path / "llama",
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        num_hidden_layers=80,
        hidden_size=8192,
        num_attention_heads=64,
        num_key_value_heads=8,
        max_position_embeddings=131072,
    )
    sized = size(sizing(chip="h200", available_gib=40, context=131072, model_dir=llama))
    assert sized.pool is None
    # 2 (K and V) x 2 bytes x 128 values x 8 heads x 80 layers a token, 16 tokens a block.
    assert sized.low.bytes_per_block == 16 * 2 * 2 * 128 * 8 * 80
    latent = write_config(
        tmp_path / "v3",
        model_type="deepseek_v3",
        num_hidden_layers=61,
        hidden_size=7168,
        num_attention_heads=128,
        kv_lora_rank=512,
        qk_rope_head_dim=64,
        max_position_embeddings=163840,
    )
    sized = size(sizing(chip="h200", available_gib=40, model_dir=latent))
    assert sized.low.bytes_per_block == 16 * 2 * 576 * 61


def test_a_directory_s_own_geometry_and_index_are_read(tmp_path):
    ratios = [0, 0, *([4, 128] * 20), 4, 0]
    directory = write_config(
        tmp_path / "v4",
        model_type="deepseek_v4",
        num_hidden_layers=43,
        hidden_size=4096,
        compress_ratios=ratios,
        num_nextn_predict_layers=1,
        max_position_embeddings=1048576,
    )
    index = {"metadata": {"total_size": 159609485896}, "weight_map": {}}
    (tmp_path / "v4" / "model.safetensors.index.json").write_text(json.dumps(index))
    with_index = sizing(chip="h200", model_dir=directory)
    assert with_index.indexed == 159609485896
    sized, plain = size(with_index), size(sizing(chip="h200"))
    assert sized.pool.groups == plain.pool.groups
    assert sized.budget.weights.bounds.low == pytest.approx(
        plain.budget.weights.bounds.low, rel=0.001
    )
    assert "index" in sized.budget.weights.source


def test_a_directory_without_config_is_a_clear_error(tmp_path):
    with pytest.raises(AscendV4Error) as caught:
        sizing(chip="h200", model_dir=str(tmp_path))
    assert (int(caught.value.code), caught.value.kind) == (2, "no-config")
    assert "flash-w8a8-mtp" in caught.value.message
