"""The constructed weights of the rehearsal checkpoint, written as safetensors by hand.

One Llama layer. Each token's embedding is one-hot, so after the final norm the
output head is a plain table "this token -> scores of the next". The MLP is zero.
The attention has one head, which does one thing: look for an offered tool.

- Its query is the same for every token; its keys are large for three tokens only.
  Softmax then lands on the strongest of them in the context: a tool's result,
  else the offer of the tool, else the first token of the prompt.
- Its value is 1 for the offer and 0 for all others; the output projection puts it
  into one spare hidden dimension, FLAG.
- The output head lets FLAG matter in one place: after ``</think>`` it lifts the first
  token of the tool call above the first token of the answer.

Numbers are powers of two or short sums of them, so bfloat16 holds them exactly.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterable

from ascend_v4.rehearsal import vocab

__all__ = ["HEAD_DIM", "HIDDEN", "INTERMEDIATE", "tensors", "to_safetensors"]

HIDDEN = 1024  # its square root is 32, exact in bfloat16
INTERMEDIATE = 64
HEAD_DIM = 64
FLAG = HIDDEN - 1

# The last rotary pair hardly turns (see rope_theta in build.py), so a score does not
# depend on positions there.
STILL_DIM = HEAD_DIM // 2 - 1
# Divided by sqrt(HEAD_DIM) = 8 these are scores of 32, 64 and 96; a million other
# tokens with score 0 weigh e^14 together.
KEYS = {vocab.BOS: 256.0, vocab.TOOL_OFFERED: 512.0, vocab.TOOL_RESULT: 768.0}

# Logits. With FLAG set the final norm scales the residual by 1/sqrt(2), so the closest
# two candidates anywhere are 42 apart: temperature 1 cannot change a word.
NEXT = 256.0
AFTER_THINKING = {"answer": 128.0, "tool": 64.0, "flag": 128.0}

Matrix = tuple[int, int, dict[tuple[int, int], float]]


def _bfloat16(value: float) -> int:
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    if bits & 0xFFFF:
        raise ValueError(f"{value} is not exact in bfloat16")
    return bits >> 16


def _dense(rows: int, columns: int, entries: dict[tuple[int, int], float]) -> bytes:
    words = array("H", bytes(2 * rows * columns))
    for (row, column), value in entries.items():
        words[row * columns + column] = _bfloat16(value)
    if struct.pack("=H", 1) != struct.pack("<H", 1):
        words.byteswap()
    return words.tobytes()


def _head_entries(ids: dict[str, int]) -> dict[tuple[int, int], float]:
    entries = {(after, token): NEXT for token, after in vocab.chain().items()}
    end = ids[vocab.THINK_END]
    answer = vocab.phrase_ids(vocab.ANSWER)[0]
    tool = vocab.phrase_ids(vocab.TOOL_CALL)[0]
    entries[answer, end] = AFTER_THINKING["answer"]
    entries[tool, end] = AFTER_THINKING["tool"]
    entries[tool, FLAG] = AFTER_THINKING["flag"]
    return entries


def _attention(ids: dict[str, int]) -> dict[str, Matrix]:
    prefix = "model.layers.0.self_attn"
    return {
        f"{prefix}.q_proj.weight": (
            HEAD_DIM,
            HIDDEN,
            {(STILL_DIM, token): 1.0 for token in ids.values()},
        ),
        f"{prefix}.k_proj.weight": (
            HEAD_DIM,
            HIDDEN,
            {(STILL_DIM, ids[token]): key for token, key in KEYS.items()},
        ),
        f"{prefix}.v_proj.weight": (HEAD_DIM, HIDDEN, {(0, ids[vocab.TOOL_OFFERED]): 1.0}),
        f"{prefix}.o_proj.weight": (HIDDEN, HEAD_DIM, {(FLAG, 0): 1.0}),
    }


def tensors() -> dict[str, tuple[list[int], bytes]]:
    """Return every tensor as ``name -> (shape, little-endian bfloat16 bytes)``.

    Names are those of the stock ``LlamaForCausalLM``, shapes ``[out, in]``.
    """
    ids = vocab.token_table()
    size = len(ids)
    # A norm multiplies a one-hot by sqrt(HIDDEN); its weight undoes that.
    norm = (1, HIDDEN, {(0, column): HIDDEN**-0.5 for column in range(HIDDEN)})
    mlp = "model.layers.0.mlp"
    matrices: dict[str, Matrix] = {
        "model.embed_tokens.weight": (size, HIDDEN, {(n, n): 1.0 for n in range(size)}),
        "lm_head.weight": (size, HIDDEN, _head_entries(ids)),
        **_attention(ids),
        f"{mlp}.gate_proj.weight": (INTERMEDIATE, HIDDEN, {}),
        f"{mlp}.up_proj.weight": (INTERMEDIATE, HIDDEN, {}),
        f"{mlp}.down_proj.weight": (HIDDEN, INTERMEDIATE, {}),
    }
    built = {name: ([m[0], m[1]], _dense(*m)) for name, m in matrices.items()}
    for name in (
        "model.norm",
        "model.layers.0.input_layernorm",
        "model.layers.0.post_attention_layernorm",
    ):
        built[f"{name}.weight"] = ([HIDDEN], _dense(*norm))
    return built


def to_safetensors(parts: Iterable[tuple[str, tuple[list[int], bytes]]]) -> bytes:
    """Return a safetensors file of bfloat16 tensors, in the order given.

    Layout: 8 bytes little-endian header length, the JSON header padded with spaces to
    a multiple of 8, then the data. Source:
    https://github.com/huggingface/safetensors#format
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, (shape, raw) in parts:
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(data)
