"""The command: sources, exit codes, output, codes."""

import io
import json
import sys

import pytest

from ascend_v4.catalog.diagnosis import diagnosis_catalog
from tests.support.fakehost import FakeHost

OOM = (
    "(Worker_TP3 pid=99) ERROR 07-21 10:00:05 [x.py:1] "
    "RuntimeError: NPU out of memory. Tried to allocate 3.50 GiB"
)
TEXT = """\
cause: an NPU ran out of memory [npu-oom-alloc]
  Weights, activations and communication buffers together want more than the device has left.
  confidence: stated; phase: startup; exit code of this class: 5
"""


def test_a_file(ascend, tmp_path):
    log = tmp_path / "server.log"
    log.write_text(OOM + "\n")
    done = ascend("diagnose", log)
    assert done.code == 0
    assert done.out.startswith(TEXT)
    assert f"{log}:1  " in done.out
    assert "fix: lower --max-num-batched-tokens" in done.out
    assert "source: https://github.com/vllm-project/vllm-ascend/issues/6611" in done.out
    assert done.out.endswith("read 1 logs, 1 lines, 0.0 MB\n")


def test_json(ascend, tmp_path):
    log = tmp_path / "server.log"
    log.write_text(OOM + "\n")
    done = ascend("diagnose", log, "--json")
    said = json.loads(done.out)
    assert (done.code, said["verdict"], said["server_exit_code"]) == (0, "found", 5)
    cause = said["cause"]
    assert cause["evidence"] == [{"file": str(log), "line": 1, "text": OOM.split(") ", 1)[1]}]
    assert (cause["severity"], cause["rank"], cause["count"]) == ("error", "Worker_TP3 pid=99", 1)
    assert said["files"] == [{"file": str(log), "lines": 1, "bytes": len(OOM) + 1}]


def test_standard_input(ascend, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(OOM.encode())))
    done = ascend("diagnose", "-")
    assert done.code == 0
    assert "<stdin>:1" in done.out


def test_a_directory_is_read_whole(ascend, tmp_path):
    (tmp_path / "plog" / "deep").mkdir(parents=True)
    (tmp_path / "plog" / "deep" / "plog-1.log").write_text(OOM)
    (tmp_path / "plog" / ".hidden").write_text("x")
    done = ascend("diagnose", tmp_path / "plog")
    assert done.code == 0
    assert done.out.endswith("read 1 logs, 1 lines, 0.0 MB\n")


def test_an_empty_directory_is_a_usage_error(ascend, tmp_path):
    done = ascend("diagnose", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "holds no file" in done.err


def test_nothing_recognised(ascend, tmp_path):
    log = tmp_path / "x.log"
    log.write_text("ERROR 07-21 10:00:05 [x.py:1] FooError: bar\n")
    done = ascend("diagnose", log)
    assert done.code == 18
    assert done.out.startswith("nothing recognised\n\nearliest error lines, telling ones first:\n")
    assert "attach to an issue" in done.out
    assert "ascend-v4 doctor --bundle out.tgz" in done.out


def test_consequences_only(ascend, tmp_path):
    log = tmp_path / "x.log"
    log.write_text("AsyncLLM output_handler failed.\n")
    done = ascend("diagnose", log)
    assert done.code == 16
    assert done.out.startswith("no cause found: only consequences or warnings")


def test_a_run_of_ours(ascend, tmp_path):
    host = FakeHost(tmp_path, env={"XDG_STATE_HOME": str(tmp_path / "state")}).host()
    logs = tmp_path / "state" / "ascend-v4" / "runs" / "20260721-080000-abcd" / "logs"
    logs.mkdir(parents=True)
    (logs / "server.log.1").write_text(f"2026-07-21T08:00:05.000Z {OOM}\n")
    (logs / "server.log").write_text("2026-07-21T08:00:09.000Z AsyncLLM output_handler failed.\n")
    for arguments in (("diagnose", "--run", "20260721-080000-abcd"), ("diagnose",)):
        done = ascend(*arguments, host=host)
        assert done.code == 0
        assert "read 2 logs, 2 lines" in done.out
        assert "server.log.1:1" in done.out


def test_no_run_to_diagnose(ascend, tmp_path):
    done = ascend("diagnose", host=FakeHost(tmp_path).host())
    assert (done.code, done.out) == (2, "")


@pytest.mark.parametrize(
    "written", ["EI0006", "ei0006", "(EI0006):", "Communication_Error_Get_Socket"]
)
def test_explain(ascend, written):
    done = ascend("diagnose", "--explain", written)
    assert done.code == 0
    assert done.out.startswith("EI0006 (Communication_Error_Get_Socket, hccl): ")
    assert "see: hccl-socket-timeout-EI0006" in done.out


def test_explain_says_when_a_code_is_a_consequence(ascend):
    done = ascend("diagnose", "--explain", "507034", "--json")
    said = json.loads(done.out)
    assert (said["secondary"], said["signatures"]) == (True, ["acl-507034"])
    assert "another rank failed first" in ascend("diagnose", "--explain", "507034").out


def test_every_code_has_an_explanation(ascend):
    for row in diagnosis_catalog().table("error_codes"):
        assert row["meaning"]
        assert row["do"]


def test_an_unknown_code(ascend):
    done = ascend("diagnose", "--explain", "EI9999")
    assert (done.code, done.out) == (18, "")
    assert "'EI9999' is not a code this catalog knows" in done.err


def test_an_unknown_release(ascend, tmp_path):
    done = ascend("diagnose", "--engine-version", "9.9", tmp_path)
    assert (done.code, done.out) == (2, "")
