"""The rows of a run: which files hold them, and which of them are a shard's.

Shards are equal stretches of the bytes of all files, one after the other by name, so that a listing is enough to know
them. A row of a CSV file belongs to the stretch in which it begins; quotes are counted to know where that is, since a
quoted cell may hold line breaks. Of a Parquet file, the same share of the rows is taken.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import claim_path, fetch_file
from holdfast_bundle.manifest import digest_file
from holdfast_bundle.uris import CLAIMS, Uri, parse
from holdfast_bundle.web import Web
from holdfast_training import data
from holdfast_training.data import Format
from holdfast_training.errors import Reason, TrainingError, count, listed

BLOCK_BYTES = 8 << 20
"""Of a CSV file, read at once. A row must fit."""
CHUNK_ROWS = 65536
"""Of a Parquet file, read at once."""

_REASONS: dict[str, Reason] = {
    "NotFound": "InputNotFound",
    "AccessDenied": "InputAccessDenied",
    "Unreachable": "InputUnreachable",
    "AddressRefused": "AddressRefused",
}
_DATA_REASONS: dict[str, Reason] = {
    "DataNotFound": "InputNotFound",
    "DataAccessDenied": "InputAccessDenied",
    "DataUnreachable": "InputUnreachable",
    "DataInvalid": "InputInvalid",
}


class Stamp(NamedTuple):
    """What tells whether a file is still the same: size in bytes, and time of its last change in ns."""

    size: int
    changed: int


@dataclass(frozen=True, slots=True)
class File:
    """One file of the input."""

    name: str
    path: Path
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes `start` to `end` of a file."""

    file: File
    start: int
    end: int


@dataclass
class Chunk:
    """Some rows that follow each other.

    Attributes:
        table: those that could be told apart, with the columns that were asked for.
        broken: rows among them that have another number of cells than the header.
    """

    table: pa.Table
    broken: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """Files of one format. `version` is another one when any of them is."""

    uri: Uri
    format: Format
    files: tuple[File, ...]
    version: str
    _rows: dict[str, _Rows] = field(default_factory=dict)
    """Of CSV files by name."""

    def columns(self) -> tuple[str, ...]:
        """Of the first file. Raises TrainingError."""
        return self._columns(self.files[0])

    def fields(self, columns: Sequence[str]) -> list[pa.Field]:
        """Types of these columns, by the first file. Raises TrainingError."""
        if self.format == "CSV":
            return [pa.field(name, pa.string()) for name in columns]
        with _readable(self.uri), _opened(self.files[0]) as parquet:
            return [parquet.schema_arrow.field(name).remove_metadata() for name in columns]

    def shard(self, number: int, shards: int, columns: Sequence[str]) -> Iterator[Chunk]:
        """The rows of one shard in their order, with these columns.

        Raises:
            TrainingError: `ColumnNotFound`, `InputInvalid`, or `InputUnreachable` when a file is no longer what it was.
        """
        for stretch in cut([(file, file.stamp.size) for file in self.files], number, shards):
            missing = sorted({*columns} - {*self._columns(stretch.file)})
            if missing:
                raise TrainingError("ColumnNotFound", f"{self._named(stretch.file)} has no column {listed(missing)}")
            with _readable(self.uri):
                if self.format == "CSV":
                    yield from _csv(stretch, self._rows_of(stretch.file), columns)
                else:
                    yield from _parquet(stretch, columns)
                if _stamp(stretch.file.path) != stretch.file.stamp:
                    raise TrainingError("InputUnreachable", f"{self._named(stretch.file)} changed while it was read")

    def _columns(self, file: File) -> tuple[str, ...]:
        with _readable(self.uri):
            if self.format == "CSV":
                names = self._rows_of(file).header
            else:
                with _opened(file) as parquet:
                    names = tuple(parquet.schema_arrow.names)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise _invalid(f"{self._named(file)}: more than one column has the name {listed(twice)}")
        return names

    def _rows_of(self, file: File) -> _Rows:
        if file.name not in self._rows:
            self._rows[file.name] = _Rows(file.path)
        return self._rows[file.name]

    def _named(self, file: File) -> str:
        return str(self.uri) if len(self.files) == 1 else f"{file.name} of {self.uri}"


def locate(
    uri: str,
    digest: str | None,
    format: Format | None,
    *,
    scratch: Path,
    claims: Path = CLAIMS,
    web: Web = data.PRODUCTION,
) -> Source:
    """Find the input: a file or a folder on a claim, or a file on a web server, which is brought to `scratch`.

    digest: that it must have (of a folder as `holdfast_training.data` takes it), for which all of it is read.

    Raises:
        TrainingError: `InputNotFound`, `InputAccessDenied`, `InputUnreachable`, `AddressRefused`, `ChecksumMismatch`
            with both digests, or `InputInvalid`.
    """
    if digest is not None:
        _check(uri, digest, format, scratch, claims, web)
    try:
        where = parse(uri)
        if where.scheme != "pvc" and where.path.endswith("/"):
            raise _invalid(f"{where}: a folder cannot be listed over http(s); name one file")
        path = claim_path(where, claims) if where.scheme == "pvc" else scratch / "input"
        if where.scheme != "pvc":
            fetch_file(where, path, web=web)
    except BundleError as error:
        raise TrainingError(_REASONS.get(error.reason, "InputInvalid"), error.message) from error
    with _readable(where):
        found, paths = _files(where, path, format)
        files = tuple(File(path.name, path, _stamp(path)) for path in paths)
    # What is fetched must be the same for every pod, whatever its server says of it.
    stays = where.scheme == "pvc"
    version = _version([(file.name, *file.stamp) for file in files]) if stays else digest_file(path)
    return Source(where, found, files, version)


def cut(files: Sequence[tuple[File, int]], number: int, shards: int) -> Iterator[Stretch]:
    """What the shard `number` of `shards` has of files with these sizes."""
    total = sum(size for _, size in files)
    start, end = total * number // shards, total * (number + 1) // shards
    before = 0
    for file, size in files:
        if size and before < end and start < before + size:
            yield Stretch(file, max(start - before, 0), min(end - before, size))
        before += size


def _check(uri: str, digest: str, format: Format | None, scratch: Path, claims: Path, web: Web) -> None:
    folder = scratch / "checked"
    folder.mkdir()
    try:
        data.locate(uri, digest, format, scratch=folder, claims=claims, web=web)
    except TrainingError as error:
        raise TrainingError(_DATA_REASONS.get(error.reason, error.reason), error.message) from error
    for path in folder.iterdir():
        path.unlink()


def _files(uri: Uri, path: Path, format: Format | None) -> tuple[Format, list[Path]]:
    if not path.is_dir():
        if not path.is_file():
            raise _invalid(f"{uri} is neither a file nor a folder")
        return format or _format_of(uri, uri.name), [path]
    found = sorted(path for path in path.iterdir() if not path.name.startswith((".", "_")))
    folders = [path for path in found if path.is_dir()]
    if folders:
        raise _invalid(f"{uri} holds {count(len(folders), 'folder')}; only files are read")
    if not found:
        raise TrainingError("InputNotFound", f"{uri} is a folder without data files")
    formats = {format or _format_of(uri, path.name) for path in found}
    if len(formats) > 1:
        raise _invalid(f"{uri} holds both CSV and Parquet files; give each its own folder")
    return formats.pop(), found


def _format_of(uri: Uri, name: str) -> Format:
    endings: dict[str, Format] = {".csv": "CSV", ".parquet": "Parquet"}
    ending = os.path.splitext(name)[1].lower()
    if ending not in endings:
        raise _invalid(f"{uri}: a file name does not end in .csv or .parquet; give input.format")
    return endings[ending]


# --- CSV ------------------------------------------------------------------------------------------------------------


class _Rows:
    """Where the rows of a CSV file begin. Offsets are to be asked for in rising order: each byte is read once."""

    def __init__(self, path: Path) -> None:
        """Raises TrainingError `InputInvalid`, and OSError."""
        self._path = path
        self.header, lines = _header(path)
        with open(path, "rb") as file:
            for _ in range(lines):
                file.readline()
            self._begin = self._seen = file.tell()
        self._odd = False
        """Whether the quotes before `_seen` are odd in number."""

    def start(self, offset: int) -> int:
        """Where the first row that begins at `offset` or behind it does; the file's size where none does."""
        if offset <= self._begin:
            return self._begin
        with open(self._path, "rb") as file:
            file.seek(self._seen)
            self._count(file, offset - 1)  # a row begins at `offset` when the byte before it ends one
            odd, at = self._odd, self._seen
            while block := file.read(1 << 16):
                from_ = 0
                while (end := block.find(b"\n", from_)) >= 0:
                    odd ^= block.count(b'"', from_, end) % 2 == 1
                    if not odd:
                        return at + end + 1
                    from_ = end + 1
                odd ^= block.count(b'"', from_) % 2 == 1
                at += len(block)
            return at

    def _count(self, file: BinaryIO, to: int) -> None:
        while self._seen < to:
            block = file.read(min(BLOCK_BYTES, to - self._seen))
            if not block:
                return
            self._odd ^= block.count(b'"') % 2 == 1
            self._seen += len(block)


def _header(path: Path) -> tuple[tuple[str, ...], int]:
    """Column names, and how many lines they take (a quoted name may hold line breaks)."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text)
            for row in reader:
                if row:
                    return tuple(row), reader.line_num
    except (UnicodeDecodeError, csv.Error):
        raise _invalid(f"{path.name} does not begin with the header of a CSV file in UTF-8") from None
    raise _invalid(f"{path.name} is empty: not even a header")


def _csv(stretch: Stretch, rows: _Rows, columns: Sequence[str]) -> Iterator[Chunk]:
    start, end = rows.start(stretch.start), rows.start(stretch.end)
    if start >= end:
        return
    broken: list[int] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        broken.append(row.actual_columns)
        return "skip"

    with pa.OSFile(str(stretch.file.path)) as file:
        try:
            reader = pyarrow.csv.open_csv(
                file.get_stream(start, end - start),
                pyarrow.csv.ReadOptions(column_names=rows.header, use_threads=False, block_size=BLOCK_BYTES),
                pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
                # Cells stay as they are: what is copied beside the answers must not lose an `NA`.
                pyarrow.csv.ConvertOptions(
                    column_types={name: pa.string() for name in columns}, include_columns=columns, null_values=[]
                ),
            )
            for batch in reader:
                yield Chunk(pa.Table.from_batches([batch]), len(broken))
                broken.clear()
        except pa.ArrowException as error:
            if "UTF8" in str(error):
                raise _invalid(
                    f"{stretch.file.name} is not text in UTF-8; convert it, for example with iconv"
                ) from None
            if broken and "Empty CSV file" in str(error):  # not one row could be told apart
                yield Chunk(pa.table({name: pa.array([], pa.string()) for name in columns}), len(broken))
                return
            raise _invalid(f"{stretch.file.name} is not readable as CSV; is a quote left open?") from None


# --- Parquet --------------------------------------------------------------------------------------------------------


def _parquet(stretch: Stretch, columns: Sequence[str]) -> Iterator[Chunk]:
    file = stretch.file
    with _opened(file) as parquet:
        metadata = parquet.metadata
        start, end = (metadata.num_rows * offset // file.stamp.size for offset in (stretch.start, stretch.end))
        if start >= end:
            return
        groups: list[int] = []
        first = before = 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if before < end and start < before + rows:
                first = before if not groups else first
                groups.append(group)
            before += rows
        at = first
        for batch in parquet.iter_batches(CHUNK_ROWS, row_groups=groups, columns=list(columns), use_threads=False):
            here = batch.slice(max(start - at, 0), max(min(end - at, len(batch)) - max(start - at, 0), 0))
            at += len(batch)
            if len(here):
                table = pa.Table.from_batches([here]).select(list(columns)).replace_schema_metadata(None)
                yield Chunk(table)


@contextmanager
def _opened(file: File) -> Iterator[pyarrow.parquet.ParquetFile]:
    try:
        with pyarrow.parquet.ParquetFile(file.path) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # of the file system; what Arrow cannot decode has no number
        raise _invalid(f"{file.name} is not readable as Parquet") from error


# --------------------------------------------------------------------------------------------------------------------


def _version(listing: Sequence[tuple[object, ...]]) -> str:
    lines = "".join(" ".join(map(str, entry)) + "\n" for entry in listing)
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns)


def _invalid(message: str) -> TrainingError:
    return TrainingError("InputInvalid", message)


@contextmanager
def _readable(uri: Uri) -> Iterator[None]:
    """An OSError of reading, in words."""
    try:
        yield
    except PermissionError as error:
        raise TrainingError("InputAccessDenied", f"{uri}: user {os.getuid()} may not read it") from error
    except OSError as error:
        raise TrainingError("InputUnreachable", f"{uri} cannot be read ({error.strerror or 'I/O error'})") from error
