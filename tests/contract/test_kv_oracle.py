"""Our KV arithmetic against each release's own code, integer for integer."""

from __future__ import annotations

import pytest

from tests.contract.kv_oracle import grid, mismatches, ours
from tests.contract.overlays import IndexUnreachable

pytestmark = pytest.mark.contract

COUNT = 120
UPSTREAM = (
    *("0.20.0", "0.20.2", "0.21.0", "0.22.1", "0.23.0", "0.24.0", "0.25.0", "0.25.1"),
    *("0.26.0", "0.27.1", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0"),
)
PLUGIN = (
    *(("0.20.2rc1", "a3"), ("0.21.0rc1", "a3"), ("0.22.1rc1", "a2"), ("0.23.0rc1", "a3")),
    *(("0.23.0", "a3"), ("0.23.0", "a5"), ("0.23.0.post1", "a2"), ("0.24.0rc1", "a3")),
    *(("0.25.1rc1", "a3"), ("0.26.0rc1", "a3"), ("0.26.0rc1", "a5"), ("0.27.1rc1", "a3")),
    *(("0.28.0rc1", "a3"), ("0.29.0rc1", "a3"), ("0.30.0rc1", "a3"), ("0.30.0rc2", "a3")),
    *(("0.30.0rc2", "a5"),),
)


@pytest.mark.parametrize(
    ("release", "chip"), [*((version, "h200") for version in UPSTREAM), *PLUGIN]
)
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
