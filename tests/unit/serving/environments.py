"""Environments of their own for public clients and other servers, each made from a lock file with hashes.

They lie below the user's cache folder and are named by what they hold, so they are made once. An environment that
was left half made, because its maker was killed, is made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import uv

from holdfast_devcluster import paths

CLIENTS = paths.REPOSITORY / "tests" / "clients"


def python(*locks: str, made_with: str = sys.executable) -> Path:
    """The interpreter of an environment with what `requirements/LOCK.txt` pins, for each of `locks`.

    Args:
        made_with: a Python, or the versions that it may have, as uv takes them.
    """
    pins = [paths.REPOSITORY / "requirements" / f"{lock}.txt" for lock in locks]
    content = b"".join(file.read_bytes() for file in pins) + sys.version.encode()
    folder = paths.cache() / "environments" / f"{'-'.join(locks)}-{hashlib.sha256(content).hexdigest()[:12]}"
    folder.parent.mkdir(exist_ok=True)
    interpreter, ready = folder / "bin" / "python", folder / "ready"
    with open(f"{folder}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not ready.exists():
            command = [uv.find_uv_bin(), "--quiet"]
            make = [*command, "venv", "--clear", "--python", made_with, str(folder)]
            fill = [*command, "pip", "sync", "--require-hashes", "--only-binary", ":all:"]
            for step in (make, [*fill, "--python", str(interpreter), *map(str, pins)]):
                # The lock goes along: if this process is killed, the next one waits for its child.
                subprocess.run(step, check=True, pass_fds=[file.fileno()])
            ready.touch()
    return interpreter


def run(lock: str, client: str, *arguments: str, seconds: float = 120) -> Any:
    """What `tests/clients/CLIENT`, run with the environment for `lock`, prints as JSON in its last line."""
    done = subprocess.run(
        [python(lock), CLIENTS / client, *arguments],
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
