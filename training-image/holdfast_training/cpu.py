"""How many threads this container may use: from its CPU limit, never from the node's cores."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def threads(cgroup: Path = CGROUP) -> int:
    """Whole CPUs of the limit, at least 1; 1 without a limit, so that results do not depend on the node."""
    version_1 = cgroup / "cpu"
    for files in ([cgroup / "cpu.max"], [version_1 / "cpu.cfs_quota_us", version_1 / "cpu.cfs_period_us"]):
        try:
            quota, period = (int(word) for file in files for word in file.read_text().split())
        except (OSError, ValueError):
            continue  # not there, or `max`
        if quota > 0 and period > 0:
            return max(1, quota // period)
    return 1


def limit_libraries(number: int) -> None:
    """For OpenMP and BLAS; they read it when they are loaded, so call this before importing numpy.

    BLAS gets one thread: it adds up in another order when it has more, and a model should not depend on
    `resources`. scikit-learn's own parallel code (OpenMP, and joblib's threads in `fit`) does not.
    """
    os.environ["OMP_NUM_THREADS"] = str(number)
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
