"""The models that people weigh: their rows against their own configurations."""

from __future__ import annotations

import json

import pytest

from ascend_v4.sizing.facts import kv_model
from ascend_v4.sizing.generic import model_of_config

#: config.json of the hubs, the fields that decide size and KV.
CONFIGS = {
    "llama-3.3-70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "max_position_embeddings": 131072,
        "num_attention_heads": 64,
        "num_hidden_layers": 80,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "attention_bias": False,
    },
    "qwen2.5-72b": {
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "max_position_embeddings": 32768,
        "num_attention_heads": 64,
        "num_hidden_layers": 80,
        "num_key_value_heads": 8,
        "vocab_size": 152064,
        "attention_bias": True,
    },
}


def parameters(config):
    """Return the parameters of a dense model with separate input and output embeddings."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    attention = 2 * hidden * hidden + 2 * hidden * kv
    if config["attention_bias"]:
        attention += hidden + 2 * kv
    layer = attention + 3 * hidden * inner + 2 * hidden
    return config["num_hidden_layers"] * layer + 2 * config["vocab_size"] * hidden + hidden


@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_says_what_the_configuration_says(name):
    row, config = kv_model(name), CONFIGS[name]
    told = model_of_config(config, "flash")
    fields = ("kind", "layers", "hidden", "heads", "kv_heads", "head_dim", "max_context")
    assert {f: row[f] for f in fields} == {f: told[f] for f in fields}
    assert row["bytes"] == 2 * parameters(config)
    assert row["total_billion"] == pytest.approx(parameters(config) / 1e9, abs=0.05)


@pytest.mark.parametrize("name", CONFIGS)
def test_plan_takes_such_a_directory_by_general_rules(ascend, tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    options = ("--hardware", "4xh200", "--model-dir", tmp_path, "--context", 32768)
    done = ascend("plan", "--json", *options, "--tensor-parallel-size", 4, "--spec", "none")
    said = json.loads(done.out)
    assert (said["verdict"], said["flags"]) == ("fits", [])
    low, high = said["weights_gib_interval"]
    whole = 2 * parameters(CONFIGS[name]) / 2**30 / 4
    assert low == pytest.approx(whole, abs=0.001) and high == pytest.approx(whole * 1.05, abs=0.001)
    # K and V of 8 heads of 128 values in 80 layers, two bytes each, split over four devices.
    assert said["kv"]["formula"] == "generic"
    assert said["kv"]["bytes_per_token"] == 2 * 2 * 128 * 8 * 80 / 4
    text = ascend("plan", *options).out
    assert "general formulas for another architecture" in text
    assert "serve it with" not in text


@pytest.mark.parametrize("more", [{"num_experts": 8}, {"quantization_config": {"bits": 4}}])
def test_what_a_configuration_does_not_say_is_not_made_up(ascend, tmp_path, more):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["qwen2.5-72b"] | more))
    options = ("--hardware", "4xh200", "--model-dir", tmp_path, "--context", 32768)
    done = ascend("plan", "--json", *options)
    said = json.loads(done.out)
    assert (done.code, said["verdict"], said["weights_gib_per_device"]) == (16, "unsure", None)
    assert "give what is left for KV with --available-kv-gib" in said["reason"]
    given = json.loads(ascend("plan", "--json", *options, "--available-kv-gib", 40).out)
    assert (given["verdict"], given["kv"]["formula"]) == ("fits", "generic")
