"""The answers of a run, as one Parquet file for each shard, in a folder of the run's own.

A file appears whole or not at all, and says in its footer what it was made of and what was counted on the way: so a
shard whose file is there is done, whoever did it. `_SUCCESS` comes last, from whichever pod finds all files there.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.errors import BundleError
from holdfast_bundle.stores import Bucket
from holdfast_bundle.uris import CLAIMS, STORES, Uri, local_path, parse
from holdfast_bundle.web import Web
from holdfast_training.data import PRODUCTION
from holdfast_training.errors import TrainingError

SUCCESS = "_SUCCESS"
_STARTED = "_started"
_KEY = b"holdfast"
_MAGIC = b"PAR1"
_MAX_SUMMARY_BYTES = 1 << 20
_MAX_FOOTER_BYTES = 64 << 20


def parts_at(
    uri: str,
    folder: str,
    shards: int,
    *,
    claims: Path = CLAIMS,
    web: Web = PRODUCTION,
    credentials: Credentials = NOBODY,
) -> Parts:
    """The place of a run's answers: its own `folder` below `uri`.

    Raises:
        TrainingError: `OutputNotWritable` for a URI that leads neither to a claim nor to a store.
    """
    if not folder or "/" in folder or folder.startswith("."):
        raise ValueError(f"not a folder's name: {folder!r}")
    with _in_words(uri):
        parent = parse(uri)
        own = parent.join(folder)
        if parent.scheme in STORES:
            return StoreParts(own, shards, Bucket(own, web, credentials))
        return ClaimParts(own, shards, local_path(parent, claims) / folder)


class Parts(ABC):
    """The folder of one run. `stop` may be called from any thread, at any moment.

    All methods but that raise TrainingError `OutputNotWritable` when the place does not let them.
    """

    def __init__(self, uri: Uri, shards: int) -> None:
        self.uri = uri
        self._shards = shards
        self._partial: Path | None = None
        self._appearing = threading.Lock()

    @abstractmethod
    def open(self) -> None:
        """Make sure that the folder can be written, before any work is done in vain."""

    def notes(self, shard: int) -> dict[str, Any] | None:
        """What the file of a shard says of itself; None: there is none."""
        name = _named(shard)
        with _in_words(self.uri):
            try:
                metadata = self._footer(name)
                notes: dict[str, Any] | None = metadata and json.loads(metadata.metadata[_KEY])
            except (pa.ArrowException, ValueError, KeyError, TypeError):
                words = f"{self.uri.join(name)} was not written by this run; remove it"
                raise TrainingError("OutputNotWritable", words) from None
        return notes

    def done(self) -> int:
        """How many shards of the run are there, whoever did them."""
        with _in_words(self.uri):
            return len({_named(shard) for shard in range(self._shards)} & set(self._names()))

    def all_notes(self) -> list[dict[str, Any]] | None:
        """Of all shards in order; None while one is missing."""
        if self.done() < self._shards:
            return None
        found = [self.notes(shard) for shard in range(self._shards)]
        return [notes for notes in found if notes is not None]

    @contextmanager
    def writing(self, shard: int, schema: pa.Schema) -> Iterator[Part]:
        """A file for the answers of a shard; there at the end of the block if `seal` was called, else gone."""
        name = _named(shard)
        with _in_words(self.uri):
            self._partial = self._fresh(name)
            try:
                with open(self._partial, "wb") as file:
                    part = Part(file, schema)
                    try:
                        yield part
                    finally:
                        part.close()
                    file.flush()
                    os.fsync(file.fileno())
                if part.sealed:
                    self._appear(name)
            finally:
                self._discard()

    def summary(self) -> dict[str, Any] | None:
        """What `_SUCCESS` says; None: the run is not done."""
        with _in_words(self.uri):
            text = self._read(SUCCESS)
        try:
            summary: dict[str, Any] | None = json.loads(text or b"null")
        except ValueError:
            return None
        return summary

    def succeed(self, summary: Mapping[str, Any]) -> None:
        """Say that all files are there."""
        with _in_words(self.uri):
            self._partial = self._fresh(SUCCESS)
            try:
                text = json.dumps(summary, ensure_ascii=False, sort_keys=True, indent=1)
                with open(self._partial, "w", encoding="utf-8") as file:
                    file.write(f"{text}\n")
                    file.flush()
                    os.fsync(file.fileno())
                self._appear(SUCCESS)
            finally:
                self._discard()

    def stop(self) -> None:
        """Leave nothing half-done, and let no file appear from now on: the caller ends the process."""
        self._appearing.acquire()  # for good
        self._discard()

    def _appear(self, name: str) -> None:
        with self._appearing:
            assert self._partial
            self._publish(self._partial, name)

    def _discard(self) -> None:
        if self._partial is not None:
            with suppress(OSError):
                self._partial.unlink(missing_ok=True)
            self._partial = None

    @abstractmethod
    def _names(self) -> Collection[str]:
        """Of all files that are there."""

    @abstractmethod
    def _read(self, name: str) -> bytes | None:
        """The content of a small file; None where there is none."""

    @abstractmethod
    def _footer(self, name: str) -> pyarrow.parquet.FileMetaData | None:
        """Of a Parquet file; None where there is none."""

    @abstractmethod
    def _fresh(self, name: str) -> Path:
        """An empty file, to be published under this name."""

    @abstractmethod
    def _publish(self, path: Path, name: str) -> None:
        """Let a file that is whole appear under its name."""


class ClaimParts(Parts):
    """A folder on a claim."""

    def __init__(self, uri: Uri, shards: int, folder: Path) -> None:
        super().__init__(uri, shards)
        self._folder = folder

    def open(self) -> None:
        with _in_words(self.uri):
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass

    def _names(self) -> Collection[str]:
        return os.listdir(self._folder)

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def _footer(self, name: str) -> pyarrow.parquet.FileMetaData | None:
        path = self._folder / name
        return pyarrow.parquet.read_metadata(path) if path.exists() else None

    def _fresh(self, name: str) -> Path:
        for wreck in self._folder.glob(f".{name}.*.partial"):
            wreck.unlink(missing_ok=True)
        descriptor, made = tempfile.mkstemp(".partial", f".{name}.", self._folder)
        os.fchmod(descriptor, 0o644)
        os.close(descriptor)
        return Path(made)

    def _publish(self, path: Path, name: str) -> None:
        os.replace(path, self._folder / name)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class StoreParts(Parts):
    """A folder in an object store, where an object appears whole by itself."""

    def __init__(self, uri: Uri, shards: int, bucket: Bucket) -> None:
        super().__init__(uri, shards)
        self._bucket = bucket

    def open(self) -> None:
        with _in_words(self.uri), tempfile.NamedTemporaryFile() as empty:
            self._publish(Path(empty.name), _STARTED)

    def _names(self) -> Collection[str]:
        return [entry.name for entry in self._bucket.entries()]

    def _read(self, name: str) -> bytes | None:
        try:
            with self._bucket.file(name).open() as body:
                return body.all(_MAX_SUMMARY_BYTES)
        except BundleError as error:
            if error.reason == "NotFound":
                return None
            raise

    def _footer(self, name: str) -> pyarrow.parquet.FileMetaData | None:
        """Read from the end of the object, by its version: the answers before it are not fetched."""
        file = self._bucket.file(name)
        try:
            with file.open() as body:
                size, version = body.size, body.version
        except BundleError as error:
            if error.reason == "NotFound":
                return None
            raise
        if size is None or version is None or size < 12:
            raise ValueError("a store that gives no parts of objects")

        def last(amount: int) -> bytes:
            with file.open(max(size - amount, 0), size, version) as body:
                return body.all(amount)

        length = int.from_bytes(last(8)[:4], "little")
        if length > min(size, _MAX_FOOTER_BYTES):
            raise ValueError("not Parquet")
        return pyarrow.parquet.read_metadata(pa.BufferReader(_MAGIC + last(length + 8)))

    def _fresh(self, name: str) -> Path:
        descriptor, made = tempfile.mkstemp(".partial", f"{name}.")
        os.close(descriptor)
        return Path(made)

    def _publish(self, path: Path, name: str) -> None:
        self._bucket.put(name, path)


class Part:
    """An open file of one shard."""

    def __init__(self, file: Any, schema: pa.Schema) -> None:
        self._writer = pyarrow.parquet.ParquetWriter(file, schema, compression="zstd")
        self.sealed = False

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table)

    def seal(self, notes: Mapping[str, Any]) -> None:
        """No more rows; `notes` go into the footer."""
        self._writer.add_key_value_metadata({_KEY: json.dumps(notes, ensure_ascii=False).encode()})
        self.close()
        self.sealed = True

    def close(self) -> None:
        """Harmless when it is closed."""
        self._writer.close()


def _named(shard: int) -> str:
    return f"part-{shard:05}.parquet"


@contextmanager
def _in_words(uri: Uri | str) -> Iterator[None]:
    try:
        yield
    except BundleError as error:
        if error.reason in ("SecretNotFound", "SecretInvalid", "AddressRefused"):
            raise TrainingError(error.reason, error.message) from error
        raise TrainingError("OutputNotWritable", error.message) from error
    except OSError as error:
        words = error.strerror or "I/O error"
        if isinstance(error, PermissionError):
            words += f"; user {os.getuid()} or group {os.getgid()} must be able to write there"
        raise TrainingError("OutputNotWritable", f"{uri}: {words}") from error
