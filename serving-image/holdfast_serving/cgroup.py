"""What the container may use, from its control group: the node's size is none of its business."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
_V1_UNLIMITED = 1 << 60


def threads(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """Threads for one inference: whole CPUs of the limit, at least 1; 1 where there is no limit.

    Half a CPU is left unused of 2.5: a third thread would run into the quota and be stopped in the middle.
    """
    limit = cpu_limit(root, membership)
    return 1 if limit is None else max(1, min(int(limit), len(os.sched_getaffinity(0))))


def cpu_limit(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float | None:
    """CPUs; None without a limit."""
    limits = []
    for folder in _folders(root, membership, "cpu"):
        quota, period = _read(folder / "cpu.max") or (
            *(_read(folder / "cpu.cfs_quota_us") or ("-1",)),
            *(_read(folder / "cpu.cfs_period_us") or ("100000",)),
        )
        if quota not in ("max", "-1"):
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def memory_limit(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int | None:
    """Bytes; None without a limit."""
    limits = []
    for folder in _folders(root, membership, "memory"):
        (limit,) = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes") or ("max",)
        if limit != "max" and int(limit) < _V1_UNLIMITED:
            limits.append(int(limit))
    return min(limits, default=None)


def _folders(root: Path, membership: Path, controller: str) -> Iterator[Path]:
    """This process's group and those above it, in version 2 (one tree) and 1 (one per controller).

    A container sees its own group as the root, or (version 1, no namespace) a path that is not there at all.
    """
    for line in membership.read_text().splitlines() if membership.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            tree = root
        elif controller in controllers.split(","):
            tree = root / controllers if (root / controllers).is_dir() else root / controller
        else:
            continue
        folder = tree / path.lstrip("/")
        yield from (parent for parent in (folder, *folder.parents) if parent.is_relative_to(tree) and parent.is_dir())


def _read(path: Path) -> tuple[str, ...] | None:
    try:
        return tuple(path.read_text().split())
    except OSError:
        return None
