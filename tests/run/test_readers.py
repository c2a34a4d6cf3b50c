"""Nobody reads what the launcher writes, or nobody can: it still watches and stops."""

import contextlib
import os
import signal
import subprocess
import time

import pytest

from ascend_v4.run.lease import Lease
from tests.support.fake_tree_run import until

#: More than a pipe holds (64 KiB, pipe(7)).
FLOOD = ["x" * 1000] * 200


@contextlib.contextmanager
def stuck_pipe():
    """Yield the writing end of a full pipe that nobody reads."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    yield write
    os.close(read)
    os.close(write)


def ready(tree):
    until(lambda: tree.read("state").get("state") == "ready", 40)


@pytest.mark.parametrize("what", ["TERM", "death"])
def test_16_an_unread_stderr_holds_up_nothing(trees, what):
    tree = trees(stderr=FLOOD)
    read, write = os.pipe()
    serving = tree.serve(stderr=write)
    ready(tree)
    began = time.monotonic()
    if what == "TERM":
        assert serving.end(signal.SIGTERM) == 143
    else:
        os.kill(tree.pids("api")[-1], signal.SIGKILL)
        until(lambda: tree.read("exit").get("code") == 9, 5)
        assert serving.end() == 9
    assert time.monotonic() - began < 15
    os.close(read)
    os.close(write)


def test_16_an_unread_stdout_holds_up_nothing(tree):
    with stuck_pipe() as out:
        process = subprocess.Popen(
            tree.command(*tree.serve_words()), env=tree.env(), stdout=out, stderr=subprocess.PIPE
        )
        try:
            ready(tree)
            os.kill(tree.pids("api")[-1], signal.SIGKILL)
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 9
    assert b"error: the engine ended with signal SIGKILL while it served" in said
    assert b"Fatal Python error" not in said


def test_an_unread_lease_does_not_wait():
    """Events are told from the main loop too; those that fit are there once it is read."""
    with stuck_pipe() as out:
        lease = Lease(5, fd=0, out=out)
        began = time.monotonic()
        for number in range(100):
            lease.tell("generated", last="x" * 1000, number=number)
        assert time.monotonic() - began < 1


CLOSED = [
    ("status nosuch 2>&-", 2),
    ("stop 2>&-", 0),
    ("profiles <&- 2>&-", 0),
    ("profiles >&-", 1),
    ("cluster up -f - <&-", 2),
    ("serve --topology - --node n0 <&-", 2),
]


@pytest.mark.parametrize(("words", "code"), CLOSED, ids=[words for words, _ in CLOSED])
def test_closed_descriptors(tree, words, code):
    line = f"{' '.join(tree.command())} {words}"
    done = subprocess.run(
        ["sh", "-c", line],
        env=tree.env(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_server_with_closed_descriptors(tree, closed):
    """It serves and stops, and no lock of it lies where words are written."""
    words = " ".join(map(str, tree.command(*tree.serve_words())))
    process = subprocess.Popen(
        ["sh", "-c", f"exec {words} {closed}"], env=tree.env(), stderr=subprocess.PIPE
    )
    try:
        ready(tree)
        places = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)]
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert all(not place.startswith(str(tree.place)) for place in places)
    assert (process.returncode, b"Traceback" in said) == (143, False)
