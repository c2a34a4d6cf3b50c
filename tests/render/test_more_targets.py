"""Compose, Slurm, Kubernetes without LeaderWorkerSet, Kthena: golden folders and promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.render.targets import RenderOptions, notes, render, yours
from tests.conftest import GOLDEN

from .cases import KEY_FILE, MORE, deployment

#: The golden folders of each target: one machine, prefill and decode apart, several nodes.
GOLDENS = {
    "compose": ("a3", "a3-1p1d", "pd-h200"),
    "slurm": ("a3-1p1d", "pro-2xa3"),
    "k8s-deployment": ("a3", "pro-2xa3", "pd-h200"),
    "kthena": ("pro-2xa3", "pd-h200"),
    "prometheus": ("a3", "a3-1p1d", "pd-h200"),
    "grafana": ("a3", "pd-h200"),
}
PAIRS = [(target, case) for target, cases in GOLDENS.items() for case in cases]
#: One port a pod is all that Kthena knows, and these have a server for each rank.
NOT_FOR_KTHENA = ("a3-1p1d", "2p2d-of-two")


def possible(target: str) -> list[str]:
    """Return the cases that a target can express."""
    cases = [*MORE, "pd-h200"]
    return [case for case in cases if target != "kthena" or case not in NOT_FOR_KTHENA]


@pytest.mark.parametrize(("target", "case"), PAIRS)
def test_golden(target, case, golden, request):
    files = render(target, deployment(case), RenderOptions())
    folder = GOLDEN / "render" / target / case
    if request.config.getoption("--update-golden") and folder.exists():
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            path.unlink()
    for name, text in files.items():
        golden(f"render/{target}/{case}/{name}", text)
    assert {path.name for path in folder.iterdir()} == set(files)


@pytest.mark.parametrize("target", GOLDENS)
def test_the_key_stays_in_its_file(target, tmp_path, ascend):
    """A rendering may name the file of the API key, never read it."""
    key = tmp_path / "api-key"
    key.write_text("swordfish")
    done = ascend("render", target, "--chip", "a3", "--api-key-file", key)
    assert done.code == 0, done.err
    assert "swordfish" not in done.out + done.err
    assert (str(key) in done.out) == (target in ("compose", "slurm"))


@pytest.mark.parametrize("target", ("compose", "k8s-deployment", "kthena"))
def test_privileged_only_where_asked(target):
    whole = deployment("a3")
    plain = "\n".join(render(target, whole, RenderOptions()).values())
    asked = "\n".join(render(target, whole, RenderOptions(privileged=True)).values())
    assert "privileged: true" not in plain
    assert "privileged: true" in asked
    assert notes(target, whole, RenderOptions())[0].id == "not-privileged"
    told = notes(target, whole, RenderOptions(privileged=True))
    assert "not-privileged" not in [note.id for note in told]


@pytest.mark.parametrize("case", NOT_FOR_KTHENA)
def test_kthena_refuses_several_servers_in_a_pod(case):
    with pytest.raises(AscendV4Error) as caught:
        render("kthena", deployment(case), RenderOptions())
    assert (caught.value.code, caught.value.kind) == (ExitCode.REFUSED, "not-for-kthena")
    assert "servers in a pod, and Kthena sends requests to one port" in str(caught.value)
    assert "load_balancing: internal" in caught.value.next


def test_a_group_that_nothing_restarts_is_said():
    found = {
        note.id: note for note in notes("k8s-deployment", deployment("pro-2xa3"), RenderOptions())
    }
    assert found["no-group-restart"].severity == "risk"
    alone = notes("k8s-deployment", deployment("a3"), RenderOptions())
    assert "no-group-restart" not in [note.id for note in alone]


def test_stateful_sets_name_pods_as_leader_worker_sets_do():
    """Router and pod templates are shared with k8s-lws, so names must be the same."""
    import yaml

    texts = render("k8s-deployment", deployment("pro-2xa3"), RenderOptions())
    sets = {
        made["metadata"]["name"]: made["spec"]
        for made in map(yaml.safe_load, texts.values())
        if made["kind"] == "StatefulSet"
    }
    assert {name: spec["replicas"] for name, spec in sets.items()} == {
        "pro-dp-server": 1,
        "pro-dp-server-0": 1,
    }
    assert sets["pro-dp-server-0"]["ordinals"] == {"start": 1}
    env = sets["pro-dp-server-0"]["template"]["spec"]["containers"][0]["env"]
    values = {each["name"]: each.get("value") for each in env}
    head = "pro-dp-server-0.pro-dp-server.default.svc"
    assert (values["LWS_GROUP_INDEX"], values["LWS_LEADER_ADDRESS"]) == ("0", head)


def test_compose_puts_nothing_into_values():
    """Every dollar sign is doubled, so Compose's own interpolation finds no variable."""
    for case in possible("compose"):
        files = render("compose", deployment(case), RenderOptions())
        for name, text in files.items():
            if name.endswith(".yaml"):
                lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
                assert "$" not in "\n".join(lines).replace("$$", "")
    assert KEY_FILE in "".join(render("compose", deployment("a3"), RenderOptions()).values())


@pytest.mark.parametrize("target", GOLDENS)
def test_rendering_again_overwrites_our_own_files_only(target, tmp_path, ascend):
    words = ("render", target, "--chip", "a3", "-o", tmp_path)
    first, second = ascend(*words), ascend(*words)
    assert (first.code, second.code) == (0, 0), second.err
    assert first.out == second.out
    path = Path(first.out.splitlines()[0])
    path.write_text("mine")
    again = ascend(*words)
    assert path.read_text() == "mine"
    if yours(target, [path.name]):
        assert (again.code, path.with_name(f"{path.name}.new").exists()) == (0, True)
        assert f"{path} was edited" in again.err
    else:
        assert again.code == ExitCode.USAGE


def test_hash_seed_changes_nothing():
    """Two interpreters with other hash seeds write the same bytes."""
    code = (
        "import sys; from tests.render.cases import deployment;"
        "from tests.render.test_more_targets import PAIRS;"
        "from ascend_v4.render.targets import render, RenderOptions;"
        "sys.stdout.write(repr([render(t, deployment(c), RenderOptions()) for t, c in PAIRS]))"
    )
    texts = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed}, cwd=Path(__file__).parents[2],
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert texts[0] == texts[1]
    assert len(texts[0]) > 100_000
