"""The loop sleeps while a probe is under way, and wakes when its result can be taken."""

import signal
import threading
import time

import psutil
import pytest

from ascend_v4.run.attempt import PATIENCE, Attempt
from ascend_v4.run.liveness import Prober
from ascend_v4.run.signals import Signals
from ascend_v4.run.spec import Options
from tests.support.fake_tree_run import until


@pytest.fixture
def attempt():
    """Make a start of nothing, which is ready at once and has looked around just now."""

    def make(**options):
        made = Attempt([], Options(**options), Signals(), None, lambda _: None, lambda _: None)
        made.became_ready()
        made.next_refresh = time.monotonic() + 1000
        return made

    return make


def test_a_probe_that_takes_long_is_waited_for(attempt):
    """Its turn is over, its answer is not there: nothing to do before it is given up."""
    one, answer = attempt(probe_interval_s=2, probe_timeout_s=10), threading.Event()
    one.next_probe = time.monotonic() - 1
    one.prober.ask(answer.wait)
    assert PATIENCE * 10 - 5 < one.pause() <= PATIENCE * 10
    answer.set()
    until(lambda: one.prober.take())
    assert one.pause() == 0


def test_without_probes_nothing_is_due(attempt):
    assert attempt(probe_interval_s=0).pause() > 900


def test_a_start_is_asked_a_few_times_a_second(trees):
    """Nothing listens yet, so each answer is there at once: no reason to ask at once again."""
    tree = trees(load_s=0.5)
    serving = tree.serve("--no-check-engine")
    until(lambda: tree.read("state").get("members"))
    launcher = psutil.Process(serving.process.pid)
    before = sum(launcher.cpu_times()[:2])
    serving.ready()
    assert sum(launcher.cpu_times()[:2]) - before < 0.6
    assert serving.end(signal.SIGTERM) == 143


def test_a_result_can_be_taken_when_it_wakes():
    taken = []
    prober = Prober(lambda: taken.append(prober.take()))
    for number in range(20):
        prober.ask(lambda number=number: number)
        until(lambda: not prober.busy, 5)
    assert taken == list(range(20))


def test_a_dropped_call_does_not_answer_for_the_next():
    trickle, woken = threading.Event(), []
    prober = Prober(lambda: woken.append(1))
    prober.ask(lambda: trickle.wait() and "old")
    prober.drop()
    prober.ask(lambda: "new")
    until(lambda: len(woken) == 1)
    trickle.set()
    until(lambda: len(woken) == 2)
    assert until(prober.take) == "new"
