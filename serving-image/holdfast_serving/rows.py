"""May rows of different requests share a run of this model?

Only if a batch gives every row the answer that it gets alone. That is tried when the model is loaded: with the
bundle's own rows where there are any, with made-up ones, and with one row 10,000 times as large as the others,
which shows up scales and reductions that are taken over all rows.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdfast_serving.inference import Array
from holdfast_serving.session import Model
from holdfast_serving.signature import NUMPY, Signature

Row = dict[str, Array]
"""Inputs of one row by name; the first dimension of each is 1."""

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""Kernels for one row and for many add up in different orders."""

_OUTLIER = 1e4
_TRIAL_SECONDS = 5  # then what was tried is enough
_VARYING_SIZE = 4  # for a dimension that varies, beside the rows
_WORDS = ("", "a", "red", "Holdfast", "0", "été")

# These take a scale from the whole batch. The trial would notice by its answers, unless they are mere labels.
_MIXING_OPERATORS = (b"DynamicQuantize",)


def made_up(signature: Signature, count: int) -> list[Row]:
    """Rows of plausible values, always the same ones."""
    random = np.random.default_rng(0)
    rows: list[Row] = [{} for _ in range(count)]
    for tensor in signature.inputs:
        shape = tuple(_VARYING_SIZE if size == -1 and axis else abs(size) for axis, size in enumerate(tensor.shape))
        dtype = NUMPY[tensor.datatype]
        for row in rows:
            if dtype.kind == "f":
                values: Array = random.normal(0, 1, shape).astype(dtype)
            elif dtype.kind == "O":
                values = random.choice(np.array(_WORDS, object), shape)
            else:
                values = random.integers(0, 2, shape).astype(dtype)
            row[tensor.name] = np.asarray(values, dtype)
    return rows


def why_apart(model: Model, path: Path, samples: Sequence[Row]) -> str | None:
    """Why rows must not share a run, in words; None when they may.

    Args:
        path: the model's file.
        samples: rows of the kind that the model will see; may be empty.
    """
    if not model.signature.has_rows:
        return "its first dimension is fixed"
    if _contains(path, _MIXING_OPERATORS):
        return "it takes quantization scales from whole batches"
    tried = False
    enough = time.monotonic() + _TRIAL_SECONDS
    for rows in (list(samples[:16]), *_made_up_batches(model.signature)):
        if len(rows) < 2 or (tried and time.monotonic() > enough):
            continue
        for trial in (rows, _with_outlier(rows)):
            try:
                alone = [model.run(row) for row in trial]
            except Exception:  # noqa: S112 - not every model takes made-up values
                continue
            tried = True
            why = _compare(model, trial, alone)
            if why is not None:
                return why
    return None if tried else "no rows were found that it could be tried with"


def rehearsals(signature: Signature) -> Iterator[Row]:
    """Inputs as `why_apart` makes them up: one row, then all rows of each of its trials at once."""
    yield made_up(signature, 1)[0]
    if signature.has_rows:
        for rows in _made_up_batches(signature):
            yield _joined(rows)
            yield _joined(_with_outlier(rows))


def extremes(signature: Signature) -> Iterator[Row]:
    """Single rows of the values on which kernels stumble, as any client may send them."""
    (row,) = made_up(signature, 1)
    for index in range(4):
        yield {name: np.full_like(values, _extreme(values.dtype, index)) for name, values in row.items()}
    # Whole numbers of which one is divided by the other: the smallest by -1 has no answer.
    for first in (0, 1):
        yield {
            name: np.where(np.arange(values.size).reshape(values.shape) % 2 == first, *_smallest_and_minus_one(values))
            for name, values in row.items()
        }
    for chosen in list(row)[:8]:
        yield {name: _smallest_and_minus_one(values)[name != chosen] for name, values in row.items()}


def _extreme(dtype: np.dtype[Any], index: int) -> Any:
    if dtype.kind == "f":
        return (np.nan, np.inf, np.finfo(dtype).min, 0)[index]
    if dtype.kind in "iu":
        return (np.iinfo(dtype).min, np.iinfo(dtype).max, 0, 1)[index]
    return ("", "\U0010ffff", "a" * 10_000, "-0")[index] if dtype.kind == "O" else index % 2 == 0


def _smallest_and_minus_one(values: Array) -> tuple[Array, Array]:
    if values.dtype.kind != "i":
        return values, values
    return np.full_like(values, np.iinfo(values.dtype).min), np.full_like(values, -1)


def _made_up_batches(signature: Signature) -> tuple[list[Row], ...]:
    return made_up(signature, 5), made_up(signature, 17)


def _joined(rows: Sequence[Row]) -> Row:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _compare(model: Model, rows: Sequence[Row], alone: Sequence[list[Array]]) -> str | None:
    try:
        together = model.run(_joined(rows))
    except Exception:
        return "it takes one row at a time only"
    for index, tensor in enumerate(model.signature.outputs):
        batch = together[index]
        if batch.shape[:1] != (len(rows),) or any(answers[index].shape[:1] != (1,) for answers in alone):
            return f"output {tensor.name!r} does not have a row per row of input"
        singles = [answers[index] for answers in alone]
        if any(single.shape[1:] != batch.shape[1:] for single in singles):
            return f"the shape of output {tensor.name!r} depends on the rows beside it"
        if not close(batch, np.concatenate(singles), RELATIVE, ABSOLUTE):
            return f"rows change each other's {tensor.name!r}"
    return None


def close(given: Array, expected: Array, relative: float, absolute: float) -> bool:
    """Whether two arrays of one shape agree: floats within a tolerance (NaN equals NaN), all else exactly."""
    if given.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore"):
            return bool(np.allclose(given, expected, relative, absolute, equal_nan=True))
    return bool(np.array_equal(given, expected))


def _with_outlier(rows: Sequence[Row]) -> list[Row]:
    """The same rows, one of them far away from the others."""
    outlier = {
        name: (values * _OUTLIER).astype(values.dtype) if values.dtype.kind == "f" else values
        for name, values in rows[len(rows) // 2].items()
    }
    return [outlier if index == len(rows) // 2 else row for index, row in enumerate(rows)]


def _contains(path: Path, words: Sequence[bytes]) -> bool:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(word) >= 0 for word in words)
