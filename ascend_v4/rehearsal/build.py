"""Builds the rehearsal checkpoint: a directory that the real engine serves like any other."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.rehearsal import vocab, weights

__all__ = ["MARKER", "MAX_CONTEXT", "build_rehearsal", "is_rehearsal", "rehearsal_files"]

MARKER = "ascend_v4_rehearsal"  # the key in config.json that says what this is
MAX_CONTEXT = 65536  # tokens
STALE_S = 600.0  # a build takes well under a second

README = f"""\
# Rehearsal checkpoint

This is **not a language model** and not DeepSeek-V4. Nothing in it was trained: ascend-v4
constructed its weights so that a real vLLM server can be rehearsed on a CPU. It answers
every question with the same sentence:

> {"".join(vocab.ANSWER)}

In thinking mode it first fills the reasoning channel with a fixed sentence too. If a tool
named `{vocab.TOOL_NAME}` is offered, it calls that tool once. What is real is everything around
it: the engine, its DeepSeek-V4 chat encoding, reasoning and tool parsers, streaming, token
counts. Delete this directory at any time; ascend-v4 makes it again when needed.
"""


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def _config() -> dict[str, object]:
    ids = vocab.token_table()
    return {
        MARKER: True,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": len(ids),
        "hidden_size": weights.HIDDEN,
        "intermediate_size": weights.INTERMEDIATE,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": weights.HEAD_DIM,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-12,
        "max_position_embeddings": MAX_CONTEXT,
        # So large that the slowest rotary pair turns 1e-5 rad over the whole context.
        "rope_theta": 1e10,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": ids[vocab.BOS],
        "eos_token_id": ids[vocab.EOS],
    }


def _tokenizer() -> dict[str, object]:
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocab.added_tokens(),
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab.token_table(),
            "merges": [],
        },
    }


def rehearsal_files() -> dict[str, bytes]:
    """Return the whole checkpoint as ``file name -> bytes``, the same on every machine."""
    ids = vocab.token_table()
    return {
        "README.md": README.encode(),
        "config.json": _json(_config()),
        "generation_config.json": _json(
            {"bos_token_id": ids[vocab.BOS], "eos_token_id": ids[vocab.EOS]}
        ),
        "model.safetensors": weights.to_safetensors(sorted(weights.tensors().items())),
        "tokenizer.json": _json(_tokenizer()),
        "tokenizer_config.json": _json(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": vocab.BOS,
                "eos_token": vocab.EOS,
                "pad_token": vocab.PAD,
                "model_max_length": MAX_CONTEXT,
                "clean_up_tokenization_spaces": False,
            }
        ),
    }


def is_rehearsal(directory: Path) -> bool:
    """Whether ``directory`` says in its config.json that it is a rehearsal checkpoint."""
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get(MARKER) is True


def _complete(directory: Path, files: dict[str, bytes]) -> bool:
    try:
        return all((directory / name).read_bytes() == data for name, data in files.items())
    except OSError:
        return False


def _sweep(directory: Path) -> None:
    """Remove what interrupted builds left beside ``directory``, sparing one that may still run."""
    for left in directory.parent.glob(f".{directory.name}.building-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_S:
                shutil.rmtree(left, ignore_errors=True)


def _refuse_foreign(directory: Path) -> None:
    if not directory.exists() or is_rehearsal(directory):
        return
    if directory.is_dir() and not any(directory.iterdir()):
        return
    raise AscendV4Error(
        ExitCode.WEIGHTS_WRONG_KIND,
        "not-a-rehearsal",
        f"{directory} holds something other than the rehearsal checkpoint; it is left as it is",
        "name another directory with --model-dir, or move this one away",
    )


def _write(directory: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        with (directory / name).open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    directory.chmod(0o755)  # mkdtemp's 0700 would keep a service account out


def _put_in_place(built: Path, directory: Path, files: dict[str, bytes]) -> None:
    with contextlib.suppress(FileNotFoundError):
        # A damaged or older checkpoint moves away whole, then goes with the scratch.
        directory.rename(built.parent / "replaced")
    try:
        built.rename(directory)
    except OSError as error:
        # Another process put the same bytes there in between: as good as ours.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _complete(directory, files):
            raise


def build_rehearsal(directory: Path) -> None:
    """Make ``directory`` the rehearsal checkpoint: about 1.5 MB, built in well under a second.

    The bytes are the same every time; a complete directory is left untouched, a
    damaged one replaced. It is built beside ``directory`` and renamed into place, so
    an interrupted build never leaves half a checkpoint under that name.

    Raises:
        AscendV4Error: ``not-a-rehearsal`` when the directory holds something else,
            ``cannot-write`` when it can't be written.
    """
    files = rehearsal_files()
    try:
        _refuse_foreign(directory)
        if _complete(directory, files):
            return
        directory.parent.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
        prefix = f".{directory.name}.building-"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=directory.parent) as scratch:
            built = Path(scratch) / "built"
            built.mkdir()
            _write(built, files)
            _put_in_place(built, directory, files)
    except OSError as error:
        raise AscendV4Error(
            ExitCode.HOST_NOT_READY,
            "cannot-write",
            f"the rehearsal checkpoint can't be written to {directory}: {error}",
            "name another place with --model-dir or ASCEND_V4_MODELS",
        ) from error
