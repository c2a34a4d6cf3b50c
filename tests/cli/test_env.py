"""``ascend-v4 env``: whole outputs, and shells that read them."""

import json
import subprocess

import pytest

ASCEND = [
    (chip, version)
    for version in ("0.13.0rc3", "0.23.0", "0.23.0.post1", "0.25.1rc1", "0.26.0rc1")
    for chip in ("a2", "a3")
]


@pytest.mark.parametrize("chip,version", ASCEND)
def test_shell_output(ascend, golden, chip, version):
    done = ascend("env", "--chip", chip, "--engine-version", version)
    assert done.code == 0
    golden(f"env/{chip}-{version}.sh", done.out)


@pytest.mark.parametrize("form", ["shell", "dotenv", "json"])
def test_forms_agree(ascend, form, tmp_path):
    env = json.loads(ascend("env", "--chip", "a3", "--format", "json").out)["env"]
    done = ascend("env", "--chip", "a3", "--format", form)
    if form == "shell":
        script = tmp_path / "env.sh"
        script.write_text(done.out)
        ran = subprocess.run(
            ["bash", "-euc", f"source {script}; env -0"], capture_output=True, text=True, check=True
        )
        shell = dict(line.split("=", 1) for line in ran.stdout.split("\0") if "=" in line)
        assert {name: shell.get(name) for name in env} == env
    elif form == "dotenv":
        assert dict(line.split("=", 1) for line in done.out.splitlines()) == env
    else:
        assert json.loads(done.out)["env"] == env


def test_eval_as_documented(ascend):
    text = ascend("env", "--chip", "a3", "--engine-version", "0.13.0rc3").out
    ran = subprocess.run(
        [
            "sh",
            "-c",
            "eval \"$1\"; sh -c 'echo $USE_MULTI_BLOCK_POOL $VLLM_ASCEND_ENABLE_FUSED_MC2'",
            "-",
            text,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "1 1\n"


@pytest.mark.parametrize(
    "version,chip,value",
    [
        ("0.13.0rc3", "a3", "1"),
        ("0.13.0rc3", "a2", "0"),
        ("0.20.2rc1", "a3", "0"),
        ("0.23.0", "a3", "0"),
        ("0.23.0", "a2", "0"),
        ("0.26.0rc1", "a3", "0"),
    ],
)
def test_two_variables_are_always_stated(ascend, version, chip, value):
    env = json.loads(
        ascend("env", "--chip", chip, "--engine-version", version, "--format", "json").out
    )["env"]
    assert env["USE_MULTI_BLOCK_POOL"] == "1"
    assert env["VLLM_ASCEND_ENABLE_FUSED_MC2"] == value


def test_fused_mc2_can_be_asked_for_on_a3(ascend):
    done = ascend("env", "--chip", "a3", "--fused-mc2", "--format", "json")
    assert done.code == 0
    assert json.loads(done.out)["env"]["VLLM_ASCEND_ENABLE_FUSED_MC2"] == "1"
    assert "risk:" in done.err
    plan = json.loads(ascend("serve", "--chip", "a3", "--fused-mc2", "--dry-run", "--json").out)
    argv = plan["processes"][0]["argv"]
    config = json.loads(argv[argv.index("--additional-config") + 1])
    assert config["multistream_overlap_shared_expert"] is False
    assert [n["severity"] for n in plan["notes"] if "fused" in n["id"]] == ["risk"]


def test_no_profile_asks_for_one(ascend):
    done = ascend("env")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: the options name no profile and no chip, and only `serve` and `doctor` look at"
        " the host\n"
        "next:  add --profile ascend, --profile cuda or --profile cpu\n"
    )


def test_errors_as_json(ascend):
    done = ascend("env", "--profile", "ascen", "--json")
    assert done.code == 2
    assert json.loads(done.err)["error"] == {
        "code": 2,
        "kind": "unknown-profile",
        "message": "'ascen' is not a profile; the profiles are ascend, cuda, cpu. "
        "did you mean ascend?",
        "next": "ascend-v4 profiles",
    }


def test_profile_without_a_chip_says_what_it_assumed(ascend):
    done = ascend("env", "--profile", "ascend", "--format", "json")
    assert done.code == 0
    assert done.err.startswith("warn: no chip was named, so this plan is for Atlas A3")


def test_secret_never_has_a_value(ascend, tmp_path):
    key = tmp_path / "it's a key"
    key.write_text("sk-very-secret\n")
    for form in ("shell", "json", "dotenv"):
        done = ascend("env", "--chip", "a3", "--api-key-file", key, "--format", form)
        assert "sk-very-secret" not in done.out + done.err
    shell = ascend("env", "--chip", "a3", "--api-key-file", key).out
    ran = subprocess.run(
        ["sh", "-c", 'eval "$1"; printf %s "$VLLM_API_KEY"', "-", shell],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "sk-very-secret"
