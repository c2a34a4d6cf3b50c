"""The script reader: what a launch gets, line by line, and that no text stops it."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ascend_v4.lint.expand import plain
from ascend_v4.lint.launches import locate, read_launch
from ascend_v4.lint.script import read_script
from ascend_v4.lint.three import UNKNOWN


def one(text, name="x.sh"):
    script = read_script(text, name)
    assert len(script.launches) == 1
    return read_launch(script.launches[0])


def variables(text, name="x.sh"):
    return one(text, name).env


def test_exports_inline_variables_continuations_and_comments():
    launched = one(
        "export A=1 B='two words'  # why\n"
        "C=3 \\\n"
        "  vllm serve org/model \\\n"
        "  --tensor_parallel_size=8 \\\n"
        "  --enable-expert-parallel -sc.method mtp\n"
    )
    assert launched.env == {"A": "1", "B": "two words", "C": "3"}
    assert launched.model == "org/model"
    assert launched.flags == {
        "tensor-parallel-size": "8",
        "enable-expert-parallel": True,
        "speculative-config": {"method": "mtp"},
    }
    paths = ["env.A", "env.C", "flag.tensor-parallel-size", "flag.speculative-config.method"]
    assert [locate(launched, path) for path in paths] == [1, 2, 4, 5]


def test_json_single_quoted_double_quoted_and_escaped():
    launched = one(
        "vllm serve m \\\n"
        """ --additional-config '{"a": {"b": true},\n   "c": 1}' \\\n"""
        """ --speculative-config "{\\"method\\": \\"mtp\\"}" \\\n"""
        """ --compilation-config {\\"cudagraph_mode\\":\\"FULL\\"} \\\n"""
        " --additional-config.d 4\n"
    )
    assert launched.flags == {
        "additional-config": {"a": {"b": True}, "c": 1, "d": 4},
        "speculative-config": {"method": "mtp"},
        "compilation-config": {"cudagraph_mode": "FULL"},
    }
    assert locate(launched, "flag.additional-config.a.b") == 2
    assert locate(launched, "flag.additional-config.c") == 3
    assert locate(launched, "flag.additional-config.d") == 6


def test_variables_of_the_script_are_followed_and_others_stay_unknown():
    launched = one(
        "MODEL=/data/m; TP=4\n"
        'OPTS="--port 1 --seed 2"\n'
        "ARGS=(--max-num-seqs 32\n"
        "  --served-model-name 'a b')\n"
        'vllm serve "$MODEL" --tensor-parallel-size ${TP:-8} --block-size ${BS:-128} $OPTS \\\n'
        """ "${ARGS[@]}" --data-parallel-rank $4 """
        """--kv-transfer-config '{"kv_port": "'$5'", "n": '$6'}' $@\n"""
    )
    assert launched.model == "/data/m"
    assert launched.flags == {
        "tensor-parallel-size": "4",
        "block-size": "128",
        "port": "1",
        "seed": "2",
        "max-num-seqs": "32",
        "served-model-name": "a b",
        "data-parallel-rank": UNKNOWN,
        "kv-transfer-config": {"kv_port": UNKNOWN, "n": UNKNOWN},
    }
    assert launched.open_args == ["$@"]
    assert launched.unknown == {"$4": 6, "$5": 6, "$6": 6, "$@": 6}
    assert locate(launched, "flag.max-num-seqs") == 3
    assert locate(launched, "flag.served-model-name") == 4


def test_branches_that_disagree_leave_a_value_unknown():
    text = (
        "if [ $1 = a3 ]; then\n  TP=4\nelse\n  TP=8\nfi\n"
        "for x in 1 2; do SAME=1; done\n"
        "vllm serve m --tensor-parallel-size $TP --port $SAME --seed $x\n"
    )
    assert one(text).flags == {"tensor-parallel-size": UNKNOWN, "port": "1", "seed": UNKNOWN}


def test_unset_and_set_a():
    text = "set -a\nA=1\nB=2\nset +a\nC=3\nunset B\nvllm serve m\n"
    assert variables(text) == {"A": "1"}


def test_prefixes():
    for prefix in (
        "nohup numactl -m 0 ",
        "taskset -c 0-7 /usr/local/bin/",
        "exec ",
        "time ",
        "cd /x && ",
        "if true; then ",
    ):
        assert one(f"{prefix}vllm serve m --port 1 > log 2>&1 &\n").flags == {"port": "1"}
    assert variables("export A=1 B=2\nenv -u A C=3 vllm serve m\n") == {"B": "2", "C": "3"}
    assert variables("export A=1\nenv -i C=3 vllm serve m\n") == {"C": "3"}


def test_python_modules():
    api = one("python3 -m vllm.entrypoints.openai.api_server --model m --port 1\n")
    assert (api.model, api.flags) == ("m", {"model": "m", "port": "1"})
    cli = one("python -m vllm.entrypoints.cli.main serve m --port 1\n")
    assert (cli.model, cli.flags) == ("m", {"port": "1"})


def test_containers_see_only_what_they_are_given():
    launched = one(
        "export A=1 B=2\n"
        "docker run --rm -e A -e C=3 --env=D=4 quay.io/ascend/vllm-ascend:v0.23.0-a3 \\\n"
        "  bash -c 'source x && export E=5\n"
        "  vllm serve m --port 1'\n"
    )
    assert launched.env == {"A": "1", "C": "3", "D": "4", "E": "5"}
    assert launched.found.line == 4
    plain_run = read_script("docker run -e A=1 vllm/vllm-openai:v0.23.0 m --port 1\n")
    assert plain_run.launches[0].image == "vllm/vllm-openai:v0.23.0"
    assert read_launch(plain_run.launches[0]).model == "m"


def test_several_launches_keep_their_own_environment():
    script = read_script("export A=1\nvllm serve m --port 1 &\nexport A=2\nvllm serve n\n")
    assert [(x.model, x.env) for x in map(read_launch, script.launches)] == [
        ("m", {"A": "1"}),
        ("n", {"A": "2"}),
    ]


def test_what_only_mentions_a_launch_is_none():
    text = (
        "echo vllm serve m\npkill -f 'vllm serve'\n# vllm serve m\n"
        "cat > run.sh <<'EOF'\nvllm serve m\nEOF\nvllm bench serve m\n"
    )
    assert read_script(text).launches == []


def test_dotenv_and_our_own_env_files():
    assert (
        read_script("# c\nA=1\nB=two words\n C='3'\n", "x.env").exported["B"].value == "two words"
    )
    ours = read_script("# c\nexport A='1'\nunset B\nexport C='it'\\''s'\n", "ascend-a3.env")
    assert {name: spot.value for name, spot in ours.exported.items()} == {"A": "1", "C": "it's"}


def test_a_comment_or_blanks_inside_a_continuation_cut_the_command():
    commented = one("vllm serve m \\\n  --port 1 \\\n  # tuned\n  --block-size 32\n")
    assert commented.flags == {"port": "1", "block-size": "32"}
    assert commented.found.cut == [3, 4]
    blanks = read_script("vllm serve m \\ \n  --port 1\n")
    assert [(p.kind, p.line) for p in blanks.problems] == [("blank-after-backslash", 1)]
    assert read_launch(blanks.launches[0]).flags == {"port": "1"}


def test_an_unclosed_quote_is_said_and_the_rest_is_read():
    script = read_script("A=1 vllm serve m --port 1\necho 'oops\nvllm serve n\n")
    assert [(p.kind, p.line) for p in script.problems] == [("unclosed-quote", 2)]
    assert [found.line for found in script.launches] == [1, 3]
    lost = read_script('export B="x\nvllm serve m --port 1\n')
    assert [(p.kind, p.line) for p in lost.problems] == [("unclosed-quote", 1)]
    assert read_launch(lost.launches[0]).flags == {"port": "1"}


def test_spaces_that_are_none_are_said():
    script = read_script("vllm serve m\u00a0--port 1\n")
    assert [(p.kind, p.line) for p in script.problems] == [("odd-space", 1)]
    assert read_launch(script.launches[0]).flags == {"port": "1"}


def test_windows_line_ends():
    assert one("export A=1\r\nvllm serve m \\\r\n --port 1\r\n").flags == {"port": "1"}


def test_plain_writes_unknown_values_as_the_script_does():
    launched = one("vllm serve m --seed $(date +%s) --port ${1}\n")
    assert list(launched.unknown) == ["$(date +%s)", "$1"]
    assert plain(launched.found.args[2].text) == "$(date +%s)"


WORDS = """
vllm serve m|| --port|| 1||'||"||\\||$||${||}||$(||)||`||{||[||export A=||#||;||&&||<<EOF||EOF||(
||A=(||if ||fi||bash -c ||docker run -e A=1 ||{"a": 1}||--additional-config ||${A:-|| \\
||\0||\r\n||\ue000||\ue001||\u00a0"""
PIECES = st.sampled_from([word for word in WORDS.split("||") if word])


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)))
@example("vllm serve m --a ${A:-${A:-${A:-$B}}}\n")
@example("A=$A$A; A=$A$A; vllm serve $A")
def test_the_reader_never_fails(text):
    for name in ("x.sh", "x.env"):
        script = read_script(text, name)
        for found in script.launches:
            read_launch(found)
        lines = text.count("\n") + 1
        assert all(0 < problem.line <= lines for problem in script.problems)
