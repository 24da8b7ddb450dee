"""What a row is known by, in whatever file, place or order it comes.

A row is held out when its digest falls below a share of all digests. So every run holds out the same rows, equal rows
are on the same side, and rows that are added move no other.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast_training.columns import Columns, Frame

Digests = npt.NDArray[np.uint64]

_BYTES = 8


def of(columns: Columns, features: Frame, target: npt.NDArray[Any]) -> Digests:
    """One number per row, of its features by name and its target. Labels 1 and "1" are the same."""
    numeric = np.argsort(np.array(columns.numeric, object), kind="stable")
    categorical = np.argsort(np.array(columns.categorical, object), kind="stable")
    # Zero has two signs, and what is missing many forms.
    numbers = np.where(np.isnan(features.numeric), np.float32(np.nan), features.numeric + np.float32(0))
    numbers = np.ascontiguousarray(numbers[:, numeric].astype("<f4"))
    names = [*(columns.numeric[i] for i in numeric), "", *(columns.categorical[i] for i in categorical)]
    start = hashlib.blake2b(_joined(names), digest_size=_BYTES)
    if (images := columns.images) is not None:
        start.update(_joined([images.name, images.datatype, *map(str, images.shape)]))
    made = bytearray()
    texts = features.categorical[:, categorical]
    for row, cells, label, pixels in zip(numbers, texts, target.tolist(), _bytes_of_images(features), strict=True):
        digest = start.copy()
        digest.update(row.tobytes())
        digest.update(_joined([*cells, str(label)]))
        digest.update(pixels)
        made += digest.digest()
    return np.frombuffer(bytes(made), "<u8").astype(np.uint64)


def held_out(digests: Digests, test_percent: int) -> npt.NDArray[np.bool_]:
    """Which rows are held out. Those of a smaller share are among those of a larger one."""
    below: npt.NDArray[np.bool_] = digests < np.uint64((test_percent << 64) // 100)
    return below


def _bytes_of_images(features: Frame) -> Iterator[bytes]:
    """Of each row; nothing where there are none."""
    if features.pixels is None:
        return itertools.repeat(b"", len(features))
    zero = features.pixels.dtype.type(0)
    return ((image + zero).tobytes() for image in features.pixels)


def _joined(texts: list[str]) -> bytes:
    """No two lists give the same bytes."""
    return b"".join(len(raw).to_bytes(4, "little") + raw for raw in (text.encode() for text in texts))
