"""Which of many lines is the cause: order, consequences, weak signs, restarts, sources."""

import bz2
import gzip
import io
import lzma

import pytest

from ascend_v4.diagnose import diagnose_lines, diagnose_paths
from ascend_v4.diagnose.prefilter import Prefilter
from ascend_v4.diagnose.reader import BLOCK_BYTES
from ascend_v4.errors import AscendV4Error

OOM = (
    "(Worker_TP3 pid=99) ERROR 07-21 10:00:05 [x.py:1] "
    "RuntimeError: NPU out of memory. Tried to allocate 3.50 GiB"
)
DEAD = (
    "(APIServer pid=1) ERROR 07-21 10:00:09 [x.py:1] "
    "EngineDeadError: EngineCore encountered an issue. See stack trace (above)"
)
START = "(APIServer pid=1) INFO 07-21 {} [api_utils.py:286] non-default args: {{'model': 'x'}}"


def ids(matches):
    return [match.id for match in matches]


def test_first_in_time_across_ranks_not_in_order_of_files(tmp_path):
    (tmp_path / "a-rank0.log").write_text(
        "RuntimeError at\n[ERROR] HCCL(1,p):2026-07-21-10:00:07.000.000 [a.cc:1] "
        "wait socket establish timeout, role[1]\n"
    )
    (tmp_path / "b-rank1.log").write_text(OOM + "\n" + DEAD + "\n")
    found = diagnose_paths([tmp_path / "a-rank0.log", tmp_path / "b-rank1.log"])
    assert found.cause.id == "npu-oom-alloc"
    assert ids(found.also) == ["hccl-socket-timeout-EI0006"]
    assert ids(found.secondary) == ["engine-dead"]
    hit = found.cause.hits[0]
    assert (hit.file, hit.line, hit.rank) == (
        str(tmp_path / "b-rank1.log"),
        1,
        "Worker_TP3 pid=99",
    )
    assert found.server_exit == 5


def test_a_collectors_utc_clock_does_not_reorder():
    """The kubelet writes UTC, vLLM local time; a bare traceback line counts as local."""
    lines = [
        f"2026-07-21T08:00:05.0Z stderr F {OOM}",
        "2026-07-21T08:00:06.0Z stderr F ImportError: libatb.so: cannot open shared object file",
    ]
    found = diagnose_lines(lines)
    assert (found.cause.id, ids(found.also)) == ("npu-oom-alloc", ["libatb"])
    assert found.also[0].hits[0].when - found.cause.hits[0].when == 1


def test_the_time_of_a_traceback_line_is_that_of_the_line_above():
    lines = [
        "ERROR 07-21 10:00:05 [core.py:1] Traceback (most recent call last):",
        '  File "x.py", line 1, in f',
        "RuntimeError: NPU out of memory. Tried to allocate 1 GiB",
    ]
    hit = diagnose_lines(lines).cause.hits[0]
    assert hit.line == 3
    assert hit.when is not None


def test_a_weak_sign_gives_way_to_a_strong_one_close_behind():
    weak = "ERROR 07-21 10:00:04 [x.py:1] ModuleNotFoundError: No module named 'y'"
    found = diagnose_lines([weak, OOM])
    assert found.cause.id == "npu-oom-alloc"
    assert ids(found.also) == ["module-missing"]


def test_a_weak_sign_long_before_stays_first():
    weak = "ERROR 07-21 09:00:04 [x.py:1] ModuleNotFoundError: No module named 'y'"
    found = diagnose_lines([weak, *["INFO filler"] * 500, OOM])
    assert (found.cause.id, found.verdict) == ("module-missing", "unsure")


def test_a_row_explains_another():
    lines = [
        "ERROR 07-21 10:00:04 [x.py:1] Worker proc W-3 died unexpectedly (exit code: -9), shutting",
        "[Tue Jul 21 10:00:08 2026] Memory cgroup out of memory: Killed process 42 (VLLM)",
    ]
    found = diagnose_lines(lines)
    assert found.cause.id == "oom-killer"
    assert "worker-killed" in ids(found.secondary)


def test_near_lines_must_be_near():
    kernel = (
        "[ERROR] RUNTIME(1,p):2026-07-21-10:00:05.000.000 kernel_name=MoeDistributeDispatchV2_0"
    )
    code = "RuntimeError: AclrtSynchronizeStreamWithTimeout, error code is 507034"
    assert diagnose_lines([kernel, code]).cause.id == "v026-a3-dispatch-507034"
    far = diagnose_lines([kernel, *["INFO filler"] * 100, code])
    assert (far.cause, ids(far.secondary)) == (None, ["acl-507034"])
    assert far.verdict == "unsure"


def test_only_the_last_failed_start_of_a_log_counts():
    old = "ERROR 07-21 08:00:05 [x.py:1] OSError: [Errno 98] Address already in use"
    lines = [START.format("08:00:00"), old, START.format("10:00:00"), OOM, DEAD]
    found = diagnose_lines(lines)
    assert (found.cause.id, found.also) == ("npu-oom-alloc", ())
    assert found.notes == ("log holds 1 earlier failed starts; this is about the one from line 3",)
    # A start after it that has not failed yet does not hide the failure.
    again = diagnose_lines([*lines, START.format("10:05:00"), "INFO 07-21 10:05:01 loading"])
    assert again.cause.id == "npu-oom-alloc"


def test_many_starts_stay_in_bounded_memory():
    lines = []
    for n in range(50):
        lines += [START.format(f"08:{n:02d}:00"), OOM.replace("10:00:05", f"08:{n:02d}:05")]
    found = diagnose_lines(lines)
    assert found.cause.hits[0].line == 100
    assert found.notes == (
        "log holds 49 earlier failed starts; this is about the one from line 99",
    )


def test_errors_behind_a_stop_are_its_consequences():
    stop = "INFO 07-21 10:00:01 [launcher.py:9] Received SIGTERM, shutting down"
    found = diagnose_lines([stop, "ERROR 07-21 10:00:03 [x.py:1] ncclRemoteError", DEAD])
    assert (found.cause.id, found.verdict, found.server_exit) == ("stopped-by-signal", "unsure", 0)


def test_only_consequences_is_unsure_and_shows_error_lines():
    found = diagnose_lines([DEAD])
    assert (found.verdict, int(found.exit_code), found.cause) == ("unsure", 16, None)
    assert found.errors[0].text.startswith("ERROR 07-21 10:00:09")


def test_nothing_recognised_ranks_the_telling_lines_first():
    lines = [
        "ERROR 07-21 10:00:01 [x.py:1] something went wrong",
        "ERROR 07-21 10:00:02 [x.py:1] FooError: bar",
        "ERROR 07-21 10:00:03 [x.py:1] FooError: bar",
        "[ERROR] RUNTIME(1,p):2026-07-21-10:00:04.000.000 rtFoo failed, error code 507899",
    ]
    found = diagnose_lines(lines)
    assert (found.verdict, int(found.exit_code)) == ("nothing", 18)
    assert [hit.line for hit in found.errors] == [2, 4, 1]
    assert [code["code"] for code in found.codes] == ["507899"]


def test_a_healthy_log_has_nothing():
    found = diagnose_lines(["INFO 07-21 10:00:00 [x.py:1] Application startup complete."] * 50)
    assert (found.verdict, found.errors, found.notes) == ("nothing", (), ())


def test_rows_of_other_releases_are_left_out():
    line = ["AttributeError: 'AscendDSAMetadata' object has no attribute 'num_prefills'"]
    assert diagnose_lines(line, engine="vllm-ascend", version="0.20.2rc1").cause is not None
    assert diagnose_lines(line, engine="vllm-ascend", version="0.23.0").cause is None
    assert diagnose_lines(line, engine="vllm").cause is None


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_logs(tmp_path, pack):
    path = tmp_path / "server.log.gz"
    path.write_bytes(pack(f"filler\n{OOM}\n".encode()))
    found = diagnose_paths([path])
    assert (found.cause.hits[0].line, found.files[0]["lines"]) == (2, 2)


def test_a_gzip_still_being_written_gives_what_it_holds(tmp_path):
    whole = gzip.compress((OOM + "\n" + "INFO filler\n" * 200000).encode())
    path = tmp_path / "server.log.gz"
    path.write_bytes(whole[: len(whole) - 200])
    assert diagnose_paths([path]).cause.id == "npu-oom-alloc"


def test_lines_across_blocks_are_whole_and_counted():
    filler = b"INFO filler line that is ordinary and long enough to fill blocks quickly\n"
    many = BLOCK_BYTES // len(filler) - 1
    data = filler * many + OOM.encode() + b"\n" + filler * many + DEAD.encode()
    found = diagnose_paths([("s", io.BytesIO(data))])
    assert found.cause.hits[0].line == many + 1
    assert found.secondary[0].hits[0].line == 2 * many + 2
    assert found.files[0]["lines"] == 2 * many + 2


def test_a_line_without_end_does_not_fill_memory():
    data = b"\r 50%" * (3 * BLOCK_BYTES // 5) + b"\n" + OOM.encode()
    assert diagnose_paths([("s", io.BytesIO(data))]).cause.id == "npu-oom-alloc"


def test_an_unreadable_file_is_a_usage_error(tmp_path):
    with pytest.raises(AscendV4Error) as error:
        diagnose_paths([tmp_path / "none.log"])
    assert (error.value.code, error.value.kind) == (2, "unreadable-file")


def test_both_searches_find_the_same():
    words = [b"abc", b"bcd", b"d", b"zz"]
    fast, slow = Prefilter(words), Prefilter(words)
    slow.find = slow._one_by_one
    for block in (b"", b"abcd", b"zzzz abcd d\nabc", b"\0\xffd"):
        assert list(fast.find(block)) == list(slow.find(block))
