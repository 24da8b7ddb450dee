"""Vectors among the columns of a table: what another model has made of a text, an image or anything else.

A vector NAME is one column of lists, or the columns `NAME_0`, `NAME_1` and so on, as which a matrix of an NPZ file is
read. The served model takes it as one input of that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast_training.errors import Finding, count, listed

MAX_WIDTH = 4096


@dataclass(frozen=True, slots=True)
class Embedding:
    """A vector, by the columns that it has after `spread`."""

    name: str
    columns: tuple[str, ...]


def numbered(name: str, present: Sequence[str]) -> tuple[str, ...]:
    """The columns `NAME_0`, `NAME_1` and so on, as far as they are there without a gap."""
    there, found = set(present), list[str]()
    while (column := f"{name}_{len(found)}") in there:
        found.append(column)
    return tuple(found)


def elements(name: str, width: int) -> tuple[str, ...]:
    """What the columns of a vector are called."""
    return tuple(f"{name}_{place}" for place in range(width))


def sources(names: Sequence[str], present: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The columns that hold each vector: one of lists, or numbered ones; none where it is not in the data."""
    return {name: (name,) if name in present else numbered(name, present) for name in names}


def spread(table: pa.Table, names: Sequence[str]) -> tuple[pa.Table, tuple[Embedding, ...], list[Finding]]:
    """The table with a numbered column for each element of these vectors, behind all others; and what is wrong."""
    found, faults = [], list[Finding]()
    for name in names:
        if name in table.column_names:
            cells, wrong = _listed(name, table[name])
            faults += wrong
            table = table.drop_columns([name])
        else:
            cells = {column: table[column] for column in numbered(name, table.column_names)}
            table = table.drop_columns([*cells])
        if twice := [column for column in cells if column in table.column_names]:
            message = f"the data have columns of its elements, too: {listed(twice, 5)}"
            faults.append(Finding("ColumnTwice", message, name))
            continue
        for column, values in cells.items():
            table = table.append_column(column, values)
        found.append(Embedding(name, tuple(cells)))
    return table, tuple(found), faults


def _listed(name: str, cells: pa.ChunkedArray) -> tuple[dict[str, pa.ChunkedArray], list[Finding]]:
    kind = cells.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        message = f"its type {kind} is no list; an embedding is a column of lists, or the columns {name}_0, {name}_1, …"
        return {}, [Finding("NotAnEmbedding", message, name)]
    rows = cells.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(rows), 0).to_numpy(zero_copy_only=False)
    width = int(lengths[0]) if len(lengths) else 0
    if len(other := np.flatnonzero(lengths != width)):
        message = f"{count(len(other), 'row')} of another length than the first one's {width:,}, the first at row"
        return {}, [Finding("LengthsDiffer", f"{message} {other[0] + 1:,}", name, len(other))]
    if not 1 < width <= MAX_WIDTH:
        message = f"its rows have {count(width, 'element')}; an embedding has 2 to {MAX_WIDTH:,}"
        return {}, [Finding("NotAnEmbedding", message, name)]
    flat = pc.list_flatten(rows)
    return {column: pa.chunked_array([flat[place::width]]) for place, column in enumerate(elements(name, width))}, []
