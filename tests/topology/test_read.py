"""Reading a topology file: every problem with its line, one error for each cause."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.topology.model import Topology, json_schema
from ascend_v4.topology.read import TopologyError, parse_topology, read_topology

from .small import PD, changed, many, text_of

DOCS = Path(__file__).resolve().parents[2] / "docs"

BAD = """\
schema: 1
name: Flash_1
chip: a3
enginge_version: 0.23
nodes:
- {name: p0, adress: 10.0.0.1, interface: eth0}
- {name: d0, address: 5}
- name: d1
- 7
groups:
- name: prefill
  role: prefil
  nodes: [p0]
  replicas: 0
  options: {port: 9, max-num-seq: 8, max-num-batched-tokens: many, engine-version: '0.23'}
- name: decode
  nodes: []
  role: decode
  role: prefill
router: {kind: auto, port: 99999}
"""
SAID = [
    "2: topology: name must be up to 42 lower-case letters, digits and inner dashes, not 'Flash_1'",
    "4: topology: 'enginge_version' is not a key here; did you mean engine_version?",
    "6: node p0: 'adress' is not a key here; did you mean address?",
    "7: node d0: address must be text (in quotes where it looks like a number), not 5",
    "8: node d1: address is missing",
    "9: topology: item 4 of nodes must be a mapping of keys, not 7",
    "12: group prefill: role must be 'mixed', 'prefill' or 'decode', not 'prefil'",
    "14: group prefill: replicas must be at least 1, not 0",
    "15: group prefill, options: max_num_batched_tokens must be a whole number, in plain decimals,"
    " not 'many'",
    "15: group prefill, options: 'port' is not a key here; a group and the router have a `port`",
    "15: group prefill, options: 'max_num_seq' is not a key here; did you mean max_num_seqs?",
    "15: group prefill, options: 'engine_version' is not a key here;"
    " one release for the whole deployment: a key at the top",
    "17: group decode: nodes must have at least one item",
    "19: group decode: role stands here twice",
    "20: router: port must be at most 65535, not 99999",
]


def problems(text: str) -> list[str]:
    with pytest.raises(TopologyError) as error:
        parse_topology(text, "t.yaml")
    assert error.value.code == ExitCode.USAGE
    assert error.value.kind == "bad-topology"
    assert error.value.next == "edit t.yaml"
    return [f"{f.evidence[0].line}: {f.message}" for f in error.value.findings]


def test_every_problem_has_its_line_and_text() -> None:
    assert problems(BAD) == SAID
    with pytest.raises(TopologyError) as error:
        parse_topology(BAD, "t.yaml")
    listed = error.value.message.splitlines()
    assert listed == [f"t.yaml:{SAID[0]}", *(f"  also t.yaml:{line}" for line in SAID[1:])]
    lines = BAD.splitlines()
    for found in error.value.findings:
        place = found.evidence[0]
        assert (place.file, place.text) == ("t.yaml", lines[place.line - 1].strip())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1: a topology is a mapping of keys such as nodes and groups; this is empty"),
        ("- 1", "1: a topology is a mapping of keys such as nodes and groups; this is a list"),
        ("name: a\nnodes: [", "3: not valid YAML: did not find expected node content"),
        ("name: a\n\t- b", "2: not valid YAML: found a tab character that violates indentation"),
        ("name: a\n---\nname: b", "2: not valid YAML: but found another document"),
        ("name: *gone", "1: not valid YAML: found undefined alias"),
        ("name: 2026-99-99", "1: a value that YAML can't hold: month must be in 1..12"),
        ("name: a\nnodes: " + "[" * 100_000, "2: nested deeper than 40 levels"),
        ("name: !!python/object:os.system x", "1: not valid YAML: could not determine a"
         " constructor for the tag 'tag:yaml.org,2002:python/object:os.system'"),
    ],
)  # fmt: skip
def test_what_is_no_topology_is_one_error(text: str, said: str) -> None:
    assert problems(text) == [said]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1: 2", "a key must be text, not 1; put it in quotes"),
        ("~: 2", "a key must be text, not ~; put it in quotes"),
        ("on: 2", "a key must be text, not on; put it in quotes"),
        ("2026-01-01: 2", "a key must be text, not 2026-01-01; put it in quotes"),
    ],
)
def test_a_key_that_is_no_text_is_named(line: str, said: str) -> None:
    assert problems(f"schema: 1\n{line}\n{text_of(PD)}") == [f"2: {said}"]
    assert problems(f"{text_of(PD)}router:\n  {line}\n")[0].endswith(said)


@pytest.mark.parametrize("written", ["010", "2:13", "0x1f", "0b11", "1_000"])
def test_numbers_are_read_as_they_are_written(written: str) -> None:
    """YAML 1.1 would make 8, 133, 31, 3 and 1000 of these."""
    text = f"router:\n  port: {written}\n"
    (said,) = problems(text_of(PD) + text)
    assert said.endswith(f"router: port must be a whole number, in plain decimals, not '{written}'")
    made = changed(PD, {"groups.0.extra": ["--seed", "SEED"]})
    topology = parse_topology(text_of(made).replace("SEED", written), "t.yaml").topology
    assert topology.groups[0].extra == ["--seed", written]


@pytest.mark.parametrize(
    "path",
    ["nodes.0.address", "nodes.0.connect", "nodes.0.chip", "groups.0.extra.0", "router.host",
     "engine_version", "image", "model", "model_dir", "connector", "options.api_key_file",
     "groups.0.options.served_model_name"],
)  # fmt: skip
def test_text_is_one_line(path: str) -> None:
    """A line break would begin another line of a unit: ExecStartPre=, say."""
    bases = changed(PD, {"groups.0.extra": []})
    for odd in ("/a\nExecStartPre=/bin/x", "a\tb", "a\x85b", "a\u2028b"):
        (said,) = problems(text_of(changed(bases, {path: odd})))
        assert "must be one line of text, not " in said


@pytest.mark.parametrize("odd", ["a;b", "eth0 eth1", "a\nb", "$(id)", "e" * 16, "a/b"])
def test_an_interface_is_what_linux_calls_one(odd: str) -> None:
    (said,) = problems(text_of(changed(PD, {"nodes.0.interface": odd})))
    assert "node p0: interface must be the name of an interface" in said


@pytest.mark.parametrize("key", ["data_parallel_size", "tensor_parallel_size", "replicas"])
def test_sizes_have_an_upper_bound(key: str) -> None:
    (said,) = problems(text_of(changed(PD, {f"groups.1.{key}": 10**20})))
    assert f"group decode: {key} must be at most 65536, not 1000" in said


def test_control_characters_are_named() -> None:
    assert problems('name: a\nchip: "\x01"') == [
        "2: not valid YAML: control characters are not allowed"
    ]


def test_aliases_of_aliases_cost_nothing() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    began = time.monotonic()
    assert len(problems(text_of(PD) + bomb)) == 12
    assert time.monotonic() - began < 5


def test_merged_keys_are_no_duplicates() -> None:
    text = text_of(changed(PD, {"groups": None})) + (
        "groups:\n- &one {name: prefill, role: prefill, nodes: [p0]}\n"
        "- {<<: *one, name: decode, role: decode, nodes: [d0]}\n"
    )
    topology = parse_topology(text, "t.yaml").topology
    assert [(group.name, group.role) for group in topology.groups] == [
        ("prefill", "prefill"),
        ("decode", "decode"),
    ]


def test_options_take_dashes() -> None:
    topology = parse_topology(text_of(changed(PD, {"options": {"max-num-seqs": 8}})), "t").topology
    assert topology.options == {"max_num_seqs": 8}


def test_a_thousand_problems_list_twenty() -> None:
    topology = many(1000)
    for node in topology["nodes"]:
        del node["address"]
    with pytest.raises(TopologyError) as error:
        parse_topology(text_of(topology), "t.yaml")
    assert len(error.value.findings) == 1000
    assert error.value.message.splitlines()[-1] == "  and 980 more"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"name: \xe9")
    for path, why in (("none", "No such file or directory"), ("latin", "not UTF-8 text")):
        with pytest.raises(AscendV4Error) as error:
            read_topology(str(tmp_path / path))
        assert error.value.code == ExitCode.USAGE
        assert error.value.message.endswith(why)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_a_topology_or_a_usage_error(text: str) -> None:
    try:
        parse_topology(text, "t.yaml")
    except TopologyError as error:
        assert error.findings


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["nodes", "groups", "router", "options", "name", "nodes.0", "groups.1"]), JUNK
)
def test_any_value_anywhere_is_a_topology_or_a_usage_error(path: str, junk: object) -> None:
    try:
        parse_topology(text_of(changed(PD, {path: junk if junk is not None else 0})), "t.yaml")
    except TopologyError as error:
        assert all(found.evidence[0].line for found in error.findings)


def test_schema_page_is_current() -> None:
    made = "python -m ascend_v4.topology.model > docs/topology.schema.json"
    assert (DOCS / "topology.schema.json").read_text() == json_schema(), made


def test_round_trip() -> None:
    topology = Topology.model_validate(PD)
    assert Topology.model_validate(topology.model_dump(by_alias=True)) == topology
