"""A fake process tree per test, and proof that each test leaves nothing behind."""

import pytest

from tests.support.fake_tree_run import Tree


@pytest.fixture
def trees(tmp_path):
    """Make fake hosts with an engine that forks; at the end nothing of them may be left."""
    made = []

    def make(name="host", **script):
        made.append(Tree(tmp_path / name, **script))
        return made[-1]

    yield make
    left = {tree.place.name: tree.strays() for tree in made if tree.strays()}
    for tree in made:
        tree.kill_all()
    assert left == {}


@pytest.fixture
def tree(trees):
    """Make one fake host that serves at once."""
    return trees()
