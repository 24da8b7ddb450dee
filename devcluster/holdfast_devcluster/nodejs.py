"""Programs for Node.js that tests need, installed from a lock file into the cache."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from holdfast_devcluster import packages, paths
from holdfast_devcluster.binaries import SOURCES, Report
from holdfast_devcluster.errors import ClusterError


def azurite(report: Report = print) -> list[str]:
    """The command that starts what stands for Azure Blob Storage.

    Raises ClusterError when it cannot be installed.
    """
    packages.require(["node", "npm"], report)
    return ["node", str(_installed("azurite", report) / "node_modules/azurite/dist/src/blob/main.js")]


def _installed(name: str, report: Report) -> Path:
    """The folder in which the lock file's packages are, with the contents that it names and without their scripts."""
    source = SOURCES / name
    digest = hashlib.sha256((source / "package-lock.json").read_bytes()).hexdigest()[:16]
    folder = paths.cache() / "npm" / f"{name}-{digest}"
    with paths.locked(folder.parent / f".{name}.lock"):
        if folder.exists():
            return folder
        report(f"installing {name} with npm (minutes, once)")
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            for file in ("package.json", "package-lock.json"):
                shutil.copy(source / file, scratch)
            done = subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=scratch,
                env=os.environ | {"CI": "true"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode != 0:
                last = "\n".join(done.stdout.splitlines()[-10:])
                raise ClusterError(f"npm ci in devcluster/binaries/{name} failed:\n{last}")
            (made := Path(scratch, "done")).mkdir()
            Path(scratch, "node_modules").rename(made / "node_modules")
            made.rename(folder)
    return folder
