"""Geometry from a config.json: DeepSeek-V4 as it is, other architectures by general rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ascend_v4.errors import AscendV4Error, ExitCode

from .facts import kv_model

__all__ = ["GenericPool", "generic_pool", "model_of_config"]

#: Compressions that the engines have caches for; 0 is a window only.
RATIOS = (0, 1, 4, 128)
CONFIG_SOURCE = "config.json of the model directory"


def model_of_config(config: Mapping[str, Any], family: str) -> dict[str, Any]:
    """Return a geometry row of a config.json.

    ``family`` gives the parameters by component where the configuration is of its size.
    Raises AscendV4Error (usage) for a configuration that names no layers or holds values
    of another kind.
    """
    try:
        return read_config(config, family)
    except (TypeError, ValueError, KeyError) as error:
        raise AscendV4Error(
            ExitCode.USAGE,
            "bad-config",
            f"config.json holds a value that can't be read as a model's ({error})",
            "ascend-v4 plan --model flash",
        ) from error


def read_config(config: Mapping[str, Any], family: str) -> dict[str, Any]:
    """Return the row of a configuration, of DeepSeek-V4 or of another architecture."""
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    layers = config.get("num_hidden_layers")
    if not isinstance(layers, int) or layers < 1:
        raise AscendV4Error(
            ExitCode.USAGE,
            "unknown-architecture",
            "config.json states no num_hidden_layers, so nothing can be computed from it",
            "ascend-v4 plan --model flash",
        )
    ratios = config.get("compress_ratios")
    if isinstance(ratios, list) and str(config.get("model_type", "")) == "deepseek_v4":
        return v4_row(config, layers, [int(ratio) for ratio in ratios[:layers]], family)
    return plain_row(config, layers)


def v4_row(
    config: Mapping[str, Any], layers: int, ratios: list[int], family: str
) -> dict[str, Any]:
    """Return the row of a DeepSeek-V4 configuration."""
    odd = sorted(set(ratios) - set(RATIOS))
    if odd:
        raise ValueError(f"compress_ratios {odd}; there are {', '.join(map(str, RATIOS))}")
    known = next((row for row in map(safe_model, ("flash", "pro")) if same_size(row, config)), None)
    base: dict[str, Any] = dict(known or {"kind": "v4", "title": "DeepSeek-V4 of another size"})
    base |= {
        "id": base.get("id", "config"),
        "layers": layers,
        "ratios": ratios,
        "hidden": config.get("hidden_size"),
        "head_dim": config.get("head_dim", 512),
        "index_head_dim": config.get("index_head_dim", 128),
        "window": config.get("sliding_window", 128),
        "kv_heads": config.get("num_key_value_heads", 1),
        "heads": config.get("num_attention_heads"),
        "max_context": config.get("max_position_embeddings", 1048576),
        "draft_layers": {"mtp": config.get("num_nextn_predict_layers", 1), "dspark": 3},
        "source": CONFIG_SOURCE,
    }
    return base


def safe_model(family: str) -> Mapping[str, Any]:
    """Return the catalog's geometry of a family."""
    return kv_model(family)


def same_size(row: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a configuration has the layers and width of a catalog row."""
    return bool(
        row["layers"] == config["num_hidden_layers"] and row["hidden"] == config.get("hidden_size")
    )


def plain_row(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Return the row of another architecture: latent attention, or grouped queries."""
    heads = int(config.get("num_attention_heads") or 1)
    hidden = int(config.get("hidden_size") or 0)
    latent = config.get("kv_lora_rank")
    return {
        "id": "config",
        "title": str((config.get("architectures") or ["another architecture"])[0]),
        "kind": "mla" if latent else "gqa",
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": int(config.get("num_key_value_heads") or heads),
        "head_dim": int(config.get("head_dim") or (hidden // heads if heads else 0)),
        "latent": int(latent or 0) + int(config.get("qk_rope_head_dim") or 0),
        "bytes": dense_bytes(config, layers),
        "max_context": int(config.get("max_position_embeddings") or 0) or None,
        "source": CONFIG_SOURCE,
    }


def dense_bytes(config: Mapping[str, Any], layers: int) -> int | None:
    """Return the bytes of a dense model at two bytes a weight, by its configuration.

    None where experts, latent attention or a quantisation make the configuration say less.
    """
    experts = any("expert" in key for key, value in config.items() if value)
    names = ("hidden_size", "intermediate_size", "vocab_size", "num_attention_heads")
    sizes = [config.get(name) for name in names]
    special = experts or config.get("kv_lora_rank") or config.get("quantization_config")
    if special or not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    hidden, inner, words, heads = (int(size) for size in sizes if size)
    width = int(config.get("head_dim") or hidden // heads)
    kv = width * int(config.get("num_key_value_heads") or heads)
    attention = 2 * hidden * width * heads + 2 * hidden * kv
    if config.get("attention_bias") or config.get("model_type") == "qwen2":
        attention += width * heads + 2 * kv
    layer = attention + 3 * hidden * inner + 2 * hidden
    embeddings = 1 if config.get("tie_word_embeddings") else 2
    return 2 * (layers * layer + embeddings * words * hidden + hidden)


class GenericPool:
    """KV of a model without hybrid caches: so many bytes a token, in even blocks.

    Grouped queries are split by tensor parallelism down to one head, a latent cache is
    whole on every rank. Values are two bytes (bf16).
    """

    def __init__(self, model: Mapping[str, Any], block: int, tp: int, pp: int) -> None:
        layers = -(-int(model["layers"]) // pp)
        if model["kind"] == "mla":
            row = 2 * int(model["latent"])
        else:
            row = 2 * 2 * int(model["head_dim"]) * max(1, int(model["kv_heads"]) // tp)
        self.block, self.bytes_per_block = block, block * row * layers

    def blocks(self, context: int) -> int:
        """Return the blocks of one request."""
        return -(-context // self.block)

    def num_blocks(self, available: int) -> int:
        """Return the blocks that ``available`` bytes hold."""
        return max(0, available // self.bytes_per_block)


def generic_pool(model: Mapping[str, Any], block: int, tp: int, pp: int) -> GenericPool:
    """Return the pool of a model of another architecture."""
    return GenericPool(model, block, tp, pp)
