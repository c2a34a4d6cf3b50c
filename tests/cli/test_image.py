"""The image of a plan: the release's for the chip and an operating system, or the user's own."""

import json

import pytest

from tests.support.fakehost import FakeHost
from tests.topology.small import PD, changed, checked

A3 = "quay.io/ascend/vllm-ascend:v0.23.0.post1-a3"
OPENEULER = 'NAME="openEuler"\nVERSION="24.03 (LTS-SP2)"\nID="openEuler"\n'


def image(done):
    assert done.code == 0, done.err
    return json.loads(done.out)["engine"]["image"]


@pytest.fixture
def openeuler(tmp_path):
    return FakeHost(tmp_path).npus("a3-idle", 16).file("/etc/os-release", OPENEULER)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((), A3),
        (("--image", "ubuntu"), A3),
        (("--image", "openeuler"), f"{A3}-openeuler"),
        (("--image", "mirror.local:5000/a/b:c@sha256:0f"), "mirror.local:5000/a/b:c@sha256:0f"),
    ],
)
def test_image_that_is_asked_for(ascend, asked, expected):
    done = ascend("serve", "--chip", "a3", "--dry-run", "--json", *asked)
    assert image(done) == expected
    origin = json.loads(done.out)["origins"].get("image")
    assert origin == ("flag" if asked else None)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--chip", "a3", "--image", "--privileged"], 2, "'--privileged' is no image"),
        (["--chip", "a3", "--image", "a b"], 2, "'a b' is no image"),
        (["--chip", "h200", "--image", "openeuler"], 3, "no official image of vllm"),
    ],
)
def test_image_that_is_none(ascend, words, code, said):
    done = ascend("env", *words)
    assert (done.code, done.out) == (code, "")
    assert said in done.err


def test_host_that_is_looked_at_gives_its_operating_system(ascend, openeuler):
    done = ascend("serve", "--dry-run", "--json", host=openeuler.host())
    assert image(done) == f"{A3}-openeuler"
    assert json.loads(done.out)["origins"]["image"] == "host"
    plain = ascend("serve", "--dry-run", "--json", "--image", "ubuntu", host=openeuler.host())
    assert image(plain) == A3
    openeuler.file("/etc/os-release", 'ID=ubuntu\nID_LIKE="openEuler"\n')
    assert image(ascend("serve", "--dry-run", "--json", host=openeuler.host())) == A3


def test_plan_for_a_named_chip_is_not_about_this_host(ascend, openeuler):
    for command in (
        ["serve", "--dry-run", "--json"],
        ["serve", "--dry-run", "--json", "--nodes=1"],
    ):
        assert image(ascend(*command, "--chip", "a3", host=openeuler.host())) == A3


def test_release_without_such_an_image(ascend, openeuler):
    version = ("--engine-version", "deepseekv4", "--allow-unvalidated", "--dry-run", "--json")
    done = ascend("serve", *version, host=openeuler.host())
    assert image(done) == "quay.io/ascend/vllm-ascend:deepseekv4-a3"
    asked = ascend("serve", *version, "--image", "openeuler", host=openeuler.host())
    assert asked.code == 3


def test_image_of_a_topology_and_of_what_is_rendered(ascend):
    found = checked(changed(PD, {"image": "openeuler"})).deployment
    assert {planned.plan.image for planned in found.nodes} == {f"{A3}-openeuler"}
    done = ascend("render", "docker", "--chip", "a3", "--image", "openeuler", "--model-dir", "/w")
    assert f"{A3}-openeuler\n" in done.out
