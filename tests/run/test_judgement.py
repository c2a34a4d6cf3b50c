"""The parts that judge, on clocks and numbers of their own: restarts, hangs, memory, phases."""

import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_v4.run.liveness import Liveness, Sample, parse_progress
from ascend_v4.run.logs import LINE_LENGTH, LogFile, Masker, Tail, pump, split, tail
from ascend_v4.run.memory import DeviceUse, not_returned, npu_use, wait_returned
from ascend_v4.run.notify import watchdog_period
from ascend_v4.run.phases import Phases, strip_prefix
from ascend_v4.run.restart import RestartPolicy
from tests.support.fakehost import FakeHost

DATA = Path(__file__).parents[1] / "data" / "engine-logs"


def delays(policy, lives, code=9):
    """Run lives of (seconds until the end, seconds of readiness or None) on a fake clock."""
    now, found = 0.0, []
    for length, ready in lives:
        policy.started(now)
        ready_at = None if ready is None else now + length - ready
        now += length
        verdict = policy.judge(code, now, ready_at)
        found.append(verdict.delay_s)
        if verdict.delay_s is None:
            return found, verdict.why
        now += verdict.delay_s
    return found, ""


def test_12_back_off_doubles_and_gives_up():
    assert delays(RestartPolicy(True), [(1, None)] * 9) == (
        [10, 20, 40, 80, None],
        "given up after 5 starts within 60 minutes",
    )


def test_12_back_off_ends_at_300_s():
    lives = [(1000, 100)] * 9
    assert delays(RestartPolicy(True), lives)[0] == [10, 20, 40, 80, 160, 300, 300, 300, 300]


def test_12_reset_after_ten_healthy_minutes():
    lives = [(1, None), (1, None), (700, 600), (1, None), (800, 599)]
    assert delays(RestartPolicy(True, starts=99), lives)[0] == [10, 20, 10, 20, 40]


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15, 16, 130, 143])
def test_11_codes_that_never_restart(code):
    policy = RestartPolicy(True)
    policy.started(0)
    assert policy.judge(code, 1.0, None).delay_s is None


@pytest.mark.parametrize("code", [8, 9, 10, 17])
def test_codes_that_restart(code):
    policy = RestartPolicy(True)
    policy.started(0)
    assert policy.judge(code, 1.0, None).delay_s == 10.0
    assert RestartPolicy(False).judge(code, 1.0, None).delay_s is None


BAD, STILL, GOOD = Sample(False, True), Sample(False, True, b"5"), Sample(True, True)


def test_liveness_needs_failures_and_no_progress():
    judge = Liveness(3)
    judge.judge(Sample(True, True, b"5"))
    assert [judge.judge(Sample(False, True, b"5")) for _ in range(3)] == [False, False, True]
    judge = Liveness(3)
    moving = [Sample(False, True, str(n).encode()) for n in range(50)]
    judge.judge(Sample(True, True, b"-"))
    assert not any(judge.judge(sample) for sample in moving)


def test_liveness_one_answer_resets():
    judge = Liveness(3, seen=b"5")
    samples = [STILL, STILL, GOOD, STILL, STILL, STILL]
    assert [judge.judge(sample) for sample in samples] == [False] * 5 + [True]


def test_liveness_without_a_reading_of_the_counters_knows_nothing():
    """/metrics that can't be read while /health answers shows no standstill."""
    judge = Liveness(3, seen=b"5")
    assert [judge.judge(Sample(False, True)) for _ in range(5)] == [False] * 5
    assert judge.judge(Sample(False, True, b"5"))
    assert not judge.judge(Sample(False, True, b"6"))
    assert [judge.judge(Sample(False, False)) for _ in range(3)] == [False, False, True]


def test_liveness_without_counters_trusts_health_only():
    judge = Liveness(3)
    assert not any(judge.judge(BAD) for _ in range(9))
    assert judge.judge(Sample(False, False))


def test_progress_of_a_metrics_page():
    page = (
        b"# HELP vllm:prompt_tokens_total x\n"
        b'vllm:prompt_tokens_total{engine="0",model_name="m"} 5.0\n'
        b'vllm:num_requests_running{engine="0"} 9.0\n'
        b'vllm:generation_tokens_total{engine="1"} 7.0\n'
        b"vllm:kv_cache_usage_perc 0.25\n"
    )
    assert parse_progress(page) == b"5.0 7.0 0.25"
    assert parse_progress(b"") == b""


@pytest.mark.parametrize(
    "env,seconds",
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "77"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "78"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "0"}, 0.0),
        ({}, 0.0),
    ],
    ids=str,
)
def test_watchdog_period(env, seconds):
    assert watchdog_period(env, 77) == seconds


GIB = 1024**3


def test_13_memory_that_stays_is_named():
    before = {0: DeviceUse(GIB), 1: DeviceUse(GIB)}
    after = {0: DeviceUse(3 * GIB), 1: DeviceUse(40 * GIB, ("VLLM::Worker (pid 77)",))}
    wrong = ["device 1 holds 39.0 GiB more than before; held by VLLM::Worker (pid 77)"]
    assert not_returned(before, after) == wrong
    clock = [0.0]
    waited = wait_returned(
        lambda: after, before, clock=lambda: clock[0], sleep=lambda s: clock.append(clock.pop() + s)
    )
    assert (waited, clock[0]) == (wrong, 120.0)


def test_13_memory_that_comes_back():
    answers = [{0: DeviceUse(50 * GIB)}, {0: DeviceUse(50 * GIB)}, {0: DeviceUse(2 * GIB)}]
    slept = []
    before = {0: DeviceUse(GIB)}
    assert wait_returned(lambda: answers.pop(0), before, sleep=slept.append) == []
    assert (slept, answers) == ([2.0, 2.0], [])


def test_memory_of_npus_is_read_from_npu_smi(tmp_path):
    use = npu_use(FakeHost(tmp_path).npus("a3-idle", davinci=16).host())
    assert sorted(use) == list(range(16))
    assert all(0 < one.used < 64 * GIB for one in use.values())


# The log's reader


@pytest.mark.parametrize("name", ["cpu-dp2", "missing-shard", "port-taken", "unknown-flag"])
def test_real_logs_of_vllm(name, golden):
    """Recorded from vLLM 0.32.0; the reader finds the phase and the first real error."""
    phases = Phases().feed((DATA / f"{name}.log").read_text().splitlines())
    cause = phases.cause()
    lines = [
        f"phases: {', '.join(phase.id for phase in phases.history)}",
        f"now: {phases.phase.text()}",
        f"cause: {cause.code} {cause.id}: {cause.line}" if cause else "cause: none",
    ]
    golden(f"run/{name}.txt", "\n".join(lines) + "\n")


def test_real_logs_of_vllm_in_any_order_never_name_an_echo_first():
    lines = (DATA / "missing-shard.log").read_text().splitlines()
    assert Phases().feed(reversed(lines)).cause().id == "missing-weights"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=400), max_size=20))
def test_random_bytes_never_stop_the_reader(chunks):
    rest, phases, ending = b"", Phases(), Tail()
    mask = Masker(["secret"])
    for chunk in chunks:
        lines, rest = split(rest + chunk)
        for line in lines:
            text = mask(line.decode(errors="replace"))
            phases(text)
            ending(text)
            strip_prefix(text)
    assert phases.phase is not None
    assert len(ending.text()) <= 50


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mangled_real_lines_never_stop_the_reader(data):
    lines = (DATA / "cpu-dp2.log").read_text().splitlines()
    line = data.draw(st.sampled_from(lines))
    at = data.draw(st.integers(0, len(line)))
    phases = Phases().feed([line[:at], line[at:] * 3, line[::-1], line + data.draw(st.text())])
    assert phases.phase.order >= 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=12))
def test_lines_are_split_the_same_however_they_arrive(chunks):
    whole = b"".join(chunks)
    expected, rest = split(whole, last=True)
    assert rest == b""
    got, rest = [], b""
    for chunk in [*chunks, b""]:
        # A pipe may end a read between the two bytes of a line end.
        if (rest + chunk).endswith(b"\r"):
            rest += chunk
            continue
        lines, rest = split(rest + chunk)
        got += lines
    lines, _ = split(rest, last=True)
    assert got + lines == expected


def test_a_secret_that_arrives_in_parts_of_a_line_without_an_end_is_masked():
    """Neither where a read ends nor where a line is cut shows a part of it."""
    secret, shown = "swordfish-" * 3, []
    read, write = os.pipe()
    with os.fdopen(write, "wb", buffering=0) as pipe:
        thread = pump(os.fdopen(read, "rb", buffering=0), Masker([secret]), [shown.append])
        blob = b"x" * (LINE_LENGTH - 7) + secret.encode() + b"y" * LINE_LENGTH
        for at in range(0, len(blob), LINE_LENGTH + 3):
            pipe.write(blob[at : at + LINE_LENGTH + 3])
            time.sleep(0.05)
        pipe.write(b"\n" + b"z" * (LINE_LENGTH - 9) + secret.encode() + b"\n")
    thread.join(5)
    whole = "".join(shown)
    assert "swordfish" not in whole
    assert whole.count("***") == 2
    assert (whole.count("x"), whole.count("y")) == (LINE_LENGTH - 7, LINE_LENGTH)


def test_what_was_only_warned_of_is_no_cause():
    """The engine took another port; what ended it came later."""
    stamp = "11-23 20:51:12 [fake.py:1]"
    warned = f"(APIServer pid=1) WARNING {stamp} Address already in use, trying 29501"
    died = f"(Worker pid=2) ERROR {stamp} RuntimeError: HCCL link down"
    cause = Phases().feed([warned, died]).cause()
    assert (cause.code, cause.line) == (9, "RuntimeError: HCCL link down")
    assert Phases().feed([warned]).cause().code == 7
    said = warned.replace("WARNING", "ERROR")
    assert Phases().feed([said, died]).cause().code == 7


def test_a_line_is_quick_to_read():
    """No pattern may go quadratic on a long line."""
    phases = Phases()
    began = time.perf_counter()
    for line in ("a." * 8000, "(" * 16000, "Capturing CUDA graphs " + "%|" * 8000, " " * 16000):
        phases(line)
        Masker()(line)
    assert time.perf_counter() - began < 2.0


@pytest.mark.parametrize(
    "line,shown",
    [
        ("key swordfish-1 used", "key *** used"),
        ("Authorization: Bearer abcdefghijklmnopqrst", "Authorization: Bearer ***"),
        ("'api_key': 'abcdefghijklmnopqrst'", "'api_key': '***'"),
        ("HF_TOKEN=hf_abcdefghijklmnopqrstuv", "HF_TOKEN=***"),
        ("using sk-abcdefghijklmnop now", "using *** now"),
        ("262,144 tokens per request: 16.00x", "262,144 tokens per request: 16.00x"),
        ("token throughput: 12.0 tokens/s", "token throughput: 12.0 tokens/s"),
    ],
)
def test_secrets_are_masked(line, shown):
    assert Masker(["swordfish-1"])(line) == shown


# Log files


def test_16_rotation_keeps_four_files(tmp_path):
    log = LogFile(tmp_path / "m.log", rotate_bytes=2000, keep=4)
    for number in range(400):
        log.write(f"line {number:04}")
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["m.log", "m.log.1", "m.log.2", "m.log.3", "m.log.4"]
    assert all(path.stat().st_size <= 2100 for path in tmp_path.iterdir())
    assert tail(tmp_path / "m.log", 1)[0].endswith("line 0399")
    assert log.lost == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_16_full_disk_loses_lines_only(tmp_path):
    (tmp_path / "m.log").symlink_to("/dev/full")
    log = LogFile(tmp_path / "m.log")
    for _ in range(5):
        log.write("x")
    assert log.lost == 5


def test_state_directory_is_private(tmp_path):
    from ascend_v4.run.state import new_run

    run = new_run({"XDG_STATE_HOME": str(tmp_path)})
    assert stat.S_IMODE((run.path / "logs").stat().st_mode) == 0o700
