"""From rows of a table to what the model takes, by column name; and which rows cannot be read.

Numbers and texts are read as the trainer reads them, and as clients of the served model send them: a missing number is
NaN, a missing text is empty. Where a type has no way to say "missing", a row without a value is a bad one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast_bundle.manifest import Tensor
from holdfast_training import embeddings
from holdfast_training.contender import Array
from holdfast_training.data import MISSING
from holdfast_training.errors import TrainingError, count, listed
from holdfast_training.images import shape_in_words
from holdfast_training.signature import NUMPY

Mask = npt.NDArray[np.bool_]

_NUMBER = r"^\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_EXACT_IN_FP64 = 2.0**53


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the model, and the columns that it is made of: one, or one for each element of its rows."""

    tensor: Tensor
    columns: tuple[str, ...]

    @property
    def width(self) -> int:
        """Elements of a row."""
        return math.prod(self.tensor.shape[1:])


@dataclass(frozen=True, slots=True)
class Feeds:
    """What the model takes.

    Attributes:
        arrays: by input, of the rows that could be read.
        readable: of all rows.
        faults: bad rows by (column, what is wrong). One row may have several faults.
    """

    arrays: dict[str, Array]
    readable: Mask
    faults: Counter[tuple[str, str]]


def assigned(tensors: Sequence[Tensor], present: Sequence[str], keep: Sequence[str]) -> tuple[Input, ...]:
    """Which columns each input is made of.

    The column of its name, or those of its elements, `NAME_0` and so on; or, of a model with one input that is a
    matrix, all columns but those in `keep`, in their order.

    Raises:
        TrainingError: `ColumnNotFound` with the columns that there are; `ModelInvalid` for an input that no table can
            hold.
    """
    for tensor in tensors:
        if not tensor.shape or any(size == -1 for size in tensor.shape[1:]):
            words = "has rows of no fixed size" if tensor.shape else "is a single value"
            raise TrainingError("ModelInvalid", f"input {tensor.name!r} {words}: it cannot be made of a table's row")
    held = {tensor.name: _holding(tensor, present) for tensor in tensors}
    missing = [name for name, columns in held.items() if not columns]
    if not missing:
        return tuple(Input(tensor, held[tensor.name]) for tensor in tensors)
    [first, *more] = tensors
    others = tuple(name for name in present if name not in keep)
    if not more and len(first.shape) == 2 and first.shape[1] > 1:
        if len(others) == first.shape[1]:
            return (Input(first, others),)
        raise TrainingError(
            "ColumnNotFound",
            f"the model takes a matrix of {first.shape[1]} columns, and the input has {len(others)} beside keepColumns:"
            f" {listed(others)}",
        )
    raise TrainingError(
        "ColumnNotFound",
        f"the model takes {listed(missing)}, which the input does not have; the columns there are: {listed(present)}",
    )


def _holding(tensor: Tensor, present: Sequence[str]) -> tuple[str, ...]:
    """The column of an input's name, or those of its elements; none where the table has neither."""
    if tensor.name in present:
        return (tensor.name,)
    elements = embeddings.numbered(tensor.name, present)
    return elements if len(tensor.shape) == 2 and tensor.shape[1] == len(elements) else ()


def read(table: pa.Table, inputs: Iterable[Input]) -> Feeds:
    """What the model takes of these rows.

    Raises:
        TrainingError: `InputInvalid` for a column of a type that no value of an input can be made of.
    """
    readable = np.ones(table.num_rows, bool)
    faults: Counter[tuple[str, str]] = Counter()
    arrays: dict[str, Array] = {}
    for each in inputs:
        tensor = each.tensor
        parts = []
        for name in each.columns:
            values, bad = _column(
                name, table[name].combine_chunks(), tensor, each.width if len(each.columns) == 1 else 1
            )
            for fault, rows in bad.items():
                if number := int(rows.sum()):
                    faults[name, fault] += number
                    readable &= ~rows
            parts.append(values)
        whole = parts[0] if len(parts) == 1 else np.stack(parts, axis=1)
        arrays[tensor.name] = whole.reshape(table.num_rows, *tensor.shape[1:])
    if not readable.all():
        arrays = {name: array[readable] for name, array in arrays.items()}
    return Feeds(arrays, readable, faults)


def in_words(faults: Mapping[tuple[str, str], int], limit: int = 5) -> str:
    """Columns and what is wrong there, most rows first: never values."""
    worst = sorted(faults.items(), key=lambda item: (-item[1], item[0]))
    shown = [
        f"{f'column {column}: ' if column else ''}{fault} in {count(rows, 'row')}" for (column, fault), rows in worst
    ]
    more = len(shown) - limit
    return "; ".join(shown[:limit]) + (f"; and {more} more" if more > 0 else "")


def _column(name: str, cells: pa.Array, tensor: Tensor, width: int) -> tuple[Array, dict[str, Mask]]:
    """Values of a column, and its bad rows by what is wrong with them. Bad rows have some value."""
    if isinstance(cells, pa.DictionaryArray):
        cells = cells.dictionary_decode()
    if isinstance(cells, pa.FixedShapeTensorArray):
        if tuple(cells.type.shape) != tensor.shape[1:]:
            wanted, given = shape_in_words(tensor.shape[1:]), shape_in_words(cells.type.shape)
            raise TrainingError("InputInvalid", f"column {name}: the model takes {wanted}, and its rows are {given}")
        cells = cells.storage
    rows = len(cells)
    if (
        not pa.types.is_list(cells.type)
        and not pa.types.is_large_list(cells.type)
        and not pa.types.is_fixed_size_list(cells.type)
    ):
        if width != 1:
            raise _unusable(name, cells.type, f"lists of {width} values")
        return _values(name, cells, tensor.datatype)
    lengths = pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False)
    wrong = lengths != width
    values, bad = _values(name, pc.list_flatten(cells.filter(pa.array(~wrong))), tensor.datatype)
    whole = np.full((rows, width), "" if tensor.datatype == "BYTES" else 0, NUMPY[tensor.datatype])
    whole[~wrong] = values.reshape(-1, width)
    faults: dict[str, Mask] = {f"a list of another length than {width}": wrong}
    for fault, which in bad.items():
        mask = np.zeros(rows, bool)
        mask[~wrong] = which.reshape(-1, width).any(axis=1)
        faults[fault] = mask
    return whole, faults


def _values(name: str, cells: pa.Array, datatype: str) -> tuple[Array, dict[str, Mask]]:
    if datatype == "BYTES":
        return _texts(name, cells), {}
    if datatype == "BOOL":
        return _truths(name, cells)
    dtype = NUMPY[datatype]
    if dtype.kind == "f":
        numbers, faults = _numbers(name, cells)
        return _floats(numbers, dtype, faults)
    return _integers(name, cells, dtype)


def _texts(name: str, cells: pa.Array) -> Array:
    if not (_is_text(cells) or _is_number(cells.type) or pa.types.is_null(cells.type)):
        raise _unusable(name, cells.type, "text")
    cells = pc.cast(cells, pa.int64()) if pa.types.is_boolean(cells.type) else cells  # as the trainer reads them
    texts = pc.fill_null(_known(cells).cast(pa.large_string()), "")
    values: Array = texts.to_numpy(zero_copy_only=False)
    return values


def _numbers(name: str, cells: pa.Array) -> tuple[npt.NDArray[np.float64], dict[str, Mask]]:
    """float64, NaN for missing."""
    if not _is_text(cells):
        if not (_is_number(cells.type) or pa.types.is_null(cells.type)):
            raise _unusable(name, cells.type, "numbers")
        cells = pc.cast(cells, pa.int64()) if pa.types.is_boolean(cells.type) else cells
        return cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), {}
    cells = _known(cells)
    try:
        values = cells.cast(pa.float64()).to_numpy(zero_copy_only=False)
        if np.isnan(values).sum() == cells.null_count:  # else a text that Arrow takes for "not a number"
            return values, {}
    except pa.ArrowInvalid:
        pass
    fits = pc.fill_null(pc.match_substring_regex(cells, _NUMBER), True)
    numbers = pc.utf8_trim_whitespace(pc.if_else(fits, cells, pa.scalar(None, cells.type)))
    values = numbers.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values, {"text in place of a number": ~fits.to_numpy(zero_copy_only=False)}


def _floats(
    numbers: npt.NDArray[np.float64], dtype: np.dtype[np.generic], faults: dict[str, Mask]
) -> tuple[Array, dict[str, Mask]]:
    with np.errstate(over="ignore", under="ignore"):
        values = numbers.astype(dtype)
    return values, faults | {f"a number too large for {dtype}": np.isinf(values)}


def _integers(name: str, cells: pa.Array, dtype: np.dtype[np.generic]) -> tuple[Array, dict[str, Mask]]:
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    missing = {"no value": _known(cells).is_null().to_numpy(zero_copy_only=False)}
    if pa.types.is_integer(cells.type):
        exact = pc.fill_null(cells, 0).to_numpy(zero_copy_only=False)
        outside = (exact < limits.min) | (exact > limits.max)
        return np.where(outside, 0, exact).astype(dtype), missing | {f"a number outside {dtype}": outside}
    numbers, faults = _numbers(name, cells)
    known = ~np.isnan(numbers)
    fraction = known & (numbers != np.trunc(numbers))
    outside = known & ((numbers < limits.min) | (numbers > min(limits.max, _EXACT_IN_FP64)))
    values = np.where(known & ~fraction & ~outside, numbers, 0).astype(dtype)
    return values, faults | missing | {"a fraction": fraction, f"a number outside {dtype}": outside}


def _truths(name: str, cells: pa.Array) -> tuple[Array, dict[str, Mask]]:
    if pa.types.is_boolean(cells.type):
        missing = {"no value": cells.is_null().to_numpy(zero_copy_only=False)}
        return pc.fill_null(cells, False).to_numpy(zero_copy_only=False), missing
    texts = [str(text).strip().lower() for text in _texts(name, cells)]
    bad = np.array([text not in _TRUTHS for text in texts], bool)
    return np.array([_TRUTHS.get(text, False) for text in texts], bool), {"neither true nor false": bad}


def _known(cells: pa.Array) -> pa.Array:
    """Null for whatever means "not known"."""
    if pa.types.is_floating(cells.type):
        return pc.if_else(pc.is_nan(cells), pa.scalar(None, cells.type), cells)
    if not _is_text(cells):
        return cells
    unknown = pc.is_in(cells, value_set=pa.array(MISSING, cells.type))
    return pc.if_else(unknown, pa.scalar(None, cells.type), cells)


def _is_text(cells: pa.Array) -> bool:
    kind = cells.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )


def _unusable(name: str, kind: pa.DataType, wanted: str) -> TrainingError:
    return TrainingError("InputInvalid", f"column {name}: the model takes {wanted}, and its type is {kind}")
