"""Kernel, user and container settings below a fake root."""

from hypothesis import given
from hypothesis import strategies as st

from ascend_v4.host.os_settings import (
    free_memory_bytes,
    free_space,
    governors,
    huge_pages,
    in_container,
    limits,
    local_port_range,
    reserved_ports,
    sysctl,
)
from ascend_v4.host.system import Host
from tests.support.fakehost import FakeHost

LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 524288               files
Max locked memory         unlimited            unlimited            bytes
"""


def test_values(tmp_path):
    fake = FakeHost(tmp_path)
    fake.file("/proc/sys/vm/swappiness", "60\n").file("/proc/self/limits", LIMITS)
    fake.file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
    fake.file("/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n")
    fake.file("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "200000\n")
    fake.file("/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
    fake.file("/proc/sys/net/ipv4/ip_local_reserved_ports", "8000,60000-60015\n")
    host = fake.host()
    assert sysctl(host, "vm.swappiness") == 60
    assert sysctl(host, "kernel.numa_balancing") is None
    assert limits(host) == {"nofile": 1024, "memlock": -1}
    assert governors(host) == {"performance", "powersave"}
    assert huge_pages(host) == {"2048kB": 200000}
    assert local_port_range(host) == (32768, 60999)
    assert reserved_ports(host) == [(8000, 8000), (60000, 60015)]


def test_nothing_is_known_of_a_bare_root(tmp_path):
    host = FakeHost(tmp_path).host()
    assert (limits(host), governors(host), huge_pages(host)) == ({}, set(), {})
    assert (local_port_range(host), reserved_ports(host), free_memory_bytes(host)) == (
        None,
        [],
        None,
    )


def test_memory_is_the_smaller_of_machine_and_container(tmp_path):
    fake = FakeHost(tmp_path).file("/proc/meminfo", "MemTotal: 9 kB\nMemAvailable:   1048576 kB\n")
    assert free_memory_bytes(fake.host()) == 1 << 30
    fake.file("/sys/fs/cgroup/memory.max", "max\n")
    assert free_memory_bytes(fake.host()) == 1 << 30
    fake.file("/sys/fs/cgroup/memory.max", "1000\n").file("/sys/fs/cgroup/memory.current", "900\n")
    fake.file("/sys/fs/cgroup/memory.stat", "anon 1\ninactive_file 300\n")
    assert free_memory_bytes(fake.host()) == 400


def test_space_is_that_of_the_nearest_parent(tmp_path):
    host = FakeHost(tmp_path).host()
    assert free_space(host, "/models/not/yet/there") == free_space(host, "/")
    assert free_space(host, "/").total > 0


def test_the_real_host_has_limits():
    assert set(limits(Host())) == {"nofile", "memlock"}


def test_containers(tmp_path):
    fake = FakeHost(tmp_path)
    assert not in_container(fake.host())
    assert in_container(fake.file("/.dockerenv").host())


@given(st.text(max_size=80))
def test_damaged_files_are_unknown(tmp_path_factory, text):
    fake = FakeHost(tmp_path_factory.mktemp("host"))
    for name in ("/proc/sys/net/ipv4/ip_local_port_range", "/proc/self/limits", "/proc/meminfo"):
        (fake.root / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (fake.root / name.lstrip("/")).write_text(text, errors="replace")
    host = fake.host()
    local_port_range(host)
    limits(host)
    free_memory_bytes(host)
