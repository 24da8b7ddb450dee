"""Environments of the peers: one each, below the user's cache folder, from lock files with hashes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from holdfast_devcluster import paths

Report = Callable[[str], None]


def python_of(peer: str, report: Report) -> Path:
    """The interpreter of the peer's environment, which is made when it is not there.

    Raises:
        subprocess.CalledProcessError: it cannot be made; what pip said is in `stderr`.
    """
    lock = paths.REPOSITORY / "requirements" / f"bench-{peer}.txt"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    folder = paths.cache() / "environments" / f"bench-{peer}-{digest}"
    ready = folder / ".ready"
    with paths.locked(folder.with_suffix(".lock")):
        if not ready.exists():
            report(f"installing {peer} (once)")
            _uv("venv", "--quiet", "--clear", "--python", ">=3.11,<3.13", str(folder))
            _uv(
                *("pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode"),
                *("--python", str(folder / "bin" / "python"), str(lock)),
            )
            ready.touch()
    return folder / "bin" / "python"


def _uv(*arguments: str) -> None:
    program = Path(sys.executable).with_name("uv")
    subprocess.run(
        [program, *arguments], check=True, capture_output=True, text=True, env={**os.environ, "VIRTUAL_ENV": ""}
    )
