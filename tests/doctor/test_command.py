"""The command: text, JSON, fixes as a script, the bundle."""

import json
import os
import subprocess
import tarfile

from ascend_v4.doctor.bundle import mask_environment
from tests.doctor import support
from tests.doctor.support import ascend_host
from tests.support.fakehost import FakeHost

PORT = ("--port", str(support.PORT))


def test_a_healthy_host(ascend, tmp_path):
    done = ascend("doctor", *PORT, host=ascend_host(tmp_path).host())
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(
        "npu:\n  ok   npu-devices: 16 devices (Ascend910), driver 25.3.rc1\n"
    )
    assert "\nthis host is ready: " in done.out


def test_json_of_a_sick_host(ascend, tmp_path):
    fake = ascend_host(tmp_path, "a2-unhealthy", 3, 1)
    done = ascend("doctor", "--json", "--chip", "a2", *PORT, host=fake.host())
    said = json.loads(done.out)
    assert (done.code, said["exit_code"], said["ready"]) == (6, 6, False)
    (health,) = [check for check in said["checks"] if check["id"] == "npu-health"]
    assert health["verdict"] == "fail"
    assert health["fix"] == "npu-smi info -t health -i 1"
    assert health["evidence"][0] == {"file": "", "line": 0, "text": "card 1 chip 0: Alarm"}


def test_text_of_a_failure_has_fix_and_reason(ascend, tmp_path):
    fake = ascend_host(tmp_path, "a2-unhealthy", 3, 1)
    done = ascend("doctor", "--chip", "a2", *PORT, host=fake.host())
    assert "         fix: npu-smi info -t health -i 1\n" in done.out
    assert "         why: https://github.com/vllm-project/vllm-ascend/pull/6681\n" in done.out
    assert "\nnot ready: " in done.out


def test_the_fix_script_is_valid_shell_and_changes_nothing_by_itself(ascend, tmp_path):
    fake = ascend_host(tmp_path)
    fake.file("/proc/sys/vm/swappiness", "60\n")
    (fake.root / "dev/hisi_hdc").unlink()
    done = ascend("doctor", "--fix-script", *PORT, host=fake.host())
    assert done.code == 6
    assert "\nsysctl -w vm.swappiness=0\n" in done.out
    assert "\n# start the container with --device=/dev/hisi_hdc\n" in done.out
    script = tmp_path / "fix.sh"
    script.write_text(done.out)
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0


def test_nothing_to_fix(ascend, tmp_path):
    done = ascend("doctor", "--fix-script", "--profile", "cpu", host=FakeHost(tmp_path).host())
    assert done.out.startswith("#!/bin/sh\n")


def test_the_bundle_holds_no_secret(ascend, tmp_path):
    secret = "sk-verysecretvalue1234567890"
    env = {
        "VLLM_API_KEY": secret,
        "HTTPS_PROXY": "http://ann:hunter2@proxy:3128",
        "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwx",
        "MY_SETTING": "kept",
    }
    fake = ascend_host(tmp_path / "host", env=env)
    logs = fake.root / "root/ascend/log/debug/plog"
    logs.mkdir(parents=True)
    (logs / "plog-1.log").write_text(
        f"RuntimeError: NPU out of memory. Tried to allocate 1 GiB, api_key={secret}\n"
    )
    out = tmp_path / "out.tgz"
    done = ascend("doctor", "--bundle", out, *PORT, host=fake.host())
    assert done.code == 0
    assert done.err.startswith(f"wrote {out}: ")
    assert os.stat(out).st_mode & 0o777 == 0o600
    with tarfile.open(out) as archive:
        texts = {m.name: archive.extractfile(m).read().decode() for m in archive.getmembers()}
    everything = "\n".join(texts.values())
    for hidden in (secret, "hunter2", "hf_abcdefghijklmnopqrstuvwx"):
        assert hidden not in everything
    base = "ascend-v4-bundle"
    assert "MY_SETTING=kept" in texts[f"{base}/environment.txt"]
    assert "HTTPS_PROXY=http://***@proxy:3128" in texts[f"{base}/environment.txt"]
    assert "npu-oom-alloc" in texts[f"{base}/first-errors.txt"]
    assert "Ascend910" in texts[f"{base}/commands/npu-smi-info.txt"]
    assert json.loads(texts[f"{base}/plan.json"])["chip"] == "a3"
    assert json.loads(texts[f"{base}/report.json"])["ready"] is True
    assert f"{base}/files/etc/ascend_install.info" in texts


def test_a_bundle_that_can_not_be_written(ascend, tmp_path):
    out = tmp_path / "none" / "out.tgz"
    done = ascend("doctor", "--bundle", out, host=FakeHost(tmp_path).host())
    assert (done.code, done.out) == (2, "")
    assert "can't be written" in done.err


def test_masking_by_name():
    env = {"AWS_SECRET_ACCESS_KEY": "x", "PATH": "/bin", "DB_PASSWD": "y", "EMPTY_TOKEN": ""}
    assert mask_environment(env) == {
        "AWS_SECRET_ACCESS_KEY": "***",
        "DB_PASSWD": "***",
        "EMPTY_TOKEN": "",
        "PATH": "/bin",
    }


def test_the_rehearsal_profile(ascend, tmp_path):
    fake = FakeHost(tmp_path).file("/proc/cpuinfo", "processor\t: 0\nprocessor\t: 1\n")
    done = ascend("doctor", "--profile", "cpu", *PORT, host=fake.host())
    assert done.code == 6
    assert "FAIL engine-imports: the engine of the rehearsal is not installed" in done.out
    assert "fix: ascend-v4 engine install --profile cpu" in done.out
    assert "ok   cpu-cores: 2 cores" in done.out


def test_an_unsupported_chip_is_refused(ascend, tmp_path):
    fake = ascend_host(tmp_path, "910-first-generation", 8, 1)
    assert ascend("doctor", *PORT, host=fake.host()).code == 3


def test_unknown_words_are_usage_errors(ascend, tmp_path):
    host = FakeHost(tmp_path).host()
    for arguments in (
        ("--profile", "npu"),
        ("--chip", "a9"),
        ("--engine-version", "9.9", "--chip", "a3"),
    ):
        assert ascend("doctor", *arguments, host=host).code == 2
