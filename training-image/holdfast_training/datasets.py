"""Real public data sets, shipped with scikit-learn, as CSV files: something to try Holdfast with, without a network."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from holdfast_bundle.manifest import digest_file

NAMES = ("wine", "breast-cancer", "diabetes", "digits")


def write(name: str, path: Path) -> str:
    """Write a data set as CSV, whole or not at all, and return its digest; the bytes are the same every time.

    Targets: `cultivar` (0, 1, 2) of wine, `diagnosis` (benign, malignant) of breast-cancer, `progression` (a number) of
    diabetes, `digit` (0 to 9) of digits. OSError when the file cannot be written.
    """
    header, rows = _table(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return digest_file(path)


def _table(name: str) -> tuple[list[str], Iterable[list[Any]]]:
    from sklearn import datasets

    if name == "wine":
        data, target = datasets.load_wine(), "cultivar"
    elif name == "breast-cancer":
        data, target = datasets.load_breast_cancer(), "diagnosis"
    elif name == "diabetes":
        data, target = datasets.load_diabetes(scaled=False), "progression"
    elif name == "digits":
        data, target = datasets.load_digits(), "digit"
    else:
        raise ValueError(f"no data set {name!r}; there are {', '.join(NAMES)}")
    values = data.target.tolist()
    if name == "breast-cancer":
        values = [str(data.target_names[value]) for value in values]
    rows = ([*row, value] for row, value in zip(data.data.tolist(), values, strict=True))
    return [*map(str, data.feature_names), target], rows
