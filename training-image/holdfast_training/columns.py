"""From a table to features and a target: which columns, of which kind, and whether they can be trained on.

Everything that is wrong with the data is found here, all columns before the run ends, so that nobody has to mend
one column per run. Numbers become FP32, because that is what the served model receives: it is trained, measured and
served on the very same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast_training import embeddings, images
from holdfast_training.embeddings import Embedding
from holdfast_training.errors import Finding, TrainingError, count, data_invalid, listed
from holdfast_training.images import Images, Pixels
from holdfast_training.spec import Features, Task

RESERVED = ("label", "probabilities", "prediction")
"""Names of the model's outputs. ONNX wants names of inputs and outputs to differ."""

MONITOR = "monitor"
"""A further output of models of images or embeddings: a few numbers about each, to be counted."""

MAX_CATEGORIES = 1000

_NUMBER = r"^\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"
_FP32_MAX = float(np.finfo(np.float32).max)
_EXACT_IN_FP32 = 2.0**24
_EXACT_IN_FP64 = 2.0**53


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the features, in the order of the model's inputs. Images have no other column beside them.

    Attributes:
        embeddings: vectors; their elements are the last of the numeric columns, in the same order.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    images: Images | None = None
    embeddings: tuple[Embedding, ...] = ()

    @property
    def single(self) -> tuple[str, ...]:
        """Numeric columns that are no elements of vectors."""
        return self.numeric[: len(self.numeric) - sum(len(each.columns) for each in self.embeddings)]

    @property
    def vectors(self) -> dict[str, slice]:
        """Where each vector is among the numeric columns."""
        start, found = len(self.single), dict[str, slice]()
        for each in self.embeddings:
            found[each.name] = slice(start, start := start + len(each.columns))
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, numeric ones first."""
        return (*self.numeric, *self.categorical, *((self.images.name,) if self.images else ()))


@dataclass(frozen=True, slots=True)
class Frame:
    """Features of some rows.

    Attributes:
        numeric: float32, rows x numeric columns; missing is NaN.
        categorical: str objects, rows x categorical columns; missing is the empty string.
        pixels: of images, rows x shape; None without any.
    """

    numeric: npt.NDArray[np.float32]
    categorical: npt.NDArray[np.object_]
    pixels: Pixels | None = None

    def __len__(self) -> int:
        return len(self.numeric)

    def take(self, rows: npt.NDArray[np.intp]) -> Frame:
        """Those rows, in that order."""
        pixels = None if self.pixels is None else self.pixels[rows]
        return Frame(self.numeric[rows], self.categorical[rows], pixels)


@dataclass(frozen=True, slots=True)
class Examples:
    """Data that can be trained on.

    Attributes:
        target: int64 or str objects (Classification), float64 (Regression); one per row, none missing.
        findings: what is worth knowing but prevents nothing.
        order: the rank of each row by `split.orderColumn`, from 1, equal ones equal; None without one.
    """

    columns: Columns
    features: Frame
    target: npt.NDArray[Any]
    findings: tuple[Finding, ...]
    order: npt.NDArray[np.int64] | None = None


def wanted(present: Sequence[str], target: str, features: Features, also: Sequence[str] = ()) -> tuple[str, ...]:
    """The columns to learn from: the features (by name, or all but target and excluded), then the target.

    Args:
        also: other columns that must be there.

    Raises:
        TrainingError: `ColumnNotFound` with the columns there are, or `DataInvalid`.
    """
    vectors = embeddings.sources(features.embeddings, present)
    named = (*features.numeric, *features.categorical, *features.excluded, *also)
    missing = [name for name in dict.fromkeys([target, *named]) if name not in present]
    missing += [name for name, held in vectors.items() if not held]
    if missing:
        noun = "column" if len(missing) == 1 else "columns"
        hint = ""
        if len(present) == 1 and any(mark in present[0] for mark in ";\t|"):
            hint = "; the file seems not to be separated by commas"
        if missing[-1] in vectors:
            hint = f"; an embedding is a column of lists, or the columns {missing[-1]}_0, {missing[-1]}_1 and so on"
        role = " (the target)" if missing[0] == target else ""
        message = f"{noun} {listed(missing)}{role} not in the data; the columns there are: {listed(present)}{hint}"
        raise TrainingError("ColumnNotFound", message)
    if features.listed:
        names = (*features.numeric, *features.categorical, *(name for held in vectors.values() for name in held))
    else:
        names = tuple(name for name in present if name != target and name not in features.excluded)
    if not names:
        raise data_invalid([Finding("NoFeatures", f"no column is left beside the target {target}")])
    reserved = (*RESERVED, MONITOR) if vectors else RESERVED
    findings = [
        Finding("ReservedName", "an output of the model has this name; rename the column or leave it out", name)
        for name in dict.fromkeys((*names, *vectors))
        if name in reserved
    ]
    alone = {target, *features.numeric, *features.categorical, *features.excluded}
    findings += [
        Finding("InEmbedding", f"it is an element of the embedding {vector}; it cannot be anything else beside", name)
        for vector, held in vectors.items()
        for name in held
        if name in alone
    ]
    findings += [
        Finding("UnnamedColumn", "the header has a column without a name; name it, or list the features")
        for name in names
        if not name.strip()
    ]
    if findings:
        raise data_invalid(findings)
    return (*names, target)


def examine(table: pa.Table, target: str, task: Task, features: Features) -> Examples:
    """Turn the table that was read into features and target.

    Raises:
        TrainingError: `DataInvalid` with all findings.
    """
    if table.num_rows == 0:
        raise data_invalid([Finding("Empty", "the data has no rows")])
    table, vectors, faults = embeddings.spread(table, features.embeddings)
    elements = {name for vector in vectors for name in vector.columns}
    notes: list[Finding] = []
    numeric: dict[str, npt.NDArray[np.float32]] = {}
    categorical: dict[str, npt.NDArray[np.object_]] = {}
    pictured: dict[str, tuple[Images, Pixels]] = {}
    for name in (name for name in table.column_names if name != target):
        kind = table.schema.field(name).type
        if images.are_in(kind):
            described, pixels, found = images.read(name, table[name])
            faults += found
            if described is not None and pixels is not None:
                pictured[name] = described, pixels
            continue
        cells = as_plain(table[name])
        if cells is None:
            message = f"its type {kind} is neither number nor text; convert it or leave it out"
            faults.append(Finding("UnsupportedType", message, name))
        elif cells.null_count == len(cells):
            faults.append(Finding("AllMissing", "every row is missing", name, len(cells)))
        elif name in elements or _is_numeric(name, cells, features):
            numbers, found = as_numbers(name, cells, "correct them, or name the column in features.categorical")
            faults += found
            numeric[name], found = _to_fp32(name, numbers)
            faults += [finding for finding in found if finding.rule != "PrecisionLost"]
            notes += [finding for finding in found if finding.rule == "PrecisionLost"]
        else:
            categorical[name], found = _categories(name, cells)
            faults += found
    cells = as_plain(table[target])
    read_target = _labels if task == "Classification" else _regression_target
    values, found = (None, [_unsupported_target(table, target)]) if cells is None else read_target(target, cells)
    faults += found
    image, pixels = next(iter(pictured.values()), (None, None))
    if image and image.name == MONITOR:
        faults.append(Finding("ReservedName", "an output of the model has this name; rename the array", MONITOR))
    faults += [
        Finding("BesideImages", f"a model takes nothing beside the images {image.name}; leave it out", name)
        for name in (*numeric, *categorical, *pictured)
        if image and name != image.name
    ]
    if faults or values is None:
        raise data_invalid(faults)
    columns = Columns(tuple(numeric), tuple(categorical), image, vectors)
    frame = replace(_frame(table.num_rows, numeric, categorical), pixels=pixels)
    return Examples(columns, frame, values, tuple(notes))


def _frame(
    rows: int, numeric: dict[str, npt.NDArray[np.float32]], categorical: dict[str, npt.NDArray[np.object_]]
) -> Frame:
    return Frame(
        np.column_stack([*numeric.values()]) if numeric else np.empty((rows, 0), np.float32),
        np.column_stack([*categorical.values()]) if categorical else np.empty((rows, 0), object),
    )


def as_plain(cells: pa.ChunkedArray) -> pa.Array | None:
    """As float64, int64 or text; None for other types. Booleans are 0 and 1; empty text is missing."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    kind = cells.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        to = pa.float64() if pa.types.is_uint64(kind) else pa.int64()
        return cells.cast(to, safe=False).combine_chunks()
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        floats = cells.cast(pa.float64(), safe=False).combine_chunks()
        return pc.if_else(pc.is_nan(floats), pa.scalar(None, pa.float64()), floats)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        texts = cells.cast(pa.large_string()).combine_chunks()
        return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.large_string()), texts)
    if pa.types.is_null(kind):
        return pa.nulls(len(cells), pa.float64())
    return None


def _is_numeric(name: str, cells: pa.Array, features: Features) -> bool:
    """By the spec, else by type; a column that is mostly numbers counts as numeric, so that its faults are found."""
    if features.listed:
        return name in features.numeric
    if not pa.types.is_large_string(cells.type):
        return True
    numbers = pc.sum(pc.match_substring_regex(cells, _NUMBER)).as_py()
    return bool(2 * numbers > len(cells) - cells.null_count)


def as_numbers(name: str, cells: pa.Array, hint: str = "") -> tuple[npt.NDArray[np.float64], list[Finding]]:
    """float64 with NaN for missing; text is a finding."""
    if not pa.types.is_large_string(cells.type):
        return cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), []
    fits = pc.fill_null(pc.match_substring_regex(cells, _NUMBER), True)
    numbers = pc.if_else(fits, cells, pa.scalar(None, pa.large_string()))
    values = pc.utf8_trim_whitespace(numbers).cast(pa.float64()).to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(~fits.to_numpy(zero_copy_only=False))
    if not len(bad):
        return values, []
    message = f"{_hold(bad)} text in a numeric column, {first_of(bad)}; {hint}"
    return values, [Finding("NotNumeric", message, name, len(bad))]


def _to_fp32(name: str, numbers: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float32], list[Finding]]:
    too_large = np.flatnonzero(np.abs(numbers) > _FP32_MAX)
    with np.errstate(over="ignore", under="ignore"):
        values = numbers.astype(np.float32)
    if len(too_large):
        message = f"{_hold(too_large)} infinity or a number too large for FP32, {first_of(too_large)}"
        return values, [Finding("OutOfRange", message, name, len(too_large))]
    whole = (np.abs(numbers) > _EXACT_IN_FP32) & (numbers == np.trunc(numbers))
    merged = np.flatnonzero(whole & (values.astype(np.float64) != numbers))
    if len(merged):
        message = f"{_hold(merged)} whole numbers that FP32 rounds, {first_of(merged)}; is it an identifier?"
        return values, [Finding("PrecisionLost", message, name, len(merged))]
    return values, []


def _categories(name: str, cells: pa.Array) -> tuple[npt.NDArray[np.object_], list[Finding]]:
    texts = as_texts(cells)
    found = len(pc.unique(cells))
    if found <= MAX_CATEGORIES:
        return texts, []
    message = (
        f"{found:,} categories in {count(len(cells), 'row')}, at most {MAX_CATEGORIES:,} can be used; leave it out"
    )
    return texts, [Finding("TooManyCategories", message, name)]


def as_texts(cells: pa.Array) -> npt.NDArray[np.object_]:
    if pa.types.is_floating(cells.type):  # whole numbers read the same as in an integer column
        numbers = cells.to_numpy(zero_copy_only=False)
        if np.all(np.isnan(numbers) | ((numbers == np.trunc(numbers)) & (np.abs(numbers) < _EXACT_IN_FP64))):
            cells = cells.cast(pa.int64())
    texts = pc.fill_null(cells.cast(pa.large_string()), "")
    values: npt.NDArray[np.object_] = texts.to_numpy(zero_copy_only=False)
    return values


def _labels(name: str, cells: pa.Array) -> tuple[npt.NDArray[Any] | None, list[Finding]]:
    """Whole numbers as int64, all else as text."""
    if missing := _missing_target(name, cells):
        return None, missing
    numbers, not_numeric = as_numbers(name, cells)
    if not_numeric:
        values: npt.NDArray[Any] = as_texts(cells)
    elif np.any(fractions := numbers != np.trunc(numbers)):
        rows = np.flatnonzero(fractions)
        message = f"{_hold(rows)} fractions, {first_of(rows)}, which are no classes; is the task Regression?"
        return None, [Finding("NotClasses", message, name, len(rows))]
    elif np.any(large := np.abs(numbers) > _EXACT_IN_FP64):
        rows = np.flatnonzero(large)
        return None, [Finding("OutOfRange", f"{_hold(rows)} numbers too large for classes, {first_of(rows)}", name)]
    else:
        values = numbers.astype(np.int64)
    if len(np.unique(values)) < 2:
        return None, [Finding("OneClass", "every row has the same class; at least two are needed", name, len(values))]
    return values, []


def _regression_target(name: str, cells: pa.Array) -> tuple[npt.NDArray[Any] | None, list[Finding]]:
    if missing := _missing_target(name, cells):
        return None, missing
    numbers, faults = as_numbers(name, cells, "is the task Classification?")
    if faults:
        return None, faults
    _, faults = _to_fp32(name, numbers)
    if faults and faults[0].rule == "OutOfRange":
        return None, faults
    if np.all(numbers == numbers[0]):
        return None, [Finding("OneValue", "every row has the same value: nothing to learn", name, len(numbers))]
    return numbers, []


def _missing_target(name: str, cells: pa.Array) -> list[Finding]:
    rows = np.flatnonzero(cells.is_null().to_numpy(zero_copy_only=False))
    if not len(rows):
        return []
    message = f"{count(len(rows), 'row')} without a target, {first_of(rows)}; leave such rows out"
    return [Finding("MissingTarget", message, name, len(rows))]


def _unsupported_target(table: pa.Table, target: str) -> Finding:
    kind = table.schema.field(target).type
    what = f"rows are arrays of {images.shape_in_words(kind.shape)}" if images.are_in(kind) else f"type is {kind}"
    return Finding("UnsupportedType", f"its {what}, which is neither number nor text", target)


def _hold(rows: npt.NDArray[np.intp]) -> str:
    return "1 row holds" if len(rows) == 1 else f"{len(rows):,} rows hold"


def first_of(rows: npt.NDArray[np.intp]) -> str:
    """Rows are counted from 1, the header not among them."""
    return f"first at row {rows[0] + 1:,}"
