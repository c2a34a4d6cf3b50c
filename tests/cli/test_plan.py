"""``ascend-v4 plan`` as an operator or a script uses it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.sizing.test_fit import LOG

LOAD = ("--rps", 1, "--input", 3500, "--output", 1500)


def answer(outcome):
    return json.loads(outcome.out)


def test_the_kv_part_alone_for_a_script(ascend):
    done = ascend(
        *("plan", "--json", "--engine", "vllm", "--engine-version", "0.32.0"),
        *("--available-kv-gib", 32, "--context", 1048576, "--max-num-batched-tokens", 8192),
        *("--spec", "none"),
    )
    assert done.code == 0
    said = answer(done)
    kv = said["kv"]
    figures = {
        name: kv[name]
        for name in (
            *("available_gib", "bytes_per_block", "num_blocks", "in_flight_tokens"),
            *("blocks_per_request", "gib_per_request", "max_concurrency"),
            *("log_max_concurrency", "log_kv_tokens"),
        )
    }
    assert figures == {
        "available_gib": 32.0,
        "bytes_per_block": 1002240,
        "num_blocks": 34282,
        "in_flight_tokens": 16384,
        "blocks_per_request": 10778,
        "gib_per_request": 10778 * 1002240 / 2**30,
        "max_concurrency": 34282 / 10778,
        "log_max_concurrency": 34282 / 10778,
        "log_kv_tokens": 3335246,
    }
    assert said["verdict"] == "fits"


def test_what_the_log_prints_differs_from_what_the_pool_holds_up_to_0_26(ascend):
    done = ascend(
        *("plan", "--json", "--engine", "vllm", "--engine-version", "0.25.1"),
        *("--available-kv-gib", 32, "--context", 131072, "--max-num-batched-tokens", 8192),
        *("--spec", "none"),
    )
    kv = answer(done)["kv"]
    assert (round(kv["max_concurrency"], 2), round(kv["log_max_concurrency"], 2)) == (8.55, 9.49)


def test_no_async_scheduling_halves_what_is_in_flight(ascend):
    options = ("plan", "--json", "--engine", "vllm", "--available-kv-gib", 32)
    both = [answer(ascend(*options, *more))["kv"] for more in ((), ("--no-async-scheduling",))]
    assert both[0]["in_flight_tokens"] == 2 * both[1]["in_flight_tokens"]


@pytest.mark.parametrize(
    ("options", "code", "verdict"),
    [
        (("--hardware", "1xh200"), 5, "does not fit"),
        (("--hardware", "2xh200"), 0, "fits"),
        (("--hardware", "2xa100"), 5, "does not fit"),
        (("--hardware", "1xa2:910b4"), 5, "does not fit"),
        (("--hardware", "1xa3"), 0, "fits"),
        (("--hardware", "1xa2"), 16, "unsure"),
        (("--hardware", "1xa3", "--engine-version", "0.13.0rc3"), 16, "unsure"),
    ],
)
def test_verdicts_and_exit_codes(ascend, options, code, verdict):
    done = ascend("plan", "--json", *options)
    assert (done.code, answer(done)["verdict"]) == (code, verdict)


def test_a_model_without_a_public_configuration_is_unknown(ascend):
    hub = "deepseek-ai/DeepSeek-V4.1-Flash"
    done = ascend("plan", "--hardware", "8xh200", "--model", hub)
    assert done.code == 16
    assert "no configuration of v4.1-flash is known" in done.err


def test_a_broken_rule_stands_beside_the_arithmetic(ascend):
    said = answer(ascend("plan", "--json", "--hardware", "2xa100"))
    assert said["kv"]["bytes_per_block"] == 1002240
    assert {"chip-unsupported", "guide-a100"} <= {note["id"] for note in said["findings"]}


def test_ascend_weights_are_an_interval_and_name_no_single_number(ascend):
    said = answer(ascend("plan", "--json", "--hardware", "1xa3"))
    low, high = said["weights_gib_per_device"]
    # An interval that is wide enough for what was measured, and still says something.
    assert 1.24 < high / low < 1.4
    assert (said["calibrated"], said["anchor"]) == (True, "ci-a3-tp4-dp4")
    assert isinstance(said["kv"]["num_blocks"], list)


def test_the_text_says_what_decides(ascend):
    done = ascend("plan", "--hardware", "2xh200")
    assert done.code == 0
    first, second, *_ = done.out.splitlines()
    assert first.startswith("fits: one request of 131,072 tokens: 6.71 GiB of KV; a device has ")
    assert second == "DeepSeek-V4-Flash on 2 x h200, TP2 x DP1, vllm 0.32.0, spec mtp"
    assert "costs a request as much KV as 208 tokens of context" in done.out
    assert "throughput: no anchor" in done.out
    assert "serve it with: vllm serve " in ascend("plan", "--hardware", "4xh200").out


@pytest.mark.parametrize(
    ("options", "command"),
    [
        (("2xa3", "--model", "pro"), "topology init --shape a3-dp"),
        (("2xa3",), "topology init --shape a3-1p1d"),
        (("4xa2",), "topology init --shape a2-dp --nodes 4"),
        (("4xa2:910b4",), "topology init --shape a2-dp --nodes 4 --chip a2:910b4"),
        (("16xb200",), "topology init --shape cuda-pd-2 --chip b200"),
        (("3xa3",), "topology shapes"),
    ],
)
def test_several_nodes_begin_with_a_topology_file(ascend, options, command):
    done = ascend("plan", "--hardware", *options)
    assert f"\n  fix: ascend-v4 {command}\n" in done.err
    said = [line for line in done.out.splitlines() if line.startswith(("next:", "serve it"))]
    assert said == [f"next: ascend-v4 {command}"]
    assert ascend(*command.split()).code == 0


def test_what_serve_refuses_is_not_offered(ascend):
    options = ("plan", "--chip", "a3", "--spec", "none")
    refused = ascend(*options)
    assert "fits: " in refused.out and "[unvalidated]" in refused.err
    assert "serve it with" not in refused.out
    assert "serve it with: vllm serve " in ascend(*options, "--allow-unvalidated").out


@pytest.mark.parametrize(
    ("options", "served", "rank", "why"),
    [
        (("4xh200",), "TP1 x DP4", 1, ""),
        (("1xa2",), "TP8 x DP1", 1, ""),
        (
            ("2xh200",),
            "TP2 x DP1",
            2,
            "choice cuda-tp: single node: tensor parallel with expert parallel; "
            "no launch with TP1 x DP2 is published for this chip and release",
        ),
        (("4xh200", "--tensor-parallel-size", 4), "TP4 x DP1", 3, "an option asks for it"),
        (
            ("16xh200", "--tensor-parallel-size", 16),
            "TP16 x DP1",
            None,
            "an option asks for it; it isn't ranked, as the model can't be split over TP16",
        ),
    ],
)
def test_the_plan_has_the_first_layout_or_says_why_not(ascend, options, served, rank, why):
    said = answer(ascend("plan", "--json", "--hardware", *options))
    choice, layouts = said["layout_choice"], said["layouts"]
    assert (choice["served"], choice["rank"]) == (served, rank)
    assert choice["why"].startswith(why) and bool(choice["why"]) == bool(why)
    argv = said["flags"]
    size, copies = (argv[argv.index(f"--{n}-parallel-size") + 1] for n in ("tensor", "data"))
    assert served == f"TP{size} x DP{copies}"
    text = ascend("plan", "--hardware", *options).out
    if not why:
        assert "this plan has" not in text
        return
    first = layouts[0]
    wanted = (
        f"--tensor-parallel-size {first['tensor_parallel_size']} "
        f"--data-parallel-size {first['data_parallel_size']}"
    )
    assert choice["for_the_first"] == wanted
    assert f"this plan has {served}: {why}" in text
    assert text.split("this plan has")[1].splitlines()[0].endswith(wanted)


def test_where_no_layout_fits_there_is_none_to_prefer(ascend):
    said = answer(ascend("plan", "--json", "--hardware", "1xa2", "--model", "pro"))
    assert (said["verdict"], said["layout_choice"]["why"]) == ("does not fit", "")


def test_a_tutorial_alone_proves_no_start(ascend):
    out = ascend("plan", "--hardware", "1xa2").out
    assert out.startswith("unsure: ")
    assert "that alone proves no start" in out.splitlines()[2]


def test_what_else_takes_memory_is_named(ascend):
    npus = answer(ascend("plan", "--json", "--hardware", "1xa3"))
    buffers = npus["communication_buffers"]
    assert (buffers["library"], buffers["of"]) == ("HCCL", ["tensor", "data", "expert"])
    assert buffers["gib"] == buffers["count"] * buffers["mb_each"] / 1024
    assert buffers["source"].startswith("https://www.hiascend.com/document/detail/")
    gpus = answer(ascend("plan", "--json", "--hardware", "4xh200"))
    assert gpus["communication_buffers"]["of"] == ["data", "expert"]
    assert (gpus["communication_buffers"]["library"], gpus["communication_buffers"]["gib"]) == (
        "NCCL",
        None,
    )
    # One draft layer: its experts over four devices, the rest of it whole on each.
    assert 0.8 < gpus["draft_weights_gib_per_device"] < 1.2
    plain = answer(ascend("plan", "--json", "--hardware", "4xh200", "--spec", "none"))
    assert plain["draft_weights_gib_per_device"] == 0
    text = ascend("plan", "--hardware", "1xa3").out
    assert "  of it HCCL: 3 communicators (tensor, data, expert), 2048 MB each once used" in text
    assert "  of it mtp draft layers: " in text


def test_explain_names_every_source(ascend):
    said = answer(ascend("plan", "--json", "--explain", "--hardware", "2xh200"))
    assert [t["term"] for t in said["terms"]][:5] == [
        *("device memory", "usable", "weights", "everything else", "available for KV"),
    ]
    assert all(term["source"] for term in said["terms"])
    assert "bytes per block" in ascend("plan", "--explain", "--hardware", "2xh200").out


def test_the_sweep_shows_the_trade(ascend):
    done = ascend("plan", "--json", "--sweep", "--engine", "vllm", "--available-kv-gib", 32)
    rows = answer(done)["sweep"]
    assert [row["max_num_batched_tokens"] for row in rows] == [512, 1024, 2048, 4096, 8192, 16384]
    held = [row["concurrency"]["131072"][0] for row in rows]
    assert held == sorted(held, reverse=True)
    assert "batched tokens" in ascend("plan", "--sweep", "--hardware", "2xh200").out


def test_an_upgrade_that_halves_the_concurrency_is_said_before(ascend):
    options = ("--hardware", "4xh200", "--available-kv-gib", 32, "--context", 131072)
    done = ascend("plan", "compare-releases", "0.25.1", "0.26.0", *options, "--json")
    said = answer(done)
    assert done.code == 0
    assert said["concurrency_ratio"] == pytest.approx(3866 / 7194, abs=0.001)
    assert "46% fewer requests" in said["says"]
    text = ascend("plan", "compare-releases", "0.25.1", "0.26.0", *options)
    assert text.out.startswith("from 0.25.1 to 0.26.0: 46% fewer requests at once")


def test_models_side_by_side(ascend):
    rows = answer(ascend("plan", "compare-models", "--hardware", "8xh200", "--json"))["models"]
    assert [row["model"] for row in rows] == [
        *("flash", "pro", "llama-3.3-70b", "qwen2.5-72b", "v4.1-flash"),
    ]
    by_name = {row["model"]: row for row in rows}
    assert by_name["v4.1-flash"]["verdict"] == "unknown"
    assert by_name["flash"]["verdict"] == "fits"
    assert by_name["llama-3.3-70b"]["formula"] == "generic"
    assert by_name["flash"]["licence"] == "MIT"
    assert "DeepSeek-V4.1-Flash" in ascend("plan", "compare-models", "--hardware", "8xh200").out


def test_scaling_only_from_measurements(ascend):
    load = ("--rps", 20, "--input", 3500, "--output", 1500, "--tpot-ms", 50)
    done = ascend("plan", "scale", "--hardware", "1xa3", *load, "--json")
    option = answer(done)["options"][0]
    # 20 x 1500 tokens/s over 15,569.48 for each two nodes: two units, one more in doubt.
    assert (option["units"], option["nodes"]) == ([2, 3], [4, 6])
    assert (option["prefill_to_decode"], option["unit_nodes"]) == ("1:1", 2)
    assert option["source"].startswith("https://github.com/vllm-project/vllm-ascend/")
    odd = ascend("plan", "scale", "--hardware", "1xa3", "--rps", 1, "--input", 7, "--output", 7)
    assert odd.code == 16
    assert odd.out.startswith("no anchor")


def test_a_log_calibrates_later_plans(ascend, tmp_path):
    log = tmp_path / "startup.log"
    log.write_text(LOG)
    hardware = ("--hardware", "2xrtx-pro-6000")
    done = ascend("plan", "--json", "--from-log", log, *hardware)
    assert done.code == 0
    said = answer(done)
    errors = {line["what"]: line["error"] for line in said["lines"]}
    assert abs(errors["tokens"]) < 0.0005
    launch = (
        *("--engine-version", "0.25.1", "--tensor-parallel-size", 2, "--spec", "mtp"),
        *("--max-num-batched-tokens", 4096, "--gpu-memory-utilization", 0.95),
    )
    later = answer(ascend("plan", "--json", *hardware, *launch, "--context", 1048576))
    assert later["anchor"] == f"site:{log}"
    low, high = later["kv"]["available_gib"]
    assert low < 10.29 < high
    assert later["verdict"] == "fits"
    text = ascend("plan", "--from-log", log, *hardware)
    assert "saved: other memory" in text.out


def test_a_log_without_a_figure_is_refused(ascend, tmp_path):
    log = tmp_path / "other.log"
    log.write_text("hello\n")
    done = ascend("plan", "--from-log", log, "--hardware", "1xh200")
    assert done.code == 18
    assert "no line about weights or KV memory" in done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--hardware", "2xh9000"), "'h9000' is not a chip"),
        (("--hardware", "0xh200"), "is not COUNTxCHIP"),
        (("--hardware", "h200"), "is not COUNTxCHIP"),
        (("--hardware", "2xa3", "--nodes", "3"), "--nodes 3 was given too"),
        (("--hardware", "2xh200", "--chip", "a3"), "--chip a3 was given too"),
        ((), "name no profile and no chip"),
        (("compare-nonsense",), "there are compare-releases, compare-models, scale"),
        (("compare-nonsense",), "did you mean compare-models?"),
        (("--hardware", "999999999xh200"), "999,999,999 devices are more than the 4,096"),
        (("--chip", "a3", "--nodes", 99999), "99,999 devices are more than the 4,096"),
        (("--hardware", "4xh200", "--devices", 8), "--devices 8 was given too"),
        (("--hardware", "1xa3", "--devices", 32), "--devices 32 was given too"),
        (("--chip", "a3", "--devices", 17), "--devices 17: a node of a3 has 16"),
        (("--chip", "h200", "--devices", 9), "--devices 9: a node of h200 has 8"),
        (("--chip", "a2", "--nodes", 2, "--devices", 17), "2 nodes of a2 have 16"),
        (("--chip", "a3", "--model", "/nonexist"), "and '/nonexist' is neither"),
        (("--chip", "a3", "--model", "./weights"), "and './weights' is neither"),
        (("--hardware", "4xh200", "--available-kv-gib", "nan"), "nan is no number of GiB"),
        (
            ("--hardware", "1xa3", "--gpu-memory-utilization", "nan"),
            "--gpu-memory-utilization nan must be a share",
        ),
        (("--hardware", "1xa3", "--engine", "vllm"), "runs on vllm-ascend, not on vllm"),
        (("--hardware", "1xa3", "--profile", "cuda"), "chip a3 belongs to profile ascend"),
        (("--hardware", "1xa3", "--", "--pipeline-parallel-size", 0), "can't split 43 layers"),
        (
            ("--hardware", "1xa3", "--", "--max-num-batched-tokens", 0),
            "--max-num-batched-tokens 0 must be a",
        ),
        (
            ("--hardware", "1xa3", "--", "--max-model-len", "abc"),
            "--max-model-len abc must be a whole",
        ),
        (
            ("--hardware", "1xa3", "--", "--tensor-parallel-size", 0),
            "--tensor-parallel-size 0 must be",
        ),
        (
            ("--hardware", "1xa3", "--", "--kv-cache-memory-bytes", "-5G"),
            "--kv-cache-memory-bytes -5G must be bytes",
        ),
        (("scale", "--hardware", "0xa3", *LOAD), "is not COUNTxCHIP"),
        (("scale", "--hardware", "1xq", *LOAD), "'q' is not a chip"),
        (("compare-releases", "0.25.1", "9.9", "--hardware", "4xh200"), "9.9 is not a release"),
        (("--hardware", "2xh200", "nonsense"), "'nonsense' after -- belongs to no flag"),
        (("--hardware", "1xh200", "--plot", "plan.pdf"), "must end in .png or .svg"),
    ],
)
def test_bad_input_is_a_sentence(ascend, options, words):
    done = ascend("plan", *options)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "has no readable config.json, so its geometry isn't known; the catalog knows flash"),
        ("{", "has no readable config.json"),
        ("[]", "holds no JSON object"),
        ("{}", "states no num_hidden_layers"),
        ('{"num_hidden_layers": 4, "hidden_size": "big"}', "a value that can't be read"),
        (
            '{"model_type": "deepseek_v4", "num_hidden_layers": 2, "compress_ratios": [0, 7]}',
            "compress_ratios [7]; there are 0, 1, 4, 128",
        ),
    ],
)
def test_a_directory_without_a_usable_configuration_is_a_sentence(ascend, tmp_path, text, words):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    done = ascend("plan", "--hardware", "4xh200", "--model-dir", tmp_path)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err


def test_a_host_without_devices_is_told_what_plan_takes(ascend):
    for options in ((), ("--profile", "ascend"), ("--profile", "cuda")):
        done = ascend("plan", "--hardware", "host", *options)
        assert done.code == 6
        assert "this host has no" in done.err
        assert "next:  describe the hardware: ascend-v4 plan --hardware 1xa3" in done.err
        assert "--dry-run" not in done.err


def test_a_picture_or_a_clear_error(ascend, tmp_path):
    path = tmp_path / "plan.svg"
    done = ascend("plan", "--hardware", "2xh200", "--plot", path)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert done.code == 2
        assert "pip install 'ascend-v4[plot]'" in done.err
    else:
        assert done.code == 0
        assert "<svg" in path.read_text()
        nowhere = ascend("plan", "--hardware", "2xh200", "--plot", tmp_path / "no" / "plan.svg")
        assert nowhere.code == 2
        assert "can't be written: No such file or directory" in nowhere.err


def test_the_process_imports_nothing_heavy():
    code = (
        "import sys\nfrom ascend_v4.cli import main\n"
        "main(['plan', '--hardware', '1xa3'])\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'yaml', 'rich', 'httpx', 'matplotlib'}\n"
        "sys.exit(len(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
