"""Version files and comparisons."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ascend_v4.host.versions import (
    AscendVersions,
    at_least,
    keys_of,
    read_versions,
    satisfies,
    version_key,
)
from tests.support.fakehost import FakeHost

DRIVER = """\
Version=25.3.rc1
ascendhal_version=7.35.23
compatible_version=[V100R001C19],[V100R001C20]
compatible_version_fw=[7.0.0,8.9.9]
package_version=25.3.rc1
"""
TOOLKIT = "package_name=Ascend-cann-toolkit\nversion=8.5.0\narch=aarch64\n"


def test_all_files(tmp_path):
    fake = FakeHost(tmp_path).file("/usr/local/Ascend/driver/version.info", DRIVER)
    fake.file("/usr/local/Ascend/firmware/version.info", "Version=7.7.0.1.231\n")
    fake.file("/usr/local/Ascend/cann/aarch64-linux/ascend_toolkit_install.info", TOOLKIT)
    fake.file("/etc/ascend_install.info", "UserName=HwHiAiUser\n")
    assert read_versions(fake.host()) == AscendVersions(
        "25.3.rc1",
        "7.7.0.1.231",
        ("7.0.0", "8.9.9"),
        "8.5.0",
        "/usr/local/Ascend/cann",
        {"UserName": "HwHiAiUser"},
    )


def test_nothing(tmp_path):
    found = read_versions(FakeHost(tmp_path).host())
    assert found == AscendVersions(None, None, None, None, None, {})


def test_another_install_path_and_the_old_place_of_cann(tmp_path):
    fake = FakeHost(tmp_path)
    fake.file("/etc/ascend_install.info", "Driver_Install_Path_Param=/opt/npu\n")
    fake.file("/opt/npu/driver/version.info", "Version=7.35.23\npackage_version=24.1.rc2\n")
    place = "/usr/local/Ascend/ascend-toolkit/latest"
    fake.file(f"{place}/x86_64-linux/ascend_toolkit_install.info", TOOLKIT)
    found = read_versions(fake.host())
    assert (found.driver, found.cann, found.toolkit_root) == ("24.1.rc2", "8.5.0", place)


def test_the_environment_names_the_toolkit(tmp_path):
    fake = FakeHost(tmp_path, env={"ASCEND_TOOLKIT_HOME": "/opt/cann"})
    fake.file("/opt/cann/version.cfg", "runtime_running_version=[8.0.0.1:8.2.0]\n")
    fake.file("/usr/local/Ascend/cann/aarch64-linux/ascend_toolkit_install.info", TOOLKIT)
    assert read_versions(fake.host()).cann == "8.2.0"


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("25.3.rc1", "25.3"),
        ("25.3.rc1", "25.3.rc2"),
        ("25.2.3", "25.3.rc1"),
        ("9.1.0.beta1", "9.1.0"),
        ("9.1", "9.1.1"),
        ("2.8.0", "2.8.0.post2"),
        ("2.8.0.post2", "2.10.0"),
        ("24.1.rc2", "25.0.rc1.1"),
        ("7.7.0.1.231", "8.9.9"),
        ("25.5", "26.0.RC1"),
    ],
)
def test_order(older, newer):
    assert at_least(newer, older)
    assert not at_least(older, newer)


def test_same():
    assert at_least("9.1", "9.1.0")
    assert at_least("9.1.0", "9.1")
    assert at_least("v26.0.RC1", "26.0.rc1")


@pytest.mark.parametrize(
    ("version", "asked", "good"),
    [
        ("2.10.0+cpu", "2.10.0", True),
        ("2.10.1", "2.10.0", False),
        ("4.57.4", ">=4.57.4,<5", True),
        ("5.0.0", ">=4.57.4,<5", False),
        ("4.57.3", ">=4.57.4,<5", False),
        ("1.0", "!=1.0", False),
        ("1.0", "not a version at all", False),
    ],
)
def test_satisfies(version, asked, good):
    assert satisfies(version, asked) is good


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_compares(left, right):
    version_key(left)
    assert at_least(left, left)
    assert at_least(left, right) or at_least(right, left)
    satisfies(left, right)


@given(st.text(max_size=200))
def test_any_file_is_read(text):
    assert all(isinstance(key, str) for key in keys_of(text))
