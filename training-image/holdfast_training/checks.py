"""What the spec asks of the data before anything is trained, and what is odd about them in any case.

The cells are compared by Arrow, which has read them anyway. A finding says which column, how many rows and where the
first one is; never what it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast_training import columns, images
from holdfast_training.columns import Examples, first_of
from holdfast_training.errors import Finding, count
from holdfast_training.spec import Checks, ColumnCheck

_MOSTLY = 0.5
_FAIR_SHARE = 0.1
"""A class is rare with less than this part of the rows that it would have if all had as many."""


def broken(table: pa.Table, checks: Checks) -> list[Finding]:
    """All checks that the table does not pass."""
    found = []
    if table.num_rows < checks.min_rows:
        message = f"the data have {count(table.num_rows, 'row')}, at least {checks.min_rows:,} are asked for"
        found.append(Finding("TooFewRows", message))
    for check in checks.columns:
        found += _of_column(table[check.name], check)
    return found


def _of_column(chunks: pa.ChunkedArray, check: ColumnCheck) -> Iterator[Finding]:
    if images.are_in(chunks.type):
        yield from _of_images(chunks, check)
        return
    cells = columns.as_plain(chunks)
    if cells is None:
        message = f"its type {chunks.type} is neither number nor text, so it cannot be checked"
        yield Finding("UnsupportedType", message, check.name)
        return
    rows, missing = len(cells), cells.null_count
    if check.max_missing_per_mille is not None and missing * 1000 > check.max_missing_per_mille * rows:
        limit = f"at most {check.max_missing_per_mille} of 1,000 may be"
        message = f"{missing:,} of {count(rows, 'row')} are missing, {limit}"
        yield Finding("MissingValues", message, check.name, missing)
    if check.minimum is not None or check.maximum is not None:
        numbers, faults = columns.as_numbers(check.name, cells, "its range is checked")
        yield from faults
        yield from _out_of_range(numbers, numbers, check)
    if check.allowed:
        texts = cells if pa.types.is_large_string(cells.type) else pa.array(columns.as_texts(cells), pa.large_string())
        known = pc.or_(pc.is_in(texts, pa.array(check.allowed, pa.large_string())), pc.is_null(cells))
        if len(bad := np.flatnonzero(~known.to_numpy(zero_copy_only=False))):
            message = f"{count(len(bad), 'row')} not among the {len(check.allowed)} values allowed, {first_of(bad)}"
            yield Finding("NotAllowed", message, check.name, len(bad))


def _of_images(chunks: pa.ChunkedArray, check: ColumnCheck) -> Iterator[Finding]:
    """A row is in a range when all of its values are; none may be missing."""
    kind = chunks.type.value_type
    if check.allowed or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        yield Finding("UnsupportedType", "its rows are arrays; only a range of numbers can be checked", check.name)
    elif chunks.null_count:
        message = f"{count(chunks.null_count, 'row')} without an array; leave such rows out"
        yield Finding("MissingValues", message, check.name, chunks.null_count)
    else:
        yield from _out_of_range(*images.extremes(chunks), check)


def _out_of_range(
    least: npt.NDArray[np.float64], greatest: npt.NDArray[np.float64], check: ColumnCheck
) -> Iterator[Finding]:
    """A missing number is in every range."""
    if check.minimum is not None and len(bad := np.flatnonzero(least < float(check.minimum))):
        message = f"{count(len(bad), 'row')} below the minimum of {check.minimum}, {first_of(bad)}"
        yield Finding("BelowMinimum", message, check.name, len(bad))
    if check.maximum is not None and len(bad := np.flatnonzero(greatest > float(check.maximum))):
        message = f"{count(len(bad), 'row')} above the maximum of {check.maximum}, {first_of(bad)}"
        yield Finding("AboveMaximum", message, check.name, len(bad))


def missing(examples: Examples) -> dict[str, int]:
    """Rows without a value, by feature; only features that lack some."""
    names, features = examples.columns, examples.features
    counts = dict(zip(names.numeric, np.isnan(features.numeric).sum(axis=0).tolist(), strict=True))
    counts |= dict(zip(names.categorical, (features.categorical == "").sum(axis=0).tolist(), strict=True))
    return {name: rows for name, rows in counts.items() if rows}


def odd(examples: Examples, *, classes: bool) -> list[Finding]:
    """What is worth knowing of data that can be trained on: mostly missing or constant features, rare classes."""
    rows = len(examples.target)
    found = [
        Finding("MostlyMissing", f"{lacking:,} of {count(rows, 'row')} are missing", name, lacking)
        for name, lacking in missing(examples).items()
        if lacking > _MOSTLY * rows
    ]
    names, features = examples.columns, examples.features
    for kind, cells in ((names.numeric, features.numeric), (names.categorical, features.categorical)):
        found += [
            Finding("Constant", "every row has the same value: nothing can be learned from it", name, rows)
            for index, name in enumerate(kind)
            if np.all(cells[:, index] == cells[0, index])
        ]
    if names.images and features.pixels is not None and len(blank := images.blank(features.pixels)):
        message = f"{count(len(blank), 'image')} of one value all over, {first_of(blank)}"
        found.append(Finding("BlankImages", message, names.images.name, len(blank)))
    return found + (_rare(examples.target) if classes else [])


def _rare(target: npt.NDArray[Any]) -> list[Finding]:
    _, sizes = np.unique(target, return_counts=True)
    fair = len(target) / len(sizes)
    return [
        Finding(
            "RareClass",
            f"class {number} of {len(sizes)} (in sorted order) has {size:,} of {count(len(target), 'row')}; "
            "accuracy says little about it",
            rows=int(size),
        )
        for number, size in enumerate(sizes.tolist(), 1)
        if size < _FAIR_SHARE * fair
    ]
