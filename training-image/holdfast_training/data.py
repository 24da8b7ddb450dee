"""Find the data, take its digest, read it as an Arrow table.

CSV is RFC 4180: commas, a header, UTF-8. Its cells stay text here, so that typing them is one decision in one place
(`columns`) and not a guess of a parser. Error texts of parsers quote cells, so they are never passed on.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.fetch import claim_path, fetch_file, fetch_files
from holdfast_bundle.manifest import digest_file
from holdfast_bundle.uris import CLAIMS, Uri, parse
from holdfast_bundle.web import Web
from holdfast_training import arrays, partitions
from holdfast_training.errors import Finding, TrainingError, count, data_invalid, listed
from holdfast_training.listing import PRODUCTION as PRODUCTION
from holdfast_training.listing import Files, described, files_of

if TYPE_CHECKING:
    from collections.abc import Iterator

Format = Literal["CSV", "Parquet", "NPZ"]

MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
"""Cells of a CSV file that mean "not known"."""

_ENDINGS: dict[str, Format] = {".csv": "CSV", ".parquet": "Parquet", ".npz": "NPZ"}
_CSV_BLOCK = 8 << 20


@dataclass(frozen=True, slots=True)
class Data:
    """Files of one format with the same columns.

    Attributes:
        digest: of what `read` will read.
        version: of what was listed before it was read; see `listing`.
        names: of the files below the URI.
        columns: those of the files, then those that the names of folders give.
        stamps: (mtime, size) of the files when the digest was taken.
    """

    uri: Uri
    format: Format
    files: tuple[Path, ...]
    digest: str
    version: str | None
    names: tuple[str, ...]
    columns: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]

    def read(self, columns: Sequence[str]) -> pa.Table:
        """The rows of all files, in the order of the files' names, with these columns in this order.

        Cells of CSV, and those that the names of folders give, are strings or null.

        Raises:
            TrainingError: `DataInvalid`, or `DataUnreachable` when a file is no longer what the digest says.
        """
        tables: list[pa.Table] = []
        for file, name in zip(self.files, self.names, strict=True):
            rows_before = sum(table.num_rows for table in tables)
            given = partitions.of(name)
            inside = [column for column in columns if column not in given]
            with _readable(self.uri):
                match self.format:
                    case "CSV":
                        table = _read_csv(file, inside, rows_before)
                    case "Parquet":
                        table = _read_parquet(file, inside)
                    case "NPZ":
                        table = arrays.read(file, inside)
            tables.append(partitions.added(table, given).select(list(columns)) if given else table)
        with _readable(self.uri):
            if tuple(map(_stamp, self.files)) != self.stamps:
                raise TrainingError("DataUnreachable", f"{self.uri} changed while it was read")
        if len({table.schema for table in tables}) > 1:
            raise data_invalid([Finding("TypesDiffer", "its type is not the same in all files", _differing(tables))])
        return pa.concat_tables(tables)


def locate(
    uri: str,
    digest: str | None,
    format: Format | None,
    *,
    scratch: Path,
    claims: Path = CLAIMS,
    web: Web = PRODUCTION,
    credentials: Credentials = NOBODY,
) -> Data:
    """Find the data (bring them to `scratch` where they are not on a claim), check digests, read column names.

    The digest of a file is its sha256; that of a folder is the sha256 of the lines `HEX  NAME`, sorted by name, as
    `sha256sum * | sha256sum` gives it.

    Raises:
        TrainingError: `DataNotFound`, `DataAccessDenied`, `DataUnreachable`, `AddressRefused`, `SecretNotFound`,
            `SecretInvalid`, `ChecksumMismatch` with both digests, or `DataInvalid`.
    """
    with described():
        where = parse(uri)
        found = files_of(where, web=web, claims=claims, credentials=credentials)
        if not found.names:
            raise _no_files(where)
        format = format or _common_format(where, found)
    there = _brought(where, found, digest, scratch / "data", claims, web, credentials)
    names = ("",) if found.single else found.names
    columns = (*_common_columns(where, format, there.paths), *partitions.columns(where, names))
    _check_once(columns)
    return Data(where, format, there.paths, there.digest, there.version, names, columns, there.stamps)


@dataclass(frozen=True, slots=True)
class Brought:
    """Files, whatever they hold.

    Attributes:
        names: below the URI; of a single file its own.
        paths: where they are: on their claim, or in the folder that they were brought to, under their names.
        digest, version, stamps: as of `Data`.
    """

    uri: Uri
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    digest: str
    version: str | None
    stamps: tuple[tuple[int, int], ...]


def bring(
    uri: str,
    digest: str | None,
    folder: Path,
    *,
    claims: Path = CLAIMS,
    web: Web = PRODUCTION,
    credentials: Credentials = NOBODY,
) -> Brought:
    """Find files of any kind, bring them to `folder` where they are not on a claim, and check digests.

    Raises:
        TrainingError: as `locate`, `DataInvalid` only when there are none.
    """
    with described():
        where = parse(uri)
        found = files_of(where, web=web, claims=claims, credentials=credentials)
        if not found.names:
            raise _no_files(where)
    return _brought(where, found, digest, folder, claims, web, credentials)


def _brought(
    where: Uri, found: Files, digest: str | None, folder: Path, claims: Path, web: Web, credentials: Credentials
) -> Brought:
    names = (_local_name(where),) if found.single else found.names
    with described():
        if where.scheme == "pvc":
            paths = [claim_path(where if found.single else where.join(name), claims) for name in names]
        else:
            folder.mkdir(parents=True, exist_ok=True)
            paths = [folder / name for name in names]
            if found.single:
                fetch_file(where, paths[0], web=web, credentials=credentials)
            else:
                fetch_files(where, names, folder, web=web, credentials=credentials)
    with _readable(where):
        stamps = tuple(map(_stamp, paths))
        digests = [digest_file(path) for path in paths]
    actual = digests[0] if found.single else _digest_folder(names, digests)
    _check_promises(where, found, digests)
    if digest is not None and actual != digest:
        raise TrainingError("ChecksumMismatch", f"{where} has the digest {actual}, the spec asks for {digest}")
    return Brought(where, names, tuple(paths), actual, found.version, stamps)


def _check_promises(uri: Uri, found: Files, digests: Sequence[str]) -> None:
    for name, digest in zip(found.names, digests, strict=True):
        if (promised := found.promised.get(name, digest)) != digest:
            message = f"{uri.join(name)} has the digest {digest}, the manifest beside it says {promised}"
            raise TrainingError("ChecksumMismatch", message)


def _common_format(uri: Uri, found: Files) -> Format:
    formats = {_format_of(uri, uri.name if found.single else name) for name in found.names}
    if len(formats) > 1:
        raise _unusable(
            "FormatsDiffer", f"{uri} holds both {' and '.join(sorted(formats))} files; give each its own folder"
        )
    return formats.pop()


def _local_name(uri: Uri) -> str:
    """Of a single file; a name that is none here, or a mark, is not kept."""
    name = uri.name
    return "data" if not name or "/" in name or "\0" in name or name.startswith((".", "_")) else name


def _no_files(uri: Uri) -> TrainingError:
    return _unusable("Empty", f"{uri} is a folder without data files")


def _format_of(uri: Uri, name: str) -> Format:
    ending = os.path.splitext(name)[1].lower()
    if ending not in _ENDINGS:
        what = "the file name" if uri.name == name else "a file name in the folder"
        raise _unusable("FormatUnknown", f"{uri}: {what} does not end in .csv, .parquet or .npz; give data.format")
    return _ENDINGS[ending]


def _common_columns(uri: Uri, format: Format, files: Sequence[Path]) -> tuple[str, ...]:
    names: tuple[str, ...] | None = None
    for file in files:
        with _readable(uri):
            found = _columns(format, file)
        if names is not None and set(found) != set(names):
            odd = sorted(set(found) ^ set(names))
            message = f"the files of {uri} have different columns: {listed(odd)} not in all of them"
            raise _unusable("ColumnsDiffer", message)
        names = names or found
        _check_once(found)
    return names or ()


def _columns(format: Format, file: Path) -> tuple[str, ...]:
    match format:
        case "CSV":
            return _csv_header(file)[0]
        case "Parquet":
            return _parquet_columns(file)
        case "NPZ":
            return arrays.columns(file)


def _check_once(columns: Sequence[str]) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise data_invalid([Finding("DuplicateColumn", "there is more than one of this name", n) for n in twice])


def _csv_header(file: Path) -> tuple[tuple[str, ...], int]:
    """Column names, and how many lines they take (a quoted name may hold line breaks)."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text)
            for row in reader:
                if row:
                    return tuple(row), reader.line_num
    except UnicodeDecodeError as error:
        raise _not_utf8() from error
    except csv.Error as error:
        raise _unusable("NotReadable", "the header is not one of a CSV file") from error
    raise _unusable("Empty", "the file is empty: not even a header")


def _read_csv(file: Path, columns: Sequence[str], rows_before: int) -> pa.Table:
    names, header_lines = _csv_header(file)
    short: list[int] = []

    def wrong_length(row: pyarrow.csv.InvalidRow) -> str:
        short.append(rows_before + row.number - header_lines)
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            file,
            # Row numbers are known only without threads.
            pyarrow.csv.ReadOptions(
                column_names=names, skip_rows=header_lines, use_threads=False, block_size=_CSV_BLOCK
            ),
            pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=wrong_length),
            pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in columns},
                include_columns=columns,
                null_values=MISSING,
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except pa.ArrowException as error:
        if "UTF8" in str(error):
            raise _not_utf8() from error
        raise _unusable("NotReadable", "the file is not readable as CSV; is a quote left open?") from error
    if short:
        message = (
            f"{count(len(short), 'row')} with more or fewer cells than the {len(names)} columns of the header, "
            f"first at row {short[0]:,}"
        )
        raise data_invalid([Finding("RowLength", message, rows=len(short))])
    return table


def _parquet_columns(file: Path) -> tuple[str, ...]:
    with _parquet(file) as parquet:
        return tuple(parquet.schema_arrow.names)


def _read_parquet(file: Path, columns: Sequence[str]) -> pa.Table:
    with _parquet(file) as parquet:
        return parquet.read(list(columns), use_threads=False).select(list(columns)).replace_schema_metadata(None)


@contextmanager
def _parquet(file: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # of the file system; what Arrow cannot decode has no number
        raise _unusable("NotReadable", "the file is not readable as Parquet") from error


def _differing(tables: Sequence[pa.Table]) -> str:
    for name in tables[0].column_names:
        if len({table.schema.field(name).type for table in tables}) > 1:
            return str(name)
    return ""


def _unusable(rule: str, message: str) -> TrainingError:
    return data_invalid([Finding(rule, message)])


def _not_utf8() -> TrainingError:
    return _unusable("NotUTF8", "the file is not text in UTF-8; convert it, for example with iconv")


def _digest_folder(names: Sequence[str], digests: Sequence[str]) -> str:
    lines = [f"{digest.removeprefix('sha256:')}  {name}\n" for name, digest in zip(names, digests, strict=True)]
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@contextmanager
def _readable(uri: Uri) -> Iterator[None]:
    """An OSError of reading, in words."""
    try:
        yield
    except PermissionError as error:
        raise TrainingError("DataAccessDenied", f"{uri}: user {os.getuid()} may not read it") from error
    except OSError as error:
        raise TrainingError("DataUnreachable", f"{uri} cannot be read ({error.strerror or 'I/O error'})") from error
