"""Names and paths with spaces, quotes, dollar signs and percent signs reach what they are for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ascend_v4.catalog.load import catalog
from ascend_v4.render.common import quote, unexpanded
from ascend_v4.render.targets import RenderOptions, render
from ascend_v4.topology.deploy import deploy
from ascend_v4.topology.deployment import Deployment
from ascend_v4.topology.model import Topology

from .test_validators import check_scripts, written

NAME = """my model; $X "q" $(POD_IP) $$ `id` it's"""
WEIGHTS = "/mo dels/f$HOME 100%l'ash"
MIXED = [{"name": "s", "nodes": ["a"], "data_parallel_size": 8, "tensor_parallel_size": 1}]
APART = [
    {**MIXED[0], "name": "p", "role": "prefill"},
    {**MIXED[0], "name": "d", "role": "decode", "nodes": ["b"]},
]


def odd(groups: list[dict], key: str = "/etc/my $KEYS/it's", **more: object) -> Deployment:
    """Return a deployment on GPUs whose name and paths are awkward."""
    names = sorted({name for group in groups for name in group["nodes"]})
    topology = {
        "schema": 1, "name": "odd", "chip": "h200", "model": "flash", "model_dir": WEIGHTS,
        "allow_unvalidated": True, "groups": groups,
        "options": {"served_model_name": NAME, "api_key_file": key},
        "nodes": [
            {"name": name, "address": f"10.0.0.{n}", "interface": "eth0"}
            for n, name in enumerate(names, 1)
        ],
    }  # fmt: skip
    return deploy(Topology.model_validate({**topology, **more}), catalog())


def by_kubernetes(word: str, env: dict[str, str]) -> str:
    """Expand a word of a command as Kubernetes does.

    https://github.com/kubernetes/kubernetes/blob/v1.33.0/third_party/forked/golang/expansion/expand.go
    """
    done, at = "", 0
    while at < len(word):
        two = word[at : at + 2]
        end = word.find(")", at)
        if two == "$(" and end > 0:
            name = word[at + 2 : end]
            done, at = done + env.get(name, f"$({name})"), end + 1
        elif two[0] == "$" and len(two) == 2:
            done, at = done + ("$" if two == "$$" else two), at + 2
        else:
            done, at = done + two[0], at + 1
    return done


@pytest.mark.parametrize(
    "word", [NAME, "$(POD_IP)", "$$", "a$$$(POD_IP)", "$", "x$", "$$$", "$HOME $(X", "$x$$(POD_IP)"]
)
def test_kubernetes_leaves_the_word(word):
    assert by_kubernetes(unexpanded(word), {"POD_IP": "10.1.1.1", "X": "y"}) == word


def containers(node: object) -> list[dict]:
    """Return every container inside a manifest."""
    if isinstance(node, dict):
        here = node.get("containers", [])
        return [*here, *(each for inner in node.values() for each in containers(inner))]
    return [each for inner in node for each in containers(inner)] if isinstance(node, list) else []


def pods(target: str, deployment: Deployment) -> list[dict]:
    """Return the containers of a rendering, outer ones first."""
    texts = render(target, deployment, RenderOptions()).values()
    return [each for text in texts for each in containers(yaml.safe_load(text))]


def asked(command: list[str], folder: Path) -> list[str]:
    """Run a probe's command with a stand-in for python3; return that program's arguments."""
    python = folder / "python3"
    python.write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n')
    python.chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "POD_IP": "10.1.1.1", "X": "y"}
    words = [by_kubernetes(word, env) for word in command]
    return subprocess.run(
        words, env=env, capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.mark.parametrize("target", ["k8s-lws", "k8s-deployment", "kthena"])
def test_probes_ask_for_the_model(target, tmp_path):
    (server,) = pods(target, odd(MIXED))
    for kind, what in (
        ("startupProbe", "health"),
        ("readinessProbe", "generate"),
        ("livenessProbe", "health"),
    ):
        told = asked(server[kind]["exec"]["command"], tmp_path)
        assert told == ["/etc/ascend-v4/probe.py", what, NAME, "10.1.1.1", "8000"]
    script = next(word for word in server["command"] if "exec vllm serve" in word)
    expanded = by_kubernetes(script, {"POD_IP": "10.1.1.1", "X": "y"})
    assert f"--served-model-name {quote(NAME)}\n" in expanded
    assert f"exec vllm serve {quote(WEIGHTS)} " in expanded
    subprocess.run(["bash", "-n", "-c", expanded], check=True)


def test_the_routers_probe_asks_for_the_model(tmp_path):
    made = pods("k8s-lws", odd(APART))
    (router,) = (each for each in made if each["name"] == "router")
    told = asked(router["readinessProbe"]["exec"]["command"], tmp_path)
    assert told == ["/etc/ascend-v4/probe.py", "generate", NAME, "127.0.0.1", "8000"]


def test_compose_reads_the_key_from_its_file(tmp_path):
    folder = tmp_path / 'my $KEYS "`id`'
    folder.mkdir()
    key = folder / "it's"
    key.write_text("swordfish\n")
    text = render("compose", odd(MIXED, str(key)), RenderOptions())["compose.a.yaml"]
    service = yaml.safe_load(text)["services"]["s-0-0"]
    words = [word.replace("$$", "$") for word in [*service["entrypoint"], *service["command"]]]
    assert words[:2] == ["/bin/sh", "-c"]
    done = subprocess.run(
        [*words[:4], "printenv", "VLLM_API_KEY"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "swordfish\n"


@pytest.mark.parametrize(
    ("path", "written_as"),
    [
        (WEIGHTS, '"/mo dels/f$HOME 100%%l\'ash"'),
        ("/models/flash", "/models/flash"),
        ('/a "b"\\c', '"/a \\"b\\"\\\\c"'),
    ],
)
def test_systemd_reads_the_path_of_the_weights(path, written_as, tmp_path):
    files = render("systemd", odd(MIXED, model_dir=path), RenderOptions())
    unit = files["a/ascend-v4-odd.service"]
    assert f"\nRequiresMountsFor={written_as}\n" in unit
    tool = shutil.which("systemd-analyze")
    if not tool:
        pytest.skip("no systemd-analyze on this machine")
    (place,) = written({"ascend-v4-odd.service": unit}, tmp_path)
    done = subprocess.run(
        [tool, "verify", "--man=no", place], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_slurm_hands_the_interface_over(tmp_path):
    name = "ib0.8001-x_y"
    nodes = [{"name": "a", "address": "10.0.0.1", "interface": name}]
    ((file, text),) = render("slurm", odd(MIXED, nodes=nodes), RenderOptions()).items()
    (line,) = (each for each in text.splitlines() if each.startswith("interfaces="))
    done = subprocess.run(
        ["bash", "-c", f'{line}; printf %s "${{interfaces[0]}}"'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == name
    check_scripts(written({file: text}, tmp_path))


@pytest.mark.parametrize("target", ["k8s-lws", "k8s-deployment", "kthena"])
def test_a_name_that_starts_with_a_digit(target):
    """Services, and what makes Services of its own name, start with a letter (RFC 1035)."""
    made = [
        yaml.safe_load(text)
        for text in render(target, odd(APART, name="2p1d"), RenderOptions()).values()
    ]
    names = [each["metadata"]["name"] for each in made]
    assert [name for name in names if not name[0].isalpha()] == []
    assert json.dumps(made).count('"v4-2p1d') > len(names)
    servers = [each["metadata"]["name"] for each in made if each["kind"] == "Service"]
    assert set(servers) <= {"v4-2p1d", "v4-2p1d-p", "v4-2p1d-d"}
    instances = {each["metadata"]["labels"]["app.kubernetes.io/instance"] for each in made}
    assert instances == {"2p1d"}
