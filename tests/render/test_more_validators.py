"""Compose, Slurm and Kubernetes renderings before the programs and schemas that read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ascend_v4.render.docker import container_argv
from ascend_v4.render.targets import RenderOptions, render
from tests.conftest import REAL_ENV

from .cases import deployment
from .crds import SCHEMAS, text_of, validators
from .test_more_targets import possible
from .test_validators import check_scripts, spoilt, written

COMPOSE = Path(__file__).parents[1] / "data" / "schemas" / "compose-spec.json"


@pytest.mark.parametrize("case", possible("compose"))
def test_compose_schema(case, tmp_path):
    """The Compose Specification's own schema takes every file; the inner scripts are sound."""
    jsonschema = pytest.importorskip("jsonschema", reason="pip install kubernetes-validate")
    schema = jsonschema.Draft202012Validator(json.loads(COMPOSE.read_text()))
    files = render("compose", deployment(case), RenderOptions())
    whole = {name: text for name, text in files.items() if name.startswith("compose.")}
    assert len(whole) == len(deployment(case).nodes)
    for text in whole.values():
        assert [error.message for error in schema.iter_errors(yaml.safe_load(text))] == []
    check_scripts(written({n: t for n, t in files.items() if n.endswith(".sh")}, tmp_path) or [])


def test_the_compose_schema_refuses_what_is_wrong():
    """So that the test above can fail at all."""
    jsonschema = pytest.importorskip("jsonschema", reason="pip install kubernetes-validate")
    schema = jsonschema.Draft202012Validator(json.loads(COMPOSE.read_text()))
    made = yaml.safe_load(render("compose", deployment("a3"), RenderOptions())["compose.node.yaml"])
    made["services"]["server-0-0"]["stop_grace_periods"] = "1s"
    assert not schema.is_valid(made)


def test_a_compose_program_reads_the_command_as_it_was_meant():
    """podman-compose's interpolation leaves just what `docker run` would be given."""
    podman_compose = pytest.importorskip("podman_compose", reason="pip install podman-compose")
    whole = deployment("a3")
    text = render("compose", whole, RenderOptions())["compose.node.yaml"]
    service = yaml.safe_load(text)["services"]["server-0-0"]
    read = podman_compose.rec_subs([*service["entrypoint"], *service["command"]], {"x": "y"})
    plan = whole.nodes[0].plan
    key = 'VLLM_API_KEY="$(cat /etc/ascend-v4/api-key)" || exit 6; export VLLM_API_KEY'
    inner = container_argv(plan, plan.processes[0])
    assert read == ["/bin/sh", "-c", f'{key}; exec "$@"', "ascend-v4", *inner]


def objects(target: str, case: str) -> list[dict]:
    """Return the manifests of a case."""
    texts = render(target, deployment(case), RenderOptions()).values()
    return [yaml.safe_load(text) for text in texts]


@pytest.mark.parametrize("case", possible("k8s-deployment"))
def test_kubernetes_validate(case):
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    made = [each for each in objects("k8s-deployment", case) if each["kind"] != "PodMonitor"]
    for each in made:
        validator.validate(each, "1.33", strict=True)
    assert {each["kind"] for each in made} >= {"Service", "ConfigMap", "NetworkPolicy"}


@pytest.mark.parametrize("case", possible("kthena"))
def test_pods_inside_kthenas_roles(case):
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    (serving,) = [each for each in objects("kthena", case) if each["kind"] == "ModelServing"]
    checked = 0
    for role in serving["spec"]["template"]["roles"]:
        for key in ("entryTemplate", "workerTemplate"):
            if key in role:
                spec = role[key]["spec"]
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
                validator.validate(pod, "1.33", strict=True)
                checked += 1
    assert checked


@pytest.fixture(scope="module")
def kinds():
    pytest.importorskip("jsonschema", reason="pip install kubernetes-validate")
    return validators("kthena.json")


def models(case: str) -> dict[str, dict]:
    """Return Kthena's own objects of a case by kind."""
    made = {each["kind"]: each for each in objects("kthena", case)}
    return {kind: each for kind, each in made.items() if kind.startswith("Model")}


@pytest.mark.parametrize("case", possible("kthena"))
def test_kthenas_kinds(case, kinds):
    mine = models(case)
    assert set(mine) == set(kinds)
    for kind, each in mine.items():
        assert [error.message for error in kinds[kind].iter_errors(each)] == []


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("ModelServing", "apiVersion", "workload.serving.volcano.sh/v1"),
        ("ModelServing", "spec.recoveryPolicy", "Recreate"),
        ("ModelServing", "spec.template.gang", {}),
        ("ModelServing", "spec.template.roles.0.workerReplicas", None),
        ("ModelServing", "spec.template.roles.0.name", "a-name-too-long"),
        ("ModelServer", "spec.inferenceEngine", "vllm"),
        ("ModelServer", "spec.workloadPort.port", 70000),
        ("ModelServer", "spec.kvConnector.type", "nccl"),
        ("ModelServer", "spec.workloadSelector.pdGroup.groupKey", None),
        ("ModelRoute", "spec.rules.0.targetModels", []),
        ("ModelRoute", "spec.model", "flash"),
    ],
)
def test_what_kthena_would_refuse(kind, path, value, kinds):
    made = models("pd-h200")[kind]
    assert kinds[kind].is_valid(made)
    assert not kinds[kind].is_valid(spoilt(made, path, value))


def test_the_condensed_definitions_are_those_of_the_release():
    folder = REAL_ENV.get("KTHENA_CRDS")
    if not folder:
        pytest.skip("KTHENA_CRDS is a folder of what tests/data/schemas/README.md names")
    mine = ("modelroutes", "modelservers", "modelservings")
    paths = [next(Path(folder).glob(f"*_{name}.yaml")) for name in mine]
    assert text_of(paths) == (SCHEMAS / "kthena.json").read_text()


@pytest.mark.parametrize("case", possible("slurm"))
def test_slurm_script(case, tmp_path):
    check_scripts(written(render("slurm", deployment(case), RenderOptions()), tmp_path))


@pytest.mark.parametrize("target", ["k8s-deployment", "kthena"])
def test_scripts_inside_pods(target, tmp_path):
    texts = [json.dumps(each) for each in objects(target, "pro-2xa3")]
    found: list[str] = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            found.extend(word for word in node.get("command", []) if "exec vllm serve" in word)
        for inner in (
            node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        ):
            walk(inner)

    for text in texts:
        walk(json.loads(text))
    assert len(found) == 2
    check_scripts(written({f"{n}.sh": text for n, text in enumerate(found)}, tmp_path))
