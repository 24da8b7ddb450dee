"""What trains here: our own code, the lock file that the packages come from, the image that was started."""

from __future__ import annotations

import hashlib
import importlib
import platform
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import holdfast_bundle
import holdfast_training
from holdfast_bundle.manifest import digest_file

PACKAGES = (
    *("cmaes", "lightgbm", "numpy", "onnx", "onnxmltools", "onnxruntime", "optuna", "pyarrow", "scikit-learn"),
    *("scipy", "skl2onnx", "xgboost-cpu"),
)
"""Versions that shape the model."""
LOCK = Path(sys.prefix) / "requirements.txt"
"""With which the image was built; elsewhere there is none."""


def packages(*, optional: Iterable[str] = ()) -> dict[str, str]:
    """Versions by name, with Python's, and those of `optional` packages that took part."""
    found = {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}
    # Some distributions of PyTorch have no metadata.
    return found | {name: str(importlib.import_module(name).__version__) for name in optional}


def code(image: str) -> dict[str, str]:
    """What of a run's origin is neither data nor recipe nor package.

    image: by the name that started it; empty where that is not known. A pod cannot find out its digest; those of our
    sources and of the lock file say the same of its content.
    """
    told = {"source": f"sha256:{_sources()}"}
    told |= {"lock": digest_file(LOCK)} if LOCK.is_file() else {}
    return told | ({"image": image} if image else {})


def _sources() -> str:
    sha = hashlib.sha256()
    for name, path in sorted(_modules()):
        sha.update(f"{digest_file(path)}  {name}\n".encode())
    return sha.hexdigest()


def _modules() -> Iterator[tuple[str, Path]]:
    for package in (holdfast_bundle, holdfast_training):
        folder = Path(package.__path__[0])
        for path in folder.rglob("*.py"):
            yield f"{folder.name}/{path.relative_to(folder).as_posix()}", path
