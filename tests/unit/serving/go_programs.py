"""Programs in Go that drive or check a server, built once from the modules that tests/clients pins."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from pathlib import Path

from holdfast_devcluster import paths
from holdfast_devcluster.golang import go

CLIENTS = paths.REPOSITORY / "tests" / "clients"


def program(name: str, package: str = ".") -> Path:
    """The program that `package` of the module tests/clients/NAME makes."""
    source = CLIENTS / name
    digest = hashlib.sha256()
    for file in sorted(source.iterdir()):
        digest.update(file.read_bytes())
    made = paths.cache() / "clients" / f"{name}-{digest.hexdigest()[:12]}"
    made.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{made}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not made.exists():
            assert shutil.which("go"), "there is no Go on this machine, which is needed to build public clients"
            flags = ["-trimpath", "-buildvcs=false", "-ldflags", "-s -w"]
            go("build", *flags, "-o", f"{made}.new", package, folder=source, environment={"CGO_ENABLED": "0"})
            Path(f"{made}.new").rename(made)
    return made
