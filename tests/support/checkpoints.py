"""Small checkpoints of every kind, with real safetensors headers over sparse data."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path

from ascend_v4.weights.safetensors import BITS

Shapes = dict[str, tuple[str, list[int]]]


def tensor(kind: str, shape: list[int], start: int) -> dict[str, object]:
    size = BITS[kind] * math.prod(shape) // 8
    return {"dtype": kind, "shape": shape, "data_offsets": [start, start + size]}


def header_bytes(shapes: Shapes, metadata: bool = True) -> tuple[bytes, int]:
    """Return a header and the number of data bytes that follow it."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}} if metadata else {}
    at = 0
    for name, (kind, shape) in shapes.items():
        header[name] = tensor(kind, shape, at)
        at = header[name]["data_offsets"][1]  # type: ignore[index]
    return json.dumps(header).encode(), at


def shard_bytes(shapes: Shapes, seed: int = 0) -> bytes:
    """Return a whole safetensors file with reproducible data."""
    header, size = header_bytes(shapes)
    data = hashlib.shake_256(str(seed).encode()).digest(size)
    return struct.pack("<Q", len(header)) + header + data


def config(kind: str) -> dict[str, object]:
    """Return a config.json of one kind of checkpoint."""
    layers = 61 if kind.startswith("pro") else 43
    value: dict[str, object] = {"model_type": "deepseek_v4", "num_hidden_layers": layers}
    if "0731" in kind:
        value["dspark_block_size"] = 5
    return value


def checkpoint_files(
    kind: str = "flash-w8a8-mtp", shards: int = 3, seed: int = 0
) -> dict[str, bytes]:
    """Return the files of a small checkpoint of a catalog id, three tensors a shard."""
    quantised = "w8a8" in kind or "w4a8" in kind
    stem = "quant_model_weights" if quantised else "model"
    files, where = {}, {}
    for i in range(1, shards + 1):
        name = f"{stem}-{i:05}-of-{shards:05}.safetensors"
        shapes: Shapes = {
            f"layers.{i}.w.weight": ("I8", [64, 64]),
            f"layers.{i}.w.weight_scale": ("F32", [64]),
            f"layers.{i}.norm.weight": ("BF16", [64]),
        }
        files[name] = shard_bytes(shapes, seed + i)
        where |= dict.fromkeys(shapes, name)
    files[f"{stem}.safetensors.index.json"] = json.dumps({"weight_map": where}).encode()
    files["config.json"] = json.dumps(config(kind)).encode()
    files["tokenizer.json"] = b"{}"
    if quantised:
        description = {name: "W8A8_DYNAMIC" if ".w." in name else "FLOAT" for name in where}
        files["quant_model_description.json"] = json.dumps(
            {"model_quant_type": "W8A8_DYNAMIC", "version": "1.0.0", **description}
        ).encode()
    if kind.endswith("nvfp4"):
        files["hf_quant_config.json"] = b'{"quantization": {"quant_algo": "NVFP4"}}'
    return files


def write_files(directory: Path, files: dict[str, bytes]) -> Path:
    """Write files below a directory and return it."""
    for path, body in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(body)
    return directory


def sparse_checkpoint(directory: Path, shards: int, shard_size: int, tensors: int) -> Path:
    """Write a checkpoint of sparse shards: right headers, right lengths, no data on disk."""
    where = {}
    directory.mkdir(parents=True, exist_ok=True)
    for i in range(1, shards + 1):
        name = f"quant_model_weights-{i:05}-of-{shards:05}.safetensors"
        rows = shard_size // tensors // 1024
        shapes: Shapes = {
            f"model.layers.{i}.mlp.experts.{k}.up_proj.weight": ("I8", [rows, 1024])
            for k in range(tensors)
        }
        header, size = header_bytes(shapes)
        with (directory / name).open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + size)
        where |= dict.fromkeys(shapes, name)
    small = checkpoint_files(shards=1)
    small["quant_model_weights.safetensors.index.json"] = json.dumps({"weight_map": where}).encode()
    small["quant_model_description.json"] = json.dumps(
        {"version": "1.0.0", **dict.fromkeys(where, "W8A8_DYNAMIC")}
    ).encode()
    del small["quant_model_weights-00001-of-00001.safetensors"]
    return write_files(directory, small)
