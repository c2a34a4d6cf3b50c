"""Help and planning are quick: within 4 times the start of Python with click."""

from tests.figures.startup import medians


def test_commands_start_quickly():
    found = medians(rounds=7)
    base = found.pop("import click")
    slow = {name: round(median / base, 2) for name, median in found.items() if median > 4 * base}
    assert slow == {}
