"""Images in a table: a column whose every row is an array of one shape, as Arrow's tensors of a fixed shape are.

Nothing is known here of channels: pixels are kept, served and asked for in the order in which the data have them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast_training.errors import Finding, count

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
"""Rows x shape of an image."""

MAX_VALUES = 1 << 22
"""Of one image."""

_VALUES_AT_ONCE = 1 << 22
_DIMENSIONS = (2, 3)


@dataclass(frozen=True, slots=True)
class Images:
    """A column of images.

    Attributes:
        shape: height x width, with the channels before or behind these where there are any.
        datatype: `UINT8` or `FP32`, as clients send them.
    """

    name: str
    shape: tuple[int, ...]
    datatype: str


def are_in(kind: pa.DataType) -> bool:
    """Whether rows of this type are arrays."""
    return isinstance(kind, pa.FixedShapeTensorType)


def shape_in_words(shape: Sequence[int]) -> str:
    """`8 x 8`."""
    return " x ".join(map(str, shape))


def read(name: str, cells: pa.ChunkedArray) -> tuple[Images | None, Pixels | None, list[Finding]]:
    """A column of arrays as images: bytes as they are, other numbers as FP32. What is wrong comes as findings."""
    shape, kind = tuple(cells.type.shape), cells.type.value_type
    if len(shape) not in _DIMENSIONS or not 0 < math.prod(shape) <= MAX_VALUES:
        message = f"its rows are arrays of {shape_in_words(shape)}; an image has two or three dimensions"
        return None, None, [Finding("NotImages", f"{message} and at most {MAX_VALUES:,} values", name)]
    if cells.type.permutation not in (None, list(range(len(shape)))):
        return None, None, [Finding("NotImages", "its dimensions are permuted; store the arrays row by row", name)]
    if kind != pa.uint8() and not pa.types.is_floating(kind):
        message = f"its rows are arrays of {kind}; the values of an image are uint8, or floats"
        return None, None, [Finding("UnsupportedType", message, name)]
    if cells.null_count:
        message = f"{count(cells.null_count, 'row')} without an image; leave such rows out"
        return None, None, [Finding("MissingImage", message, name, cells.null_count)]
    given = cells.combine_chunks().to_numpy_ndarray()
    if kind == pa.uint8():
        return Images(name, shape, "UINT8"), given, []
    with np.errstate(over="ignore"):
        pixels = np.asarray(given, np.float32)
    # A sum is finite where all of its terms are, but for a sum that overflows FP64.
    bad = np.flatnonzero(~np.isfinite(pixels.reshape(len(pixels), -1).sum(axis=1, dtype=np.float64)))
    if len(bad):
        message = f"{count(len(bad), 'row')} with a value that is no number of FP32, first at row {bad[0] + 1:,}"
        return None, None, [Finding("OutOfRange", message, name, len(bad))]
    return Images(name, shape, "FP32"), pixels, []


def extremes(cells: pa.ChunkedArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The least and the greatest value of each row; NaN where a row has a value that is no number."""
    flat = cells.combine_chunks().to_numpy_ndarray().reshape(len(cells), -1)
    return flat.min(axis=1).astype(np.float64), flat.max(axis=1).astype(np.float64)


def rows_at_once(shape: Sequence[int]) -> int:
    """How many images a network should be asked about in one go: its layers are much larger than they are."""
    return max(1, _VALUES_AT_ONCE // max(1, math.prod(shape)))


def blank(pixels: Pixels) -> npt.NDArray[np.intp]:
    """Rows that are of one value all over."""
    flat: npt.NDArray[Any] = pixels.reshape(len(pixels), -1)
    return np.flatnonzero(flat.min(axis=1) == flat.max(axis=1))
