"""Which connection is left behind: seconds and bytes of a clock that the test moves."""

from __future__ import annotations

import pytest

from ascend_v4.weights.pace import WINDOW_S, Pace

LEFT = 100 << 20


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def slow(rates: list[float], idle: bool = False, left: int = LEFT) -> list[bool]:
    """Return what each connection is told after three windows at its rate."""
    clock = Clock()
    pace = Pace(clock)
    meters = [pace.begin() for _ in rates]
    told: list[bool] = []
    for _ in range(3):
        clock.now += WINDOW_S
        told = [
            meter.add(int(rate * WINDOW_S), left, idle)
            for meter, rate in zip(meters, rates, strict=True)
        ]
    return told


@pytest.mark.parametrize(
    ("rates", "idle", "expected"),
    [
        ([10e6] * 8, False, [False] * 8),
        ([10e6] * 7 + [1e6], False, [False] * 7 + [True]),
        ([10e6] * 7 + [4e6], False, [False] * 8),
        ([10e6] * 7 + [4e6], True, [False] * 7 + [True]),
        # All are slow, or there is only one: a new connection wouldn't be faster.
        ([1e4] * 8, False, [False] * 8),
        ([1e4], True, [False]),
        # Half of them: the median of the others is what counts.
        ([10e6, 10e6, 10e6, 1e6, 1e6], False, [False, False, False, True, True]),
    ],
)
def test_who_is_far_behind_the_others(rates: list[float], idle: bool, expected: list[bool]) -> None:
    assert slow(rates, idle) == expected


def test_what_is_nearly_done_is_left_to_end() -> None:
    assert slow([10e6, 10e6, 1e6], left=1_000_000) == [False, False, False]


def test_the_last_one_is_compared_with_those_that_have_just_ended() -> None:
    clock = Clock()
    pace = Pace(clock)
    last, others = pace.begin(), [pace.begin() for _ in range(3)]
    clock.now += 2
    for meter in others:
        assert not meter.add(20_000_000, LEFT, False)
        meter.end()
    clock.now += WINDOW_S
    assert last.add(1_000_000, LEFT, True)
    clock.now += 70
    assert not last.add(1_000_000, LEFT, True), "a minute later their rate says nothing"
