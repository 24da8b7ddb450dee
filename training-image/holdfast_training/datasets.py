"""Real public data sets, shipped with scikit-learn: something to try Holdfast with, without a network."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from holdfast_bundle.manifest import digest_file

NAMES = ("wine", "breast-cancer", "diabetes", "digits")


def write(name: str, path: Path) -> str:
    """Write a data set, whole or not at all, and return its digest; the bytes are the same every time.

    As CSV; to a path that ends in `.npz` digits as images, 8 x 8 bytes from 0 to 16 in the array `image`. Targets:
    `cultivar` (0, 1, 2) of wine, `diagnosis` (benign, malignant) of breast-cancer, `progression` (a number) of
    diabetes, `digit` (0 to 9) of digits.

    Raises:
        ValueError: there is no such data set, or it has no images.
        OSError: the file cannot be written.
    """
    content = _images(name) if path.suffix == ".npz" else _csv(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return digest_file(path)


def _csv(name: str) -> bytes:
    header, rows = _table(name)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def _images(name: str) -> bytes:
    import numpy as np
    from sklearn import datasets

    if name != "digits":
        raise ValueError(f"{name} has no images; digits has")
    data, content = datasets.load_digits(), io.BytesIO()
    np.savez_compressed(content, image=data.images.astype(np.uint8), digit=data.target)
    return content.getvalue()


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
