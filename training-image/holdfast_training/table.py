"""The road from files to examples: which columns are read, what is asked of them, and in which order their rows are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast_training import checks, columns
from holdfast_training.columns import Columns, Examples, first_of
from holdfast_training.data import Data
from holdfast_training.errors import Finding, TrainingError, count, data_invalid, listed
from holdfast_training.estimators import OF_IMAGES
from holdfast_training.images import shape_in_words
from holdfast_training.spec import Run


def examples_of(source: Data, run: Run) -> Examples:
    """Read what a run learns from, and look at all of it before anything is said.

    Raises:
        TrainingError: `ColumnNotFound` with the columns there are, or `DataInvalid` with everything that is wrong.
    """
    order, features = run.order_column, run.features
    if order and not features.listed:  # time tells more than it should, and is rarely a number
        features = replace(features, excluded=(*features.excluded, order))
    also = (*run.checks.names, *((order,) if order else ()))
    wanted = columns.wanted(source.columns, run.target, features, also)
    table = source.read(tuple(dict.fromkeys((*wanted, *also))))
    wrong = checks.broken(table, run.checks)
    try:
        examples = columns.examine(table.select(wanted), run.target, run.task, features)
        if order:
            examples = replace(examples, order=_order(table[order], order))
        if unfit := list(_unfit(examples.columns, run)):
            raise data_invalid(unfit)
    except TrainingError as error:
        raise data_invalid([*wrong, *error.findings]) from error
    if wrong:
        raise data_invalid(wrong)
    notes = checks.odd(examples, classes=run.task == "Classification")
    return replace(examples, findings=(*examples.findings, *notes))


def _unfit(found: Columns, run: Run) -> Iterator[Finding]:
    """Where an estimator learns from the other kind of data."""
    for name in (candidate.name for candidate in run.estimators):
        if found.images is None and name in OF_IMAGES:
            message = f"{name} learns from an array of images (rows x height x width, maybe with channels)"
            yield Finding("NotImages", f"{message}, and the data have columns of single values")
        if found.images is not None and name not in OF_IMAGES:
            shape = shape_in_words(found.images.shape)
            message = f"its rows are arrays of {shape}, and {name} learns from single values; give it columns, or use"
            yield Finding("NotSingleValues", f"{message} {listed(sorted(OF_IMAGES))}", found.images.name)


def _order(cells: pa.ChunkedArray, name: str) -> npt.NDArray[np.int64]:
    """The rank of each row: numbers and times by value, text by code points, as ISO 8601 wants it."""
    plain = columns.as_plain(cells) if not pa.types.is_temporal(cells.type) else cells.combine_chunks()
    if plain is None:
        message = f"its type {cells.type} has no order; give a number, a time or a text"
        raise data_invalid([Finding("UnsupportedType", message, name)])
    if plain.null_count:
        rows = np.flatnonzero(plain.is_null().to_numpy(zero_copy_only=False))
        message = f"{count(len(rows), 'row')} without a place in the order, {first_of(rows)}; leave such rows out"
        raise data_invalid([Finding("MissingOrder", message, name, len(rows))])
    if pa.types.is_large_string(plain.type) and not (read := columns.as_numbers(name, plain))[1]:
        plain = pa.array(read[0])
    ranks: npt.NDArray[np.int64] = pc.rank(plain, tiebreaker="dense").to_numpy().astype(np.int64)
    return ranks
