"""``ascend-v4 render`` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOPOLOGIES = Path(__file__).parents[1] / "render" / "topologies"
PRO = TOPOLOGIES / "pro-2xa3.yaml"


def test_one_file_is_printed_as_it_is(ascend):
    done = ascend("render", "bash", "--chip", "a3", "--model-dir", "/w", "--name", "one")
    assert done.code == 0
    assert done.out.startswith("#!/usr/bin/env bash\n# Made by ascend-v4 ")
    assert done.err == ""


def test_several_files_have_their_names(ascend):
    done = ascend("render", "systemd", "-f", PRO)
    assert done.code == 0, done.err
    names = [line for line in done.out.splitlines() if line.startswith("# file: ")]
    assert names == [
        "# file: n0/ascend-v4-pro-dp.service",
        "# file: n1/ascend-v4-pro-dp.service",
        "# file: pro-dp.env",
        "# file: pro-dp.yaml",
    ]


def test_files_are_written_and_written_again(ascend, tmp_path):
    done = ascend("render", "bash", "-f", PRO, "-o", tmp_path / "out")
    assert done.out.splitlines() == [str(tmp_path / "out" / f"n{n}.sh") for n in (0, 1)]
    assert (tmp_path / "out" / "n0.sh").stat().st_mode & 0o777 == 0o755
    first = (tmp_path / "out" / "n0.sh").read_text()
    again = ascend("render", "bash", "-f", PRO, "-o", tmp_path / "out", "--json")
    assert again.code == 0
    assert json.loads(again.out) == {"files": done.out.splitlines(), "kept": []}
    assert (tmp_path / "out" / "n0.sh").read_text() == first
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["n0.sh", "n1.sh"]


def test_a_file_of_the_user_stays(ascend, tmp_path):
    (tmp_path / "n1.sh").write_text("mine\n")
    refused = ascend("render", "bash", "-f", PRO, "-o", tmp_path)
    assert refused.code == 2
    assert f"not made by render: {tmp_path / 'n1.sh'}" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["n1.sh"]
    assert (tmp_path / "n1.sh").read_text() == "mine\n"
    assert ascend("render", "bash", "-f", PRO, "-o", tmp_path, "--force").code == 0
    assert (tmp_path / "n1.sh").read_text().startswith("#!")


def test_json_holds_the_files(ascend):
    done = ascend("render", "k8s-lws", "--chip", "a3", "--json", "--namespace", "llm")
    made = json.loads(done.out)
    assert made["target"] == "k8s-lws"
    spaces = {yaml.safe_load(text)["metadata"]["namespace"] for text in made["files"].values()}
    assert spaces == {"llm"}
    assert "no key" in done.err


def test_what_is_refused_is_not_rendered(ascend, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(PRO.read_text().replace("data_parallel_size: 2", "data_parallel_size: 8"))
    done = ascend("render", "bash", "-f", bad, "-o", tmp_path / "out")
    assert done.code == 3, done.err
    assert not (tmp_path / "out").exists()
    assert done.out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-f", PRO, "--chip", "a3"], "-f and launch options together: --chip"),
        (["-f", PRO, "--name", "x"], "-f and launch options together: --name"),
        (["-f", PRO, "--", "--seed", "1"], "-f and launch options together: -- EXTRA"),
        (["--chip", "a3", "--nodes", "2"], "needs their addresses"),
        (["-f", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_contradictions(words, said, ascend):
    done = ascend("render", "bash", *words)
    assert done.code == 2
    assert said in done.err


def test_another_device_plugin(ascend):
    done = ascend("render", "k8s-lws", "--chip", "a3", "--device-plugin", "huawei-cce")
    assert "huawei.com/ascend-1980: 16" in done.out
    unknown = ascend("render", "k8s-lws", "--chip", "a3", "--device-plugin", "nvidia")
    assert unknown.code == 2
    assert "ascend-device-plugin, huawei-cce" in unknown.err


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from ascend_v4.cli import main; main(['render', '--help']);"
        "print(sorted({'yaml', 'pydantic', 'rich', 'httpx'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_a_place_that_cannot_be_written_is_one_clear_error(ascend, tmp_path):
    (tmp_path / "file").touch()
    done = ascend("render", "bash", "-f", PRO, "-o", tmp_path / "file" / "below")
    assert (done.code, done.out) == (2, "")
    assert "can't be written: Not a directory" in done.err
    assert done.err.endswith("next:  another -o, a directory of yours\n")


def test_a_namespace_is_a_kubernetes_name(ascend):
    done = ascend("render", "k8s-lws", "-f", PRO, "--namespace", "Bad NS!")
    assert (done.code, done.out) == (2, "")
    assert "'Bad NS!' is no name of Kubernetes" in done.err


@pytest.mark.parametrize("target", ["k8s-deployment", "k8s-lws", "kthena"])
def test_the_same_bytes_with_any_hash_seed(target):
    topology = TOPOLOGIES / "pd-h200.yaml"
    words = [sys.executable, "-m", "ascend_v4", "render", target, "-f", str(topology), "--json"]
    said = {
        subprocess.run(
            words, env={"PYTHONHASHSEED": seed, "HOME": "/h"}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


def test_an_unnamed_directory_of_weights_is_told(ascend, tmp_path):
    topology = tmp_path / "t.yaml"
    lines = (TOPOLOGIES / "pro-2xa3.yaml").read_text().splitlines(keepends=True)
    topology.write_text("".join(line for line in lines if not line.startswith("model_dir")))
    done = ascend("render", "slurm", "-f", topology)
    assert done.code == 0, done.err
    assert "model-dir-assumed" in done.err
