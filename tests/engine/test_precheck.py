"""``serve --check-engine``: the verdict of the engine that will be launched."""

import json
import sys

import pytest

from ascend_v4.engine.precheck import check_engine, interpreter_of
from ascend_v4.errors import AscendV4Error
from ascend_v4.host.system import Host
from tests.support.engine import SERVE_ENV, USER_ENV


def engine(tmp_path, body: str):
    """Make a Python environment whose `python` prints what the child would."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    program = bin_dir / "vllm"
    program.write_text("#!/bin/sh\n")
    python = bin_dir / "python"
    keep = f"open({str(tmp_path / 'calls')!r}, 'a').write(' '.join(sys.argv[2:]) + chr(10))"
    python.write_text(f"#!{sys.executable}\nimport sys\n{keep}\n{body}\n")
    python.chmod(0o755)
    return program


def verdict(stage: str, message: str = "") -> str:
    return f"print('noise')\nprint({json.dumps({'stage': stage, 'message': message})!r})"


def host_of(tmp_path):
    return Host(env={"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"})


def test_a_passed_launch_is_asked_once(tmp_path):
    program = engine(tmp_path, verdict("ok"))
    host = host_of(tmp_path)
    first = check_engine(host, program, ["serve", "m"], host.env)
    second = check_engine(host, program, ["serve", "m"], host.env)
    assert first == "the engine's own checks passed"
    assert second == "the engine's own checks passed before for this very launch"
    check_engine(host, program, ["serve", "m", "--port", "1"], {**host.env, "PWD": "/"})
    check_engine(host, program, ["serve", "m", "--block-size", "1"], host.env)
    check_engine(host, program, ["serve", "m"], {**host.env, "HCCL_BUFFSIZE": "1"})
    assert (tmp_path / "calls").read_text() == ("serve m\nserve m --block-size 1\nserve m\n")


@pytest.mark.parametrize(
    "stage,where", [("parse", "argument parser"), ("config", "start-up checks")]
)
def test_a_refused_launch_stops_with_the_engines_words(tmp_path, stage, where):
    program = engine(tmp_path, verdict(stage, "unrecognized arguments: --nope"))
    host = host_of(tmp_path)
    with pytest.raises(AscendV4Error) as caught:
        check_engine(host, program, ["serve", "m", "--nope"], host.env)
    assert caught.value.code == 3
    assert f"its {where}: unrecognized arguments: --nope" in caught.value.message


@pytest.mark.parametrize(
    "body,said",
    [
        (verdict("import", "ImportError: no torch"), "not asked beforehand: ImportError: no torch"),
        ("sys.exit('boom')", "not asked beforehand: boom"),
    ],
)
def test_a_check_that_cant_run_stops_nothing(tmp_path, body, said):
    host = host_of(tmp_path)
    assert check_engine(host, engine(tmp_path, body), ["serve", "m"], host.env).endswith(said)


def test_the_interpreter_of_a_script_elsewhere(tmp_path):
    script = tmp_path / "vllm"
    script.write_text("#!/opt/engine/bin/python3.12 -s\n")
    assert str(interpreter_of(script)) == "/opt/engine/bin/python3.12"
    script.write_text("#!/bin/sh\n")
    assert interpreter_of(script) is None


@pytest.mark.real_engine
def test_the_real_engine_refuses_an_unknown_flag_and_a_bad_value(cpu_engine, tmp_path):
    from ascend_v4.rehearsal.build import build_rehearsal

    build_rehearsal(tmp_path / "m")
    host = Host(env={**USER_ENV, **SERVE_ENV, "XDG_CACHE_HOME": str(tmp_path / "cache")})
    good = ["serve", str(tmp_path / "m"), "--max-model-len", "4096", "--enforce-eager"]
    assert check_engine(host, cpu_engine, good, host.env) == "the engine's own checks passed"
    for bad, words in (
        ([*good, "--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        ([*good[:3], "99999999"], "max_model_len"),
    ):
        with pytest.raises(AscendV4Error) as caught:
            check_engine(host, cpu_engine, bad, host.env)
        assert words in caught.value.message
