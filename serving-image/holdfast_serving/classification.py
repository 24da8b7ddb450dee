"""The V2 classification extension: the largest elements of an output, as texts `value:index` or `value:index:label`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from holdfast_serving.inference import Array

MAX_TEXTS = 1 << 16
"""In one answer. Each is an object of its own while the answer is written."""


def largest(array: Array, count: int, labels: Sequence[str]) -> Array:
    """The `count` largest elements of each row, the largest first; of equal ones, that with the lower index.

    Args:
        array: [rows, ...], numbers; the index is that into the flattened row.
        labels: by index; left out where there are not as many as elements.

    Returns:
        str [rows, at most count].
    """
    table = array.reshape(len(array), -1)
    order = _descending(table)[:, :count]
    values = np.take_along_axis(table, order, 1).astype(str).tolist()
    indices = order.tolist()
    named = len(labels) == table.shape[1]
    made = np.empty(order.shape, object)
    for row, (numbers, places) in enumerate(zip(values, indices, strict=True)):
        if named:
            made[row] = [f"{number}:{place}:{labels[place]}" for number, place in zip(numbers, places, strict=True)]
        else:
            made[row] = [f"{number}:{place}" for number, place in zip(numbers, places, strict=True)]
    return made


def _descending(table: Array) -> Array:
    """Indices that sort each row; NaN is less than all numbers."""
    if table.dtype.kind == "f":
        table = np.where(np.isnan(table), -np.inf, table)
    last = table.shape[1] - 1
    order: Array = last - np.argsort(table[:, ::-1], axis=1, kind="stable")[:, ::-1]
    return order
