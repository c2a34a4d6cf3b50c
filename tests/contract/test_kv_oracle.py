"""Our KV arithmetic against each release's own code, integer for integer."""

from __future__ import annotations

import pytest

from tests.contract.kv_oracle import grid, mismatches, ours
from tests.contract.overlays import IndexUnreachable

pytestmark = pytest.mark.contract

COUNT = 120
#: One release of each change in the arithmetic; `python -m tests.contract.kv_oracle RELEASE
#: CHIP COUNT` compares any other of the catalog, as was done for all of them.
PAIRS = (
    *(("0.20.0", "h200"), ("0.25.1", "h200"), ("0.26.0", "h200"), ("0.32.0", "h200")),
    *(("0.33.0", "h200"), ("0.20.2rc1", "a3"), ("0.23.0.post1", "a2"), ("0.26.0rc1", "a3")),
    *(("0.30.0rc2", "a3"), ("0.30.0rc2", "a5")),
)


@pytest.mark.parametrize(("release", "chip"), PAIRS)
def test_equal_to_the_release_s_own_code(release, chip, contract_env):
    try:
        wrong = mismatches(release, chip, COUNT, contract_env)
    except IndexUnreachable as error:
        pytest.skip(str(error))
    assert wrong == []


@pytest.mark.parametrize(("release", "chip"), [("0.32.0", "h200"), ("0.30.0rc2", "a3")])
def test_the_grid_is_worth_comparing(release, chip):
    cases = grid(release, chip, COUNT)
    answers = [ours(release, chip, case) for case in cases]
    assert {case.spec for case in cases} == {"none", "mtp", "dspark"}
    assert {case.pipeline for case in cases} >= {1, 2, 3, 4}
    assert any(not answer["starts"] for answer in answers)
    assert sum(answer["starts"] for answer in answers) > COUNT / 2
    assert not any("error" in answer for answer in answers)
