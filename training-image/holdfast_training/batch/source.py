"""The rows of a run: which files hold them, and which of them are a shard's.

Shards are equal stretches of the bytes of all files, one after the other by name, so that a listing is enough to know
them. A row of a CSV file belongs to the stretch in which it begins; quotes are counted to know where that is, since a
quoted cell may hold line breaks. Of a Parquet file, the same share of the rows is taken.
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import claim_path, fetch_file
from holdfast_bundle.manifest import digest_file
from holdfast_bundle.uris import CLAIMS, Uri, parse
from holdfast_bundle.web import Web
from holdfast_training import data, listing, partitions
from holdfast_training.data import PRODUCTION, Format
from holdfast_training.errors import Reason, TrainingError, listed
from holdfast_training.listing import Files

BLOCK_BYTES = 8 << 20
"""Of a CSV file, read at once. A row must fit."""
CHUNK_ROWS = 65536
"""Of a Parquet file, read at once."""
CHUNK_VALUES = 1 << 26
"""Likewise, where rows are arrays."""

_REASONS: dict[str, Reason] = {
    "NotFound": "InputNotFound",
    "AccessDenied": "InputAccessDenied",
    "Unreachable": "InputUnreachable",
    "AddressRefused": "AddressRefused",
    "SecretNotFound": "SecretNotFound",
    "SecretInvalid": "SecretInvalid",
}
_DATA_REASONS: dict[str, Reason] = {
    "DataNotFound": "InputNotFound",
    "DataAccessDenied": "InputAccessDenied",
    "DataUnreachable": "InputUnreachable",
    "DataInvalid": "InputInvalid",
}


class Stretch(NamedTuple):
    """Bytes `start` to `end` of the file with this index."""

    file: int
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


class Source:
    """Files of one format.

    Attributes:
        names: below the URI; of a single file empty.
        version: another one when any of them is.
    """

    def __init__(
        self, uri: Uri, format: Format, names: Sequence[str], sizes: Sequence[int], version: str, local: _Local
    ) -> None:
        self.uri, self.format, self.names, self.version = uri, format, tuple(names), version
        self._sizes, self._local = tuple(sizes), local
        self._rows: dict[int, _Rows] = {}
        """Of CSV files by index."""

    def first_of(self, shards: Sequence[int], of: int) -> int:
        """The first file that has rows of these shards, else the first of all: its columns stand for all."""
        stretches = (stretch.file for shard in shards for stretch in cut(self._sizes, shard, of))
        return next(stretches, 0)

    def columns(self, file: int) -> tuple[str, ...]:
        """Those in a file, then those that its folders' names give. Raises TrainingError."""
        return (*self._inside(file), *partitions.of(self.names[file]))

    def fields(self, file: int, columns: Sequence[str]) -> list[pa.Field]:
        """Types of these columns in a file. Raises TrainingError."""
        texts = {name: pa.field(name, pa.string()) for name in columns}
        if self.format == "CSV":
            return list(texts.values())
        given = partitions.of(self.names[file])
        with self._reading(file) as path, _opened(path) as parquet:
            schema = parquet.schema_arrow
            return [texts[name] if name in given else schema.field(name).remove_metadata() for name in columns]

    def shard(self, number: int, shards: int, columns: Sequence[str]) -> Iterator[Chunk]:
        """The rows of one shard in their order, with these columns.

        Raises:
            TrainingError: `ColumnNotFound`, `InputInvalid`, or reasons of fetching.
        """
        for stretch in cut(self._sizes, number, shards):
            given = partitions.of(self.names[stretch.file])
            inside = [name for name in columns if name not in given]
            if missing := sorted({*inside} - {*self._inside(stretch.file)}):
                raise TrainingError("ColumnNotFound", f"{self._named(stretch.file)} has no column {listed(missing)}")
            with self._reading(stretch.file) as path:
                if self.format == "CSV":
                    chunks = _csv(path, stretch, self._rows_of(stretch.file, path), inside)
                else:
                    chunks = _parquet(path, stretch, self._sizes[stretch.file], inside)
                for chunk in chunks:
                    table = partitions.added(chunk.table, given).select(list(columns)) if given else chunk.table
                    yield Chunk(table, chunk.broken)

    def is_unchanged(self) -> bool:
        """Whether a list tells the same as it did."""
        return self._local.version() in (None, self.version)

    def _inside(self, index: int) -> tuple[str, ...]:
        with self._reading(index) as path:
            if self.format == "CSV":
                names = self._rows_of(index, path).header
            else:
                with _opened(path) as parquet:
                    names = tuple(parquet.schema_arrow.names)
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise _invalid(f"more than one column has the name {listed(twice)}")
        return names

    def _rows_of(self, index: int, path: Path) -> _Rows:
        if index not in self._rows:
            self._rows[index] = _Rows(path)
        return self._rows[index]

    @contextmanager
    def _reading(self, index: int) -> Iterator[Path]:
        """A file, whose faults are told with its name."""
        path = self._local.path(index)
        try:
            with _readable(self.uri):
                yield path
        except TrainingError as error:
            if error.reason != "InputInvalid":
                raise
            raise _invalid(f"{self._named(index)}: {error.message}") from error

    def _named(self, index: int) -> str:
        return str(self.uri.join(self.names[index])) if self.names[index] else str(self.uri)


def locate(
    uri: str,
    digest: str | None,
    format: Format | None,
    *,
    scratch: Path,
    claims: Path = CLAIMS,
    web: Web = PRODUCTION,
    credentials: Credentials = NOBODY,
) -> Source:
    """Find the input. What does not lie on a claim is brought to `scratch` when its turn comes.

    digest: that it must have (of a folder as `holdfast_training.data` takes it), for which all of it is read.

    Raises:
        TrainingError: `InputNotFound`, `InputAccessDenied`, `InputUnreachable`, `AddressRefused`, `SecretNotFound`,
            `SecretInvalid`, `ChecksumMismatch` with both digests, or `InputInvalid`.
    """
    if digest is not None:
        _check(uri, digest, format, scratch, claims, web, credentials)
    with _described():
        where = parse(uri)
        found = listing.files_of(where, web=web, claims=claims, credentials=credentials)
        if not found.names:
            raise TrainingError("InputNotFound", f"{where} is a folder without data files")
        names = ("",) if found.single else found.names
        partitions.columns(where, names)
    local = _Local(where, found, scratch, claims, web, credentials)
    told = [size for size in found.sizes if size is not None]
    with _readable(where):
        all_told = len(told) == len(names)
        sizes = told if all_told else [local.path(index, keep=True).stat().st_size for index in range(len(names))]
        # Without a word from its server that a file is the same, its content has to tell.
        version = found.version or digest_file(local.path(0))
    return Source(where, format or _common_format(where, found), names, sizes, version, local)


def cut(sizes: Sequence[int], number: int, shards: int) -> Iterator[Stretch]:
    """What the shard `number` of `shards` has of files with these sizes."""
    total = sum(sizes)
    start, end = total * number // shards, total * (number + 1) // shards
    before = 0
    for index, size in enumerate(sizes):
        if size and before < end and start < before + size:
            yield Stretch(index, max(start - before, 0), min(end - before, size))
        before += size


class _Local:
    """Files of the input on this pod: those of a claim where they are, of others one at a time."""

    def __init__(self, uri: Uri, found: Files, scratch: Path, claims: Path, web: Web, credentials: Credentials) -> None:
        self._uri, self._found, self._scratch = uri, found, scratch
        self._claims, self._web, self._credentials = claims, web, credentials
        self._kept: set[Path] = set()

    def version(self) -> str | None:
        """Of what a list tells now. Raises TrainingError."""
        with _described():
            found = listing.files_of(self._uri, web=self._web, claims=self._claims, credentials=self._credentials)
        return found.version

    def path(self, index: int, *, keep: bool = False) -> Path:
        """Where the file is, fetched if need be; unless it is to be kept, it goes when the next one comes.

        Raises TrainingError, and OSError.
        """
        name = self._found.names[index]
        uri = self._uri if self._found.single else self._uri.join(name)
        with _described():
            if self._uri.scheme == "pvc":
                return claim_path(uri, self._claims)
            path = self._scratch / f"input-{index}"
            if path.exists():
                return path
            for other in set(self._scratch.glob("input-*")) - self._kept:
                other.unlink()
            fetch_file(uri, path, web=self._web, claims=self._claims, credentials=self._credentials)
        self._kept |= {path} if keep else set()
        size, promised = self._found.sizes[index], self._found.promised.get(name)
        if size is not None and path.stat().st_size != size:
            raise TrainingError("InputUnreachable", f"{uri} was changed after it was listed")
        if promised and (actual := digest_file(path)) != promised:
            words = f"{uri} has the digest {actual}, the manifest beside it says {promised}"
            raise TrainingError("ChecksumMismatch", words)
        return path


def _check(
    uri: str, digest: str, format: Format | None, scratch: Path, claims: Path, web: Web, credentials: Credentials
) -> None:
    with tempfile.TemporaryDirectory(dir=scratch) as folder, _described():
        data.locate(uri, digest, format, scratch=Path(folder), claims=claims, web=web, credentials=credentials)


def _common_format(uri: Uri, found: Files) -> Format:
    formats = {_format_of(uri, name) for name in ((uri.name,) if found.single else found.names)}
    if len(formats) > 1:
        raise _invalid(f"{uri} holds both CSV and Parquet files; give each its own folder")
    return formats.pop()


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
            header = [file.readline() for _ in range(lines)][-1]
            self._begin = self._seen = file.tell()
        if b"\r" in header.rstrip(b"\r\n"):
            raise _invalid("its lines end in CR alone; LF or CR LF is understood")
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
        raise _invalid("it does not begin with the header of a CSV file in UTF-8") from None
    raise _invalid("empty, without even a header")


def _csv(path: Path, stretch: Stretch, rows: _Rows, columns: Sequence[str]) -> Iterator[Chunk]:
    start, end = rows.start(stretch.start), rows.start(stretch.end)
    if start >= end:
        return
    broken: list[int] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        broken.append(row.actual_columns)
        return "skip"

    with pa.OSFile(str(path)) as file:
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
                raise _invalid("not text in UTF-8; convert it, for example with iconv") from None
            if not (broken and "Empty CSV file" in str(error)):  # that is: not one row could be told apart
                raise _invalid("not readable as CSV; is a quote left open?") from None
        if broken:
            yield Chunk(pa.table({name: pa.array([], pa.string()) for name in columns}), len(broken))


# --- Parquet --------------------------------------------------------------------------------------------------------


def _parquet(path: Path, stretch: Stretch, size: int, columns: Sequence[str]) -> Iterator[Chunk]:
    with _opened(path) as parquet:
        metadata = parquet.metadata
        start, end = (metadata.num_rows * offset // size for offset in (stretch.start, stretch.end))
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
        width = sum(_width(parquet.schema_arrow.field(name).type) for name in columns)
        rows = min(CHUNK_ROWS, max(1, CHUNK_VALUES // max(1, width)))
        for batch in parquet.iter_batches(rows, row_groups=groups, columns=list(columns), use_threads=False):
            here = batch.slice(max(start - at, 0), max(min(end - at, len(batch)) - max(start - at, 0), 0))
            at += len(batch)
            if len(here):
                table = pa.Table.from_batches([here]).select(list(columns)).replace_schema_metadata(None)
                yield Chunk(table)


def _width(kind: pa.DataType) -> int:
    """Values of a row: more than one in arrays of a fixed size."""
    kind = kind.storage_type if isinstance(kind, pa.FixedShapeTensorType) else kind
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else 1


@contextmanager
def _opened(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    try:
        with pyarrow.parquet.ParquetFile(path) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # of the file system; what Arrow cannot decode has no number
        raise _invalid("not readable as Parquet") from error


# --------------------------------------------------------------------------------------------------------------------


def _invalid(message: str) -> TrainingError:
    return TrainingError("InputInvalid", message)


@contextmanager
def _described() -> Iterator[None]:
    """Failures of finding and fetching, in the words of an input."""
    try:
        yield
    except BundleError as error:
        raise TrainingError(_REASONS.get(error.reason, "InputInvalid"), error.message) from error
    except TrainingError as error:
        raise TrainingError(_DATA_REASONS.get(error.reason, error.reason), error.message) from error


@contextmanager
def _readable(uri: Uri) -> Iterator[None]:
    """An OSError of reading, in words."""
    try:
        yield
    except PermissionError as error:
        raise TrainingError("InputAccessDenied", f"{uri}: user {os.getuid()} may not read it") from error
    except OSError as error:
        raise TrainingError("InputUnreachable", f"{uri} cannot be read ({error.strerror or 'I/O error'})") from error
