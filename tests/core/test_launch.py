"""A user's own arguments reach the engine as they were typed."""

from __future__ import annotations

import pytest

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.launch import parse_flags, to_argv
from ascend_v4.core.request import LaunchRequest
from ascend_v4.errors import AscendV4Error


@pytest.mark.parametrize(
    ("typed", "emitted"),
    [
        ("--served-model-name a b", None),
        ("--cudagraph-capture-sizes 1 2 4", None),
        ('--lora-modules {"name":"a"} {"name":"b"}', '--lora-modules {"name": "a"} {"name": "b"}'),
        ('--allowed-origins ["*","x"]', '--allowed-origins ["*", "x"]'),
        ("--cudagraph-capture-sizes 8", None),
        ("-O3", None),
        ("-O 3", None),
        ("-O=3", "-O 3"),
        ("-O.mode=3", "-O.mode 3"),
        ("-tp 2 -dpr 4 -dpn 1", "--tensor-parallel-size 2 --data-parallel-start-rank 4"
         " --data-parallel-rank 1"),
        ("-sc.method mtp", '--speculative-config {"method": "mtp"}'),
        ("--max-num-seqs -1 --no-enable-log-requests", None),
    ],
)  # fmt: skip
def test_arguments_come_out_as_they_went_in(typed: str, emitted: str | None) -> None:
    argv = to_argv(parse_flags(typed.split(" ")))
    spaced = " ".join(argv)
    assert spaced == (emitted or typed)
    if emitted is None:
        assert argv == typed.split(" ")


def test_json_stays_one_word_and_several_values_stay_several() -> None:
    assert to_argv(parse_flags(["--x", '["a", "b"]', "--y", "a", "b"])) == [
        "--x", '["a", "b"]', "--y", "a", "b",
    ]  # fmt: skip


def test_several_values_of_extra_reach_the_command_line_of_the_plan() -> None:
    extra = ("--served-model-name", "a", "b", "--cudagraph-capture-sizes", "1", "2", "4", "-O3")
    request = LaunchRequest(chip="a3", model="flash", extra=extra)
    argv = compile_plan(request, catalog()).plan.processes[0].argv
    name = argv.index("--served-model-name")
    assert argv[name : name + 3] == ("--served-model-name", "a", "b")
    assert argv[-5:] == ("--cudagraph-capture-sizes", "1", "2", "4", "-O3")


def test_json_that_the_shell_took_apart_is_refused() -> None:
    request = LaunchRequest(chip="a3", model="flash", extra=("--additional-config", "{a:", "1}"))
    with pytest.raises(AscendV4Error) as caught:
        compile_plan(request, catalog())
    assert (caught.value.kind, caught.value.message) == (
        "not-json", "--additional-config after -- starts like JSON and isn't: {a: 1}"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("5", 5), ("0.5", 0.5), ("true", True), ("null", None), ('"5"', "5"), ("mtp", "mtp"),
        ("4k", 4000), ("4K", 4096), ("25.6k", 25600), ("1.5K", "1.5K"), ("1.5", 1.5), ("2G", 2**31),
        ('{"a": 1}', {"a": 1}), ("[1, 2]", [1, 2]), ("010", 10), ("9" * 20, int("9" * 20)),
    ],
)  # fmt: skip
def test_dotted_values_are_read_as_vllm_reads_them(typed, read):
    """vllm/utils/argparse_utils.py:441: JSON, else a number with a suffix, else text."""
    assert parse_flags(["--speculative-config.key", typed]) == {"speculative-config": {"key": read}}
    assert parse_flags([f"--speculative-config.key={typed}"]) == {
        "speculative-config": {"key": read}
    }


def test_a_dotted_list_grows_by_plus_and_plain_flags_stay_text():
    assert parse_flags(["--additional-config.layers+", "a,b"]) == {
        "additional-config": {"layers": ["a", "b"]}
    }
    assert parse_flags(["--max-num-seqs", "5"]) == {"max-num-seqs": "5"}


def test_dotted_numbers_reach_the_engine_as_numbers():
    tokens = ["--speculative-config.num_speculative_tokens", "5"]
    assert to_argv(parse_flags(tokens)) == ["--speculative-config", '{"num_speculative_tokens": 5}']
