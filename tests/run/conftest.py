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


@pytest.fixture
def open_place(tmp_path_factory):
    """A directory that every user may reach and write."""
    place = tmp_path_factory.mktemp("open")
    for path in (place, *list(place.parents)[:3]):
        if path.owner() == "root" and str(path).startswith("/tmp/"):
            path.chmod(0o777)
    return place
