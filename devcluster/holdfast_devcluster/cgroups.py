"""The cgroup that holds an embedded cluster's pods, in every hierarchy of this machine (v1, v2 or both)."""

import time
from contextlib import suppress
from pathlib import Path

from holdfast_devcluster.errors import ClusterError

EMPTY_SECONDS = 60
V2_CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb")


def create(cgroup: str) -> None:
    """Make `cgroup` (an absolute path such as /holdfast) wherever it is missing."""
    for root, version in hierarchies():
        if version == "cgroup2":
            for controller in V2_CONTROLLERS:
                with suppress(OSError):  # absent, or bound to a v1 hierarchy
                    (root / "cgroup.subtree_control").write_text(f"+{controller}")
        (root / cgroup.lstrip("/")).mkdir(exist_ok=True)


def remove(cgroup: str) -> None:
    """Remove it and all below it; the processes in it must be ending."""
    deadline = time.monotonic() + EMPTY_SECONDS
    for root, _ in hierarchies():
        top = root / cgroup.lstrip("/")
        while top.exists():
            for folder in sorted((each for each in top.rglob("*") if each.is_dir()), reverse=True):
                with suppress(OSError):
                    folder.rmdir()
            with suppress(OSError):
                top.rmdir()
                break
            if time.monotonic() > deadline:
                raise ClusterError(f"{top} still has processes in it.")
            time.sleep(0.05)


def exists(cgroup: str) -> bool:
    return any((root / cgroup.lstrip("/")).exists() for root, _ in hierarchies())


def hierarchies() -> list[tuple[Path, str]]:
    """Mount point and type (`cgroup` or `cgroup2`) of each hierarchy."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        kind = source.split()[0]
        if kind in ("cgroup", "cgroup2"):
            found.append((Path(mount.split()[4]), kind))
    return found
