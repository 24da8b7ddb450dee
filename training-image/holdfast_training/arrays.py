"""Tables in NumPy's .npz files: an array of one dimension is a column, one of two is as many as it is wide.

One of more is a single column of arrays, which `images` can make something of.

Nothing is unpickled, and an array is read only when its file in the archive is as long as its header promises.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from holdfast_training.errors import Finding, data_invalid

MAX_COLUMNS = 2000
_ENDING = ".npy"
_UNREADABLE = (
    *(ValueError, KeyError, EOFError, NotImplementedError, RuntimeError),  # the last two: encrypted or odd archives
    *(zipfile.BadZipFile, zlib.error, pa.ArrowException),
)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True, slots=True)
class Array:
    """What the header of an array says."""

    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def columns(self) -> tuple[str, ...]:
        """`name`; of a matrix `name_0` and so on."""
        return tuple(f"{self.name}_{i}" for i in range(self.shape[1])) if len(self.shape) == 2 else (self.name,)

    @property
    def fault(self) -> Finding | None:
        """Why it is no column."""
        if not self.shape:
            return Finding("UnsupportedType", "it is a single value; a column has one for each row", self.name)
        if len(self.shape) > 2 and self.kind not in "biuf":
            return Finding("UnsupportedType", "only numbers may have more than two dimensions", self.name)
        if len(self.shape) > 2 and 0 in self.shape:
            return Finding("Empty", "it has no values", self.name)
        return None


def columns(file: Path) -> tuple[str, ...]:
    """Names of all columns.

    Raises:
        TrainingError: `DataInvalid` for arrays that are no table.
    """
    return tuple(name for array in _arrays(file) for name in array.columns)


def read(file: Path, wanted: Sequence[str]) -> pa.Table:
    """These columns, in this order. Raises as `columns`."""
    made: dict[str, pa.Array] = {}
    with _understood(), np.load(file, allow_pickle=False) as archive:
        for array in _arrays(file):
            if set(array.columns) & set(wanted):
                cells = archive[array.name]
                parts = cells.T if cells.ndim == 2 else [cells]
                made |= {name: _cells(part) for name, part in zip(array.columns, parts, strict=True)}
    return pa.table({name: made[name] for name in wanted})


def _arrays(file: Path) -> list[Array]:
    with _understood(), zipfile.ZipFile(file) as archive:
        found = [_header(archive, info) for info in archive.infolist()]
    wrong = [fault for array in found if (fault := array.fault)]
    if not wrong and len({array.shape[0] for array in found}) > 1:
        wrong = [Finding("RowsDiffer", "the arrays of the file have different numbers of rows")]
    if not wrong and (width := sum(len(array.columns) for array in found)) > MAX_COLUMNS:
        wrong = [Finding("TooManyColumns", f"the arrays make {width:,} columns, at most {MAX_COLUMNS:,} can be used")]
    if wrong:
        raise data_invalid(wrong)
    return found


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    if not info.filename.endswith(_ENDING):
        raise ValueError("not an array")
    with archive.open(info) as member:
        stream: BinaryIO = member  # type: ignore[assignment]
        shape, _, kind = _HEADERS[np.lib.format.read_magic(stream)](stream)
        start = member.tell()
    if kind.hasobject:
        raise data_invalid(
            [Finding("UnsupportedType", "it holds Python objects, which are never unpickled", info.filename)]
        )
    if start + math.prod(shape) * kind.itemsize != info.file_size:
        raise ValueError("not as long as its header says")
    return Array(info.filename.removesuffix(_ENDING), shape, kind.kind)


def _cells(cells: Any) -> pa.Array:
    """As Arrow has them; what Arrow does not have becomes bytes, which nobody can learn from."""
    if cells.ndim > 2:
        native = np.ascontiguousarray(cells.astype(cells.dtype.newbyteorder("="), copy=False))
        return pa.FixedShapeTensorArray.from_numpy_ndarray(native)
    if cells.dtype.kind == "U":
        return pa.array(cells.tolist(), pa.string())
    if cells.dtype == np.float16:
        return pa.array(cells.astype(np.float32))
    if cells.dtype.kind in "biufM":
        return pa.array(np.ascontiguousarray(cells.astype(cells.dtype.newbyteorder("="))))
    return pa.array([b""] * len(cells), pa.binary())


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        words = "the file is not readable as NPZ: an archive of plain arrays, as numpy.savez writes it"
        raise data_invalid([Finding("NotReadable", words)]) from error
