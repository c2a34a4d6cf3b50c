"""Compiled plans against the published launches of the same release: no unexplained difference."""

import fnmatch
import json
from pathlib import Path

import pytest
import yaml

from ascend_v4.catalog.load import catalog
from ascend_v4.core.compiler import compile_plan
from ascend_v4.core.request import LaunchRequest
from tests.catalog.deployments import PUBLISHED as DEPLOYMENTS
from tests.catalog.deployments import first_launch, planned

DATA = Path(__file__).resolve().parents[1] / "data"
PUBLISHED = json.loads((DATA / "published_launches.json").read_text())
EXPLAINED = yaml.safe_load((DATA / "drift_explained.yaml").read_text())
OF_DEPLOYMENTS = yaml.safe_load((DATA / "drift_explained_deployments.yaml").read_text())
#: Where and as what to listen is the operator's own.
OWN = ("flag.host", "flag.port", "flag.served-model-name")
#: What a topology file says, and where a process stands in it.
PLACES = (
    *(f"flag.data-parallel-{word}" for word in ("size", "size-local", "start-rank", "rank")),
    *("flag.data-parallel-address", "flag.data-parallel-rpc-port", "flag.tensor-parallel-size"),
    *("env.HCCL_IF_IP", "env.GLOO_SOCKET_IFNAME", "env.TP_SOCKET_IFNAME"),
    *("env.HCCL_SOCKET_IFNAME", "env.ASCEND_RT_VISIBLE_DEVICES"),
    *("env.CUDA_VISIBLE_DEVICES", "env.NCCL_SOCKET_IFNAME", "env.VLLM_NIXL_SIDE_CHANNEL_HOST"),
)
CASES = [(launch, version) for launch in PUBLISHED for version in launch["versions"]]
DEPLOYED = [(launch, version) for launch in DEPLOYMENTS for version in launch["versions"]]
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


def explains(row, path, theirs, ours, kind, role="mixed"):
    def same(key, value):
        wanted = row.get(key, "any")
        return wanted == "any" or (str(wanted).lower() if wanted is not None else None) == value

    return (
        fnmatch.fnmatch(path, row["path"])
        and same("theirs", theirs)
        and same("ours", ours)
        and row.get("kind", kind) == kind
        and row.get("role", role) == role
    )


def unexplained(theirs, ours, kind, own=OWN, rows=EXPLAINED, role="mixed"):
    """Return the differences that no row explains; the rows that do are marked as used."""
    left = []
    for path in sorted(set(ours) | set(theirs)):
        a, b = theirs.get(path), ours.get(path)
        if a == b or path in own:
            continue
        found = [row for row in rows if explains(row, path, a, b, kind, role)]
        USED.update(id(row) for row in found)
        if not found:
            left.append(f"{path}: published {a}, ours {b}")
    return left


@pytest.mark.parametrize(
    "launch,version", CASES, ids=lambda c: c if isinstance(c, str) else c["id"]
)
def test_every_difference_is_explained(launch, version):
    ours = compiled(launch, version)
    published = leaves(launch["env"], launch["args"])
    assert unexplained(published, leaves(ours.env, ours.flags), launch["kind"]) == []


@pytest.mark.parametrize(
    "launch,version", DEPLOYED, ids=lambda c: c if isinstance(c, str) else c["id"]
)
def test_every_difference_of_a_deployment_is_explained(launch, version):
    """Every side of a published launch over several nodes, or of prefill and decode apart."""
    deployment = planned(launch, version)
    left = {}
    for group in launch["groups"]:
        ours = first_launch(deployment, group["role"])
        left[group["role"]] = unexplained(
            leaves(group["env"], group["args"]),
            leaves(ours.env, ours.flags),
            launch["kind"],
            (*OWN, *PLACES),
            [*EXPLAINED, *OF_DEPLOYMENTS],
            group["role"],
        )
    assert left == {group["role"]: [] for group in launch["groups"]}


def test_every_explanation_names_rows_of_the_catalog():
    tables = ("settings", "choices", "rules", "variables")
    known = {row.get("id") or row["name"] for table in tables for row in catalog().table(table)}
    missing = {row for e in (*EXPLAINED, *OF_DEPLOYMENTS) for row in e["rows"]} - known
    assert missing == set()


def test_no_explanation_is_left_over():
    """Runs last: an explanation that explains nothing any more has to go."""
    if len(USED) == 0:
        pytest.skip("the comparison above was not run")
    assert [e["path"] for e in (*EXPLAINED, *OF_DEPLOYMENTS) if id(e) not in USED] == []
