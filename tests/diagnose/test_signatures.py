"""Every signature row: its example triggers it, its near-misses don't."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_v4.catalog.diagnosis import diagnosis_catalog
from ascend_v4.diagnose import diagnose_lines
from ascend_v4.errors import ExitCode

ROWS = diagnosis_catalog().table("signatures")


def found(lines):
    """Return the ids that a log gives, in order: cause, others, consequences, warnings."""
    d = diagnose_lines(lines)
    return [m.id for m in (d.cause, *d.also, *d.secondary, *d.warnings) if m]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_the_example_is_recognised_for_what_it_is(row):
    diagnosis = diagnose_lines(row["example"])
    assert row["id"] in found(row["example"])
    role, weak = row.get("role", "cause"), row.get("specificity") == "weak"
    if role == "cause":
        assert diagnosis.cause.id == row["id"]
        assert diagnosis.verdict == ("unsure" if weak else "found")
        assert diagnosis.server_exit == row["exit"]
    elif role == "benign":
        assert (diagnosis.cause, diagnosis.verdict) == (None, "nothing")
    else:
        assert diagnosis.verdict == "unsure"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_near_misses_are_not_recognised(row):
    assert row["id"] not in found(row["near_miss"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_it_is_found_through_every_wrapping(row):
    wraps = (
        "2026-07-21T08:00:05.123456789Z stderr F {}",
        "[pod/flash-0/server] {}",
        "server-1  | {}",
        "Jul 21 10:00:05 node1 vllm[311]: {}",
        "\x1b[31m{}\x1b[0m",
    )
    for wrap in wraps:
        assert row["id"] in found([wrap.format(line) for line in row["example"]]), wrap


def test_a_row_needs_all_its_words():
    """Dropping the rarest half of each way to match leaves nothing of it."""
    for row in ROWS:
        for entry in row["match"]:
            words = [entry] if isinstance(entry, str) else entry
            cut = " ".join(word[: len(word) // 2] for word in words)
            assert row["id"] not in found([f"ERROR {cut}"]) or len(row["match"]) > 1, row["id"]


def test_consequences_never_become_the_cause_of_another():
    """With any strong cause before them, secondary rows stay consequences."""
    echoes = [line for row in ROWS if row.get("role") == "secondary" for line in row["example"]]
    for row in ROWS:
        if row.get("role", "cause") != "cause" or row.get("specificity") == "weak":
            continue
        diagnosis = diagnose_lines([*row["example"], *echoes])
        assert diagnosis.cause.id == row["id"]
        assert diagnosis.exit_code == ExitCode.DONE


def test_precision_and_recall_over_the_catalogs_own_logs():
    right = missed = wrong = 0
    for row in ROWS:
        ids = found(row["example"])
        right += row["id"] in ids
        missed += row["id"] not in ids
        wrong += len([name for name in ids if name not in (row["id"], "worker-died", "acl-507034")])
    assert (right, missed) == (len(ROWS), 0)
    # worker-crashed and -killed carry worker-died by design; nothing else may come along.
    assert wrong <= 3


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ROWS),
    st.lists(st.binary(max_size=200), max_size=8),
    st.integers(min_value=0, max_value=8),
)
def test_noise_around_a_line_does_not_hide_it(row, noise, at):
    lines = [line.replace(b"\n", b" ") + b"\n" for line in noise]
    example = [f"{line}\n".encode() for line in row["example"]]
    assert row["id"] in found([*lines[:at], *example, *lines[at:]])


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=4000))
def test_any_bytes_are_read_without_an_error(data):
    diagnosis = diagnose_lines(data.split(b"\n"))
    assert diagnosis.to_json()["schema"] == 1


def test_no_two_rows_share_a_way_to_match():
    seen = {}
    for row in ROWS:
        for entry in row["match"]:
            key = (entry,) if isinstance(entry, str) else tuple(entry)
            assert key not in seen, f"{row['id']} and {seen.get(key)} both match {key}"
            seen[key] = row["id"]


def test_every_code_in_a_match_can_be_explained():
    codes = {row["code"] for row in diagnosis_catalog().table("error_codes")}
    text = str([row["match"] for row in ROWS])
    for code in ("EI0002", "EI0006", "EI0007", "EI0011", "EI0015", "EI0019", "EI0020", "EJ0001"):
        assert code in text
        assert code in codes
    for number in ("507014", "507015", "507018", "507033", "507034", "507035", "207005", "207008"):
        assert number in text
        assert number in codes
