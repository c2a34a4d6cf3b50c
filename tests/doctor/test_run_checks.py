"""Checks side by side: limits, faults, order."""

import threading
import time

from ascend_v4.doctor.check import Outcome, exit_of
from ascend_v4.doctor.run_checks import Task, run_all, spread
from ascend_v4.errors import ExitCode


def ok(name):
    return Outcome(name, "ok", "good")


def test_tasks_run_at_once_and_keep_their_order():
    def slow(name):
        time.sleep(0.3)
        return [ok(name)]

    begun = time.monotonic()
    found = run_all([Task((n,), lambda n=n: slow(n)) for n in "abcdefgh"])
    assert time.monotonic() - begun < 1.5
    assert [outcome.id for outcome in found] == list("abcdefgh")


def test_a_stuck_task_is_unknown_and_costs_its_limit_only():
    stop = threading.Event()
    begun = time.monotonic()
    found = run_all(
        [Task(("a", "b"), lambda: [stop.wait(30)], 0.3), Task(("c",), lambda: [ok("c")])]
    )
    assert time.monotonic() - begun < 12
    stop.set()
    assert [(o.id, o.verdict) for o in found] == [("a", "unknown"), ("b", "unknown"), ("c", "ok")]
    assert found[0].message == "no answer within 0.3 s"


def test_the_limit_of_all_bounds_even_a_generous_task():
    stop = threading.Event()
    begun = time.monotonic()
    run_all([Task(("a",), lambda: [stop.wait(30)], 60)], limit_s=0.3)
    assert time.monotonic() - begun < 5
    stop.set()


def test_a_check_that_raises_is_unknown():
    def broken():
        yield ok("a")
        raise ZeroDivisionError("oops")

    found = run_all([Task(("a", "b"), broken)])
    assert [(o.id, o.verdict) for o in found] == [("a", "unknown"), ("b", "unknown")]
    assert found[0].message == "the check itself failed: ZeroDivisionError: oops"


def test_spread_keeps_order_and_loses_only_what_fails():
    def two():
        raise OSError

    assert spread([lambda: 1, two, lambda: 3], 2, 5) == [1, None, 3]
    assert spread([], 4, 1) == []
    stop = threading.Event()
    assert spread([lambda: stop.wait(30), lambda: 2], 2, 0.3) == [None, 2]
    stop.set()


def test_the_gravest_failure_decides():
    busy = Outcome("a", "fail", "", code=ExitCode.BUSY)
    host = Outcome("b", "fail", "")
    chip = Outcome("c", "fail", "", code=ExitCode.REFUSED)
    warned = Outcome("d", "warn", "", code=ExitCode.REFUSED)
    assert exit_of([busy]) == 7
    assert exit_of([busy, host]) == 6
    assert exit_of([busy, host, chip]) == 3
    assert exit_of([warned, ok("e")]) == 0
