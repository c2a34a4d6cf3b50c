"""Model directories without weights: the real ``config.json`` values, a small tokenizer.

An engine's startup reads the configuration, the tokenizer and the quantization
description before it opens a weight file, so this is all its checks need.

The configuration values are those of the published ``config.json`` of
https://huggingface.co/deepseek-ai/DeepSeek-V4-Flash and DeepSeek-V4-Pro, as
https://github.com/ai-dynamo/aiconfigurator carries them under ``model_configs``.
The W8A8 and W4A8 directories have no ``quantization_config``: their format is told
by ``quant_model_description.json`` (vllm-ascend 0.23.0,
quantization/modelslim_config.py:95). The text of that file in the published
repositories could not be read, so its entries here are our own, of the right form.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["CHECKPOINTS", "model_directory", "write_model"]

SPECIAL_TOKENS = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "｜DSML｜",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
)

COMMON: dict[str, Any] = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "compress_rope_theta": 160000,
    "head_dim": 512,
    "hc_eps": 1e-06,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hidden_act": "silu",
    "index_head_dim": 128,
    "index_n_heads": 64,
    "initializer_range": 0.02,
    "max_position_embeddings": 1048576,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_experts_per_tok": 6,
    "num_hash_layers": 3,
    "num_key_value_heads": 1,
    "num_nextn_predict_layers": 1,
    "o_lora_rank": 1024,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "type": "yarn",
        "factor": 16,
        "original_max_position_embeddings": 65536,
        "beta_fast": 32,
        "beta_slow": 1,
    },
    "rope_theta": 10000,
    "scoring_func": "sqrtsoftplus",
    "sliding_window": 128,
    "swiglu_limit": 10.0,
    "tie_word_embeddings": False,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.57.1",
    "use_cache": True,
    "vocab_size": 129280,
}

FLASH: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 43,
    "num_attention_heads": 64,
    "q_lora_rank": 1024,
    "o_groups": 8,
    "index_topk": 512,
    "n_routed_experts": 256,
    "moe_intermediate_size": 2048,
    "routed_scaling_factor": 1.5,
    "compress_ratios": [0, 0, *[4, 128] * 20, 4],
}

PRO: dict[str, Any] = {
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "o_groups": 16,
    "index_topk": 1024,
    "n_routed_experts": 384,
    "moe_intermediate_size": 3072,
    "routed_scaling_factor": 2.5,
    "compress_ratios": [128, 128, *[4, 128] * 29, 4],
}

# The 0731 and 0813 checkpoints carry three draft layers instead of one.
DSPARK_FLASH: dict[str, Any] = {
    "n_mtp_layers": 3,
    "dspark_block_size": 5,
    "dspark_markov_rank": 256,
    "dspark_noise_token_id": 128799,
    "dspark_target_layer_ids": [40, 41, 42],
}
DSPARK_PRO: dict[str, Any] = {
    **DSPARK_FLASH,
    "dspark_markov_rank": 512,
    "dspark_target_layer_ids": [58, 59, 60],
}

FP4: dict[str, Any] = {
    "expert_dtype": "fp4",
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "scale_fmt": "ue8m0",
        "weight_block_size": [128, 128],
    },
}

# id of the catalog -> (size, draft, quantization type told by the description file or None)
CHECKPOINTS: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "flash-w8a8-mtp": (FLASH, {}, "W8A8_DYNAMIC"),
    "flash-0731-w8a8": (FLASH, DSPARK_FLASH, "W8A8_DYNAMIC"),
    "flash-fp4": (FLASH, {}, None),
    "flash-0731-fp4": (FLASH, DSPARK_FLASH, None),
    "pro-w4a8-mtp": (PRO, {}, "W4A8_DYNAMIC"),
    "pro-0813-w4a8": (PRO, DSPARK_PRO, "W4A8_DYNAMIC"),
    "pro-fp4": (PRO, {}, None),
    "pro-0813-fp4": (PRO, DSPARK_PRO, None),
}


def _config(checkpoint: str) -> dict[str, Any]:
    """Return the ``config.json`` object of a checkpoint."""
    size, draft, described = CHECKPOINTS[checkpoint]
    config = {**COMMON, **size, **draft}
    config["compress_ratios"] = [*size["compress_ratios"], *[0] * (3 if draft else 1)]
    return config if described else {**config, **FP4}


def _tokenizer() -> dict[str, Any]:
    """Return a byte-level BPE tokenizer with no merges and the control tokens."""
    tokens = [*SPECIAL_TOKENS, *map(chr, range(33, 127)), "Ġ", "Ċ"]
    added = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token not in ("<think>", "</think>"),
        }
        for number, token in enumerate(SPECIAL_TOKENS)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    level["trim_offsets"] = True
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [],
        },
    }


def _description(kind: str, layers: int) -> dict[str, str]:
    """Return ``quant_model_description.json``: a type for each tensor, FLOAT where dense."""
    described = {"model_quant_type": kind, "version": "1.0.0", "embed.weight": "FLOAT"}
    described["head.weight"] = "FLOAT"
    for layer in range(layers):
        for name in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b"):
            described[f"layers.{layer}.attn.{name}.weight"] = "W8A8_DYNAMIC"
        for name in ("w1", "w2", "w3"):
            described[f"layers.{layer}.ffn.experts.0.{name}.weight"] = kind
            described[f"layers.{layer}.ffn.shared_experts.{name}.weight"] = "W8A8_DYNAMIC"
    return described


def write_model(directory: Path, checkpoint: str) -> None:
    """Write the model directory of a catalog id into an existing, empty ``directory``."""
    config = _config(checkpoint)
    described = CHECKPOINTS[checkpoint][2]
    files: dict[str, Any] = {
        "config.json": config,
        "generation_config.json": {"bos_token_id": 0, "eos_token_id": 1, "temperature": 1.0},
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIAL_TOKENS[0],
            "eos_token": SPECIAL_TOKENS[1],
            "pad_token": SPECIAL_TOKENS[2],
            "model_max_length": 1048576,
            "add_bos_token": False,
        },
    }
    if described:
        files["quant_model_description.json"] = _description(described, config["num_hidden_layers"])
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    (directory / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}", encoding="utf-8"
    )


def model_directory(parent: Path, checkpoint: str) -> Path:
    """Return ``parent/checkpoint``, written if it was not there; safe against a parallel writer.

    Raises KeyError for an id outside ``CHECKPOINTS``.
    """
    final = parent / checkpoint
    parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{checkpoint}-", dir=parent))
    write_model(fresh, checkpoint)
    try:
        os.rename(fresh, final)
    except OSError:
        # Already there. Files are few and small, so refresh them: the cache
        # outlives this source file.
        for path in fresh.iterdir():
            path.replace(final / path.name)
        fresh.rmdir()
    return final
