"""The KV figures that a real ``vllm serve`` of a small DeepSeek-V4 prints, on the CPU build."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time

import pytest

from ascend_v4.rehearsal.build import build_rehearsal
from tests.support.engine import SERVE_ENV, USER_ENV, cpu_engine, free_port  # noqa: F401

pytestmark = pytest.mark.real_engine

# Geometry of its own: 7 layers, two of each kind and more of some.
CONFIG = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "hidden_size": 256,
    "num_hidden_layers": 7,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "q_lora_rank": 128,
    "o_lora_rank": 128,
    "o_groups": 8,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 512,
    "sliding_window": 128,
    "compress_ratios": [0, 0, 4, 128, 4, 128, 4, 0],
    "compress_rope_theta": 160000,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 16,
        "original_max_position_embeddings": 65536,
        "beta_fast": 32,
        "beta_slow": 1,
    },
    "max_position_embeddings": 1048576,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "num_hash_layers": 1,
    "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "swiglu_limit": 10.0,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "num_nextn_predict_layers": 1,
    "vocab_size": 1024,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
PRINTED = re.compile(
    r"KV cache size: ([\d,]+) tokens, Maximum concurrency for ([\d,]+) tokens "
    r"per request: ([\d.]+)x"
)
LENGTH = "8192"
MEMORY = 1 << 30


def printed_by(engine, directory, log):
    """Start the server until it has printed its KV figures, then stop it."""
    argv = [str(engine), "serve", str(directory), "--load-format", "dummy", "--enforce-eager"]
    argv += ["--max-model-len", LENGTH, "--max-num-batched-tokens", LENGTH]
    argv += ["--kv-cache-memory-bytes", str(MEMORY), "--skip-tokenizer-init"]
    argv += ["--host", "127.0.0.1", "--port", str(free_port())]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            argv,
            env={**USER_ENV, **SERVE_ENV},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            match = PRINTED.search(log.read_text(errors="replace"))
            if match:
                return match
            assert process.poll() is None, log.read_text(errors="replace")[-4000:]
            time.sleep(0.5)
        raise AssertionError(log.read_text(errors="replace")[-4000:])
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_plan_prints_what_the_server_prints(cpu_engine, tmp_path, ascend):  # noqa: F811
    directory = tmp_path / "small-v4"
    build_rehearsal(directory)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    tokens, length, concurrency = printed_by(cpu_engine, directory, tmp_path / "log").groups()
    done = ascend(
        *("plan", "--json", "--profile", "cpu", "--model-dir", directory, "--spec", "none"),
        *("--context", LENGTH, "--max-num-batched-tokens", LENGTH),
        *("--available-kv-gib", MEMORY / 2**30),
    )
    kv = json.loads(done.out)["kv"]
    assert length.replace(",", "") == LENGTH
    assert f"{kv['log_kv_tokens']:,}" == tokens
    assert f"{kv['log_max_concurrency']:.2f}" == concurrency
