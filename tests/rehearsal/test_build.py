import hashlib
import json
import math
import os
import struct
import subprocess
import sys
import time

import pytest

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.rehearsal import build, vocab, weights

ANSWER = (
    "This is a rehearsal: the engine and its parsers are real, "
    "but this checkpoint was constructed and is not a language model."
)
REASONING = (
    "No thought happens here; these fixed words only fill the reasoning channel and then close it."
)
NAMES = [
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]


def read_safetensors(raw):
    size = struct.unpack("<Q", raw[:8])[0]
    assert size % 8 == 0
    header = json.loads(raw[8 : 8 + size])
    data = raw[8 + size :]
    assert header.pop("__metadata__") == {"format": "pt"}
    end, tensors = 0, {}
    for name, entry in header.items():
        assert entry["dtype"] == "BF16"
        start, stop = entry["data_offsets"]
        assert (start, stop - start) == (end, 2 * math.prod(entry["shape"]))
        end = stop
        words = struct.unpack(f"<{(stop - start) // 2}H", data[start:stop])
        tensors[name] = (entry["shape"], words)
    assert end == len(data)
    return tensors


def bfloat16(word):
    return struct.unpack("<f", struct.pack("<I", word << 16))[0]


@pytest.fixture(scope="module")
def tensors():
    return read_safetensors(build.rehearsal_files()["model.safetensors"])


def test_the_directory_holds_these_files_and_nothing_else(tmp_path):
    build.build_rehearsal(tmp_path / "rehearsal")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rehearsal"]
    assert sorted(path.name for path in (tmp_path / "rehearsal").iterdir()) == NAMES
    assert (tmp_path / "rehearsal").stat().st_mode & 0o777 == 0o755
    assert build.is_rehearsal(tmp_path / "rehearsal")


def test_the_bytes_are_the_same_in_every_process():
    script = (
        "import hashlib, json; from ascend_v4.rehearsal.build import rehearsal_files;"
        "print(json.dumps({n: hashlib.sha256(b).hexdigest()"
        " for n, b in sorted(rehearsal_files().items())}))"
    )
    seen = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", script],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
            ).stdout
        )
        for seed in ("1", "2")
    ]
    here = {n: hashlib.sha256(b).hexdigest() for n, b in sorted(build.rehearsal_files().items())}
    assert seen == [here, here]


def test_building_imports_nothing_heavy():
    script = (
        "import sys; from ascend_v4.rehearsal.build import rehearsal_files; rehearsal_files();"
        "print(sorted({m.split('.')[0] for m in sys.modules}"
        " & {'torch', 'numpy', 'transformers', 'tokenizers', 'safetensors', 'pydantic'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0)


def test_it_says_what_it_is():
    files = build.rehearsal_files()
    assert json.loads(files["config.json"])["ascend_v4_rehearsal"] is True
    readme = files["README.md"].decode()
    assert "**not a language model**" in readme
    assert f"> {ANSWER}\n" in readme


def test_config_agrees_with_the_tensors(tensors):
    config = json.loads(build.rehearsal_files()["config.json"])
    size, hidden = config["vocab_size"], config["hidden_size"]
    layer = "model.layers.0"
    assert {name: shape for name, (shape, _) in tensors.items()} == {
        "lm_head.weight": [size, hidden],
        "model.embed_tokens.weight": [size, hidden],
        f"{layer}.input_layernorm.weight": [hidden],
        f"{layer}.mlp.down_proj.weight": [hidden, config["intermediate_size"]],
        f"{layer}.mlp.gate_proj.weight": [config["intermediate_size"], hidden],
        f"{layer}.mlp.up_proj.weight": [config["intermediate_size"], hidden],
        f"{layer}.post_attention_layernorm.weight": [hidden],
        f"{layer}.self_attn.k_proj.weight": [config["head_dim"], hidden],
        f"{layer}.self_attn.o_proj.weight": [hidden, config["head_dim"]],
        f"{layer}.self_attn.q_proj.weight": [config["head_dim"], hidden],
        f"{layer}.self_attn.v_proj.weight": [config["head_dim"], hidden],
        "model.norm.weight": [hidden],
    }
    assert size < weights.FLAG


def test_tokenizer_ids_are_dense_and_special_tokens_resolve():
    tokenizer = json.loads(build.rehearsal_files()["tokenizer.json"])
    table = tokenizer["model"]["vocab"]
    assert sorted(table.values()) == list(range(len(table)))
    assert [table[entry["content"]] for entry in tokenizer["added_tokens"]] == [
        entry["id"] for entry in tokenizer["added_tokens"]
    ]
    assert set(vocab.byte_characters()) <= set(table)
    assert len(set(vocab.byte_characters())) == 256
    # No merges: text never becomes a phrase token, so prompts can be counted by byte.
    assert tokenizer["model"]["merges"] == []
    assert tokenizer["model"]["ignore_merges"] is False


def test_the_special_tokens_are_those_of_deepseek_v4():
    entries = json.loads(build.rehearsal_files()["tokenizer.json"])["added_tokens"]
    assert [(entry["content"], entry["special"]) for entry in entries] == [
        ("<｜begin▁of▁sentence｜>", True),
        ("<｜end▁of▁sentence｜>", True),
        ("<｜▁pad▁｜>", True),
        ("<｜User｜>", True),
        ("<｜Assistant｜>", True),
        ("<｜latest_reminder｜>", True),
        ("<｜deepseek_image｜>", True),
        ("<｜action｜>", True),
        ("<｜query｜>", True),
        ("<｜authority｜>", True),
        ("<｜domain｜>", True),
        ("<｜title｜>", True),
        ("<｜read_url｜>", True),
        ("<｜fim▁begin｜>", True),
        ("<｜fim▁hole｜>", True),
        ("<｜fim▁end｜>", True),
        ("<think>", False),
        ("</think>", False),
        ("｜DSML｜", False),
        ('"name": "rehearse"', False),
        ("<tool_result>", False),
    ]


def follow(tensors, start, flag):
    """Walk the output head from ``start``, as the engine does with greedy sampling."""
    ids = vocab.token_table()
    spelled = {number: token for token, number in ids.items()}
    (rows, columns), head = tensors["lm_head.weight"]
    token, words, margin = ids[start], [], math.inf
    for _ in range(100):
        scale = 1 / math.sqrt(1 + flag * flag)
        scores = [
            scale
            * (
                bfloat16(head[row * columns + token])
                + flag * bfloat16(head[row * columns + weights.FLAG])
            )
            for row in range(rows)
        ]
        best, second = sorted(scores)[-1:-3:-1]
        margin = min(margin, best - second)
        token = scores.index(best)
        words.append(spelled[token])
        if spelled[token] == vocab.EOS:
            break
    back = {character: byte for byte, character in enumerate(vocab.byte_characters())}
    plain = [
        w if w in (vocab.EOS, vocab.THINK_END) else bytes(back[c] for c in w).decode()
        for w in words
    ]
    return "".join(plain), margin


@pytest.mark.parametrize(
    ("start", "flag", "text"),
    [
        ("</think>", 0.0, ANSWER + vocab.EOS),
        ("<think>", 0.0, f"{REASONING}</think>{ANSWER}{vocab.EOS}"),
        ("</think>", 1.0, "".join(vocab.TOOL_CALL) + vocab.EOS),
        ("<think>", 1.0, f"{REASONING}</think>{''.join(vocab.TOOL_CALL)}{vocab.EOS}"),
        ("a", 0.0, ANSWER + vocab.EOS),
    ],
)
def test_the_output_head_spells_the_sentences(tensors, start, flag, text):
    spelled, margin = follow(tensors, start, flag)
    assert spelled == text
    assert margin > 40  # sampling at temperature 1 can't choose another word


def test_a_complete_checkpoint_is_left_untouched(tmp_path):
    target = tmp_path / "models" / "rehearsal"
    build.build_rehearsal(target)
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    inode = target.stat().st_ino
    build.build_rehearsal(target)
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
    assert target.stat().st_ino == inode


@pytest.mark.parametrize("damage", ["truncate", "remove", "edit"])
def test_a_damaged_checkpoint_is_replaced(tmp_path, damage):
    target = tmp_path / "rehearsal"
    build.build_rehearsal(target)
    victim = target / "model.safetensors"
    if damage == "remove":
        victim.unlink()
    else:
        raw = victim.read_bytes()
        victim.write_bytes(raw[:-1] if damage == "truncate" else raw[:-1] + b"\x01")
    build.build_rehearsal(target)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == build.rehearsal_files()
    assert [path.name for path in tmp_path.iterdir()] == ["rehearsal"]


def test_an_interrupted_build_leaves_nothing_under_the_name(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(build.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build.build_rehearsal(tmp_path / "rehearsal")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    build.build_rehearsal(tmp_path / "rehearsal")
    assert build.is_rehearsal(tmp_path / "rehearsal")


def test_what_a_killed_build_left_is_swept_but_a_running_one_is_spared(tmp_path):
    old, new = tmp_path / ".rehearsal.building-old", tmp_path / ".rehearsal.building-new"
    for left in (old, new):
        (left / "built").mkdir(parents=True)
    long_ago = time.time() - 3600
    os.utime(old, (long_ago, long_ago))
    build.build_rehearsal(tmp_path / "rehearsal")
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "rehearsal"]


def test_another_process_that_was_first_is_no_error(tmp_path, monkeypatch):
    target = tmp_path / "rehearsal"
    write = build._write

    def slow_write(directory, files):
        write(directory, files)
        monkeypatch.setattr(build, "_write", write)
        # As if the other process finished between our check and our rename.
        monkeypatch.setattr(build, "_put_in_place", put)
        build.build_rehearsal(target)

    place = build._put_in_place

    def put(built, directory, files):
        monkeypatch.setattr(build, "_put_in_place", place)
        place(built, directory, files)

    monkeypatch.setattr(build, "_write", slow_write)
    build.build_rehearsal(target)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == build.rehearsal_files()


@pytest.mark.parametrize("content", ["{}", "not json", '{"architectures": ["X"]}'])
def test_a_foreign_directory_is_refused_and_left_alone(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(AscendV4Error) as caught:
        build.build_rehearsal(tmp_path)
    assert caught.value.to_json() == {
        "error": {
            "code": ExitCode.WEIGHTS_WRONG_KIND,
            "kind": "not-a-rehearsal",
            "message": f"{tmp_path} holds something other than the rehearsal checkpoint; "
            "it is left as it is",
            "next": "name another directory with --model-dir, or move this one away",
        }
    }
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("config.json", content)]


def test_an_empty_directory_is_used(tmp_path):
    build.build_rehearsal(tmp_path)
    assert build.is_rehearsal(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "rehearsal"
    with pytest.raises(AscendV4Error) as caught:
        build.build_rehearsal(target)
    assert (caught.value.code, caught.value.kind, caught.value.message) == (
        ExitCode.HOST_NOT_READY,
        "cannot-write",
        f"the rehearsal checkpoint can't be written to {target}: "
        f"[Errno 17] File exists: '{tmp_path / 'file'}'",
    )
