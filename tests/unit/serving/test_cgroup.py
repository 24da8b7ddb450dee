from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast_serving import cgroup


@pytest.fixture
def tree(tmp_path: Path) -> tuple[Path, Path]:
    """An empty /sys/fs/cgroup and the place of /proc/self/cgroup."""
    root = tmp_path / "cgroup"
    root.mkdir()
    return root, tmp_path / "membership"


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content + "\n")


def test_version_2_in_a_container_that_sees_itself_as_the_root(tree: tuple[Path, Path]) -> None:
    root, membership = tree
    put(membership, "0::/")
    put(root / "cpu.max", "150000 100000")
    put(root / "memory.max", "536870912")
    assert cgroup.cpu_limit(root, membership) == 1.5
    assert cgroup.memory_limit(root, membership) == 512 << 20
    assert cgroup.threads(root, membership) == 1


def test_the_tightest_limit_on_the_way_up_counts(tree: tuple[Path, Path]) -> None:
    root, membership = tree
    put(membership, "0::/kubepods/pod1/abc")
    put(root / "kubepods/cpu.max", "max 100000")
    put(root / "kubepods/pod1/cpu.max", "200000 100000")
    put(root / "kubepods/pod1/abc/cpu.max", "max 100000")
    put(root / "kubepods/pod1/abc/memory.max", "max")
    put(root / "kubepods/memory.max", "1000000")
    assert cgroup.cpu_limit(root, membership) == 2
    assert cgroup.memory_limit(root, membership) == 1000000


def test_version_1_has_a_tree_per_controller(tree: tuple[Path, Path]) -> None:
    root, membership = tree
    put(membership, "5:memory:/pod\n3:cpu,cpuacct:/pod\n1:name=systemd:/x")
    put(root / "cpu,cpuacct/cpu.cfs_quota_us", "50000")
    put(root / "cpu,cpuacct/cpu.cfs_period_us", "100000")
    put(root / "memory/pod/memory.limit_in_bytes", "268435456")
    put(root / "memory/memory.limit_in_bytes", "9223372036854771712")
    assert cgroup.cpu_limit(root, membership) == 0.5
    assert cgroup.memory_limit(root, membership) == 256 << 20


@pytest.mark.parametrize("content", ["0::/", "3:cpu:/\n5:memory:/", ""])
def test_without_a_limit_there_is_one_thread_however_large_the_node(tree: tuple[Path, Path], content: str) -> None:
    root, membership = tree
    if content:
        put(membership, content)
    put(root / "cpu.max", "max 100000")
    put(root / "cpu/cpu.cfs_quota_us", "-1")
    put(root / "cpu/cpu.cfs_period_us", "100000")
    assert cgroup.cpu_limit(root, membership) is None
    assert cgroup.memory_limit(root, membership) is None
    assert cgroup.threads(root, membership) == 1


def test_threads_are_whole_cpus_and_no_more_than_this_process_may_use(tree: tuple[Path, Path]) -> None:
    root, membership = tree
    put(membership, "0::/")
    put(root / "cpu.max", "100000000 100000")
    assert cgroup.threads(root, membership) == len(os.sched_getaffinity(0))


def test_this_machine_is_read_without_an_error() -> None:
    assert cgroup.threads() >= 1
    assert cgroup.memory_limit() is None or cgroup.memory_limit() > 1 << 20  # type: ignore[operator]
