"""The go command, which reads modules from a proxy."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast_devcluster.errors import ClusterError

PAUSES_SECONDS = (2.0, 10.0)
_LAST_LINES = 15


def go(*arguments: str, folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """What `go` prints, in a module's folder.

    It is tried again when it fails: a proxy may have been away for a moment, and what is there already is not fetched
    or compiled again. Raises ClusterError with its last lines.
    """
    for pause in PAUSES_SECONDS:
        done = _run(arguments, folder, environment or {})
        if done.returncode == 0:
            return done.stdout
        time.sleep(pause)
    done = _run(arguments, folder, environment or {})
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-_LAST_LINES:])
        raise ClusterError(f"go {arguments[0]} in {folder} failed:\n{last}")
    return done.stdout


def _run(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["go", *arguments], cwd=folder, env=os.environ | environment, capture_output=True, text=True)
