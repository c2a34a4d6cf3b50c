"""Compiled plans against the published launches of the same release: no unexplained difference."""

import fnmatch
import json
from pathlib import Path

import pytest
import yaml

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.request import LaunchRequest

DATA = Path(__file__).resolve().parents[1] / "data"
PUBLISHED = json.loads((DATA / "published_launches.json").read_text())
EXPLAINED = yaml.safe_load((DATA / "drift_explained.yaml").read_text())
#: Where and as what to listen is the operator's own.
OWN = ("flag.host", "flag.port", "flag.served-model-name")
CASES = [(launch, version) for launch in PUBLISHED for version in launch["versions"]]
USED: set[int] = set()


def flat(path, value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(f"{path}.{key}", inner)
    else:
        yield path, value if value is None else str(value).lower()


def leaves(env, flags):
    flags = {name.replace("attention-config.indexer-kv", "attention-config.indexer_kv"): value
             for name, value in flags.items()}  # fmt: skip
    flags = {k.replace("indexer_kv-dtype", "indexer_kv_dtype"): v for k, v in flags.items()}
    return dict(flat("env", env)) | dict(flat("flag", flags))


def compiled(launch, version):
    args = launch["args"]
    return compile_plan(
        LaunchRequest(
            chip=launch["chip"],
            engine_version=version,
            model=launch["model"],
            workload="long-context" if args.get("max-model-len", 0) > 200_000 else "throughput",
            tensor_parallel_size=args.get("tensor-parallel-size", 1),
            data_parallel_size=args.get("data-parallel-size"),
            allow_unvalidated=True,
        ),
        catalog(),
    ).launch


def explains(row, path, theirs, ours, kind):
    def same(key, value):
        wanted = row.get(key, "any")
        return wanted == "any" or (str(wanted).lower() if wanted is not None else None) == value

    return (
        fnmatch.fnmatch(path, row["path"])
        and same("theirs", theirs)
        and same("ours", ours)
        and row.get("kind", kind) == kind
    )


@pytest.mark.parametrize(
    "launch,version", CASES, ids=lambda c: c if isinstance(c, str) else c["id"]
)
def test_every_difference_is_explained(launch, version):
    ours_launch = compiled(launch, version)
    ours = leaves(ours_launch.env, ours_launch.flags)
    theirs = leaves(launch["env"], launch["args"])
    unexplained = []
    for path in sorted(set(ours) | set(theirs)):
        a, b = theirs.get(path), ours.get(path)
        if a == b or path in OWN:
            continue
        found = [i for i, r in enumerate(EXPLAINED) if explains(r, path, a, b, launch["kind"])]
        USED.update(found)
        if not found:
            unexplained.append(f"{path}: published {a}, ours {b}")
    assert unexplained == []


def test_every_explanation_names_rows_of_the_catalog():
    tables = ("settings", "choices", "rules", "variables")
    known = {row.get("id") or row["name"] for table in tables for row in catalog().table(table)}
    missing = {row for e in EXPLAINED for row in e["rows"]} - known
    assert missing == set()


def test_no_explanation_is_left_over():
    """Runs last: an explanation that explains nothing any more has to go."""
    if len(USED) == 0:
        pytest.skip("the comparison above was not run")
    assert [e["path"] for i, e in enumerate(EXPLAINED) if i not in USED] == []
