"""What each layer keeps for a request: the caches of a model, as the engines describe them.

A DeepSeek-V4 layer keeps a sliding window; a layer with compression 4 keeps also one
compressed row for every 4 tokens, an indexer key for each of those and two compressor
states; a layer with compression 128 keeps one row for 128 tokens and one state. The
sizes are rows of the ``kv_caches`` table, each with the engine's file and line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Cache", "Layout", "compress_ratios", "model_caches"]

#: Bytes of one row of the main cache and the window, by plain KV type (512 values a row).
PLAIN_ROW = {"fp8": 512, "bf16": 1024}
STATE_VALUE_BYTES = 4  # compressor states are fp32 on both engines


class Cache(NamedTuple):
    """One cache of one layer.

    ``block`` is the block size by which the engine groups it, ``covers`` the tokens that
    one block of a full cache holds, ``page`` the bytes of one block of this layer,
    ``window`` the tokens that a windowed cache keeps (0: all of them).
    """

    name: str
    layer: int
    block: int
    covers: int
    page: int
    window: int = 0
    draft: bool = False


@dataclass(frozen=True)
class Layout:
    """What decides the caches' pages beside the model: rows of the catalog and options.

    ``kv_type`` is packed (fp8 rows with their scales, the default), fp8 or bf16 (plain
    rows); ``block_size`` is ``--block-size`` in tokens.
    """

    caches: Mapping[str, Any]
    release: Mapping[str, Any]
    block_size: int
    kv_type: str = "packed"
    fp4_indexer: bool = False


def round_up(value: int, step: int) -> int:
    """Return the smallest multiple of ``step`` that is not below ``value``."""
    return -(-value // step) * step


def compress_ratios(model: Mapping[str, Any]) -> list[int]:
    """Return the compression of each layer; ``[4, 128, 20]`` in a row means 20 pairs."""
    ratios: list[int] = []
    for item in model["ratios"]:
        if isinstance(item, list):
            *pattern, times = item
            ratios += pattern * times
        else:
            ratios.append(item)
    return ratios


def model_caches(model: Mapping[str, Any], layout: Layout, spec: str = "none") -> list[Cache]:
    """Return the caches of a model in the order in which its layers register them.

    ``spec`` is none, mtp or dspark; draft layers come last and keep a window only.
    """
    build = ascend_layer if layout.caches["rows"] == "stored-rows" else upstream_layer
    ratios = compress_ratios(model)
    caches = [c for i, ratio in enumerate(ratios) for c in build(model, layout, i, ratio)]
    for i in range(int(model.get("draft_layers", {}).get(spec, 0))):
        window = build(model, layout, len(ratios) + i, 0)[0]
        caches.append(window._replace(name=f"mtp.{i}.swa", draft=True))
    return caches


def upstream_layer(model: Mapping[str, Any], layout: Layout, i: int, ratio: int) -> list[Cache]:
    """Return the caches of one layer as upstream vLLM describes them."""
    rows, block = layout.caches, layout.block_size
    packed = layout.kv_type == "packed"
    main = rows["main_row"] if packed else PLAIN_ROW[layout.kv_type]
    align, index_align = (rows["alignment"],) * 2 if packed else layout.release["plain_alignment"]
    width, window = rows["window_block"], model["window"]
    swa = Cache(f"{i}.swa", i, width, width, round_up(width * main, align), window)
    if ratio <= 1:
        return [swa]
    page = round_up(block // ratio * main, align)
    full = Cache(f"{i}.main", i, block, block, page)
    states = upstream_states(model, rows, i, ratio, align)
    if ratio != 4:
        return [swa, full, *states]
    saves = layout.fp4_indexer and layout.release.get("fp4_indexer_saves")
    key = rows["fp4_index_row"] if saves else rows["index_row"]
    index = Cache(f"{i}.index", i, block, block, round_up(block // ratio * key, index_align))
    return [swa, full, index, *states]


def upstream_states(
    model: Mapping[str, Any], rows: Mapping[str, Any], i: int, ratio: int, align: int
) -> list[Cache]:
    """Return the compressor states of a layer: two overlapping windows where ratio is 4."""
    overlap = 2 if ratio == 4 else 1
    block, window = rows[f"c{ratio}_state_block"], overlap * ratio

    def state(name: str, dim: int) -> Cache:
        row = 2 * overlap * dim * STATE_VALUE_BYTES
        return Cache(f"{i}.{name}", i, block, block, round_up(block * row, align), window)

    main = state("state", model["head_dim"])
    return [main, state("index-state", model["index_head_dim"])] if ratio == 4 else [main]


def ascend_layer(model: Mapping[str, Any], layout: Layout, i: int, ratio: int) -> list[Cache]:
    """Return the caches of one layer as vllm-ascend describes them.

    A block counts stored rows, so one of a compressed cache covers ``ratio`` times its
    tokens; the states' pages are padded to those of the rows.
    """
    rows, block, window = layout.caches, layout.block_size, model["window"]
    page, index_page = block * rows["main_row"], block * rows["index_row"]
    swa = Cache(f"{i}.swa", i, block, block, page, window)
    if ratio <= 1:
        return [swa]
    covers = block * ratio
    full = Cache(f"{i}.main", i, covers, covers, page)
    small = block // rows[f"c{ratio}_state_divisor"]
    kept = 2 * ratio if ratio == 4 else ratio
    state = Cache(f"{i}.state", i, small, small, page, kept)
    if ratio != 4:
        return [swa, full, state]
    index = Cache(f"{i}.index", i, covers, covers, index_page)
    return [swa, full, index, state, Cache(f"{i}.index-state", i, small, small, index_page, kept)]
