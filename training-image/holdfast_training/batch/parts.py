"""The answers of a run, as one Parquet file for each shard, in a folder of the run's own.

A file appears whole or not at all, and says in its footer what it was made of and what was counted on the way: so a
shard whose file is there is done, whoever did it. `_SUCCESS` comes last, from whichever pod finds all files there.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from holdfast_bundle.errors import BundleError
from holdfast_bundle.uris import CLAIMS, Uri, local_path, parse
from holdfast_training.errors import TrainingError

SUCCESS = "_SUCCESS"
_KEY = b"holdfast"


class Parts:
    """The folder of one run. `stop` may be called from any thread, at any moment."""

    def __init__(self, uri: str, folder: str, shards: int, claims: Path = CLAIMS) -> None:
        """Raises TrainingError `OutputNotWritable` for a URI that cannot be written to."""
        if not folder or "/" in folder or folder.startswith("."):
            raise ValueError(f"not a folder's name: {folder!r}")
        try:
            parent = parse(uri)
            self._folder = local_path(parent, claims) / folder
        except BundleError as error:
            raise TrainingError("OutputNotWritable", error.message) from error
        self.uri: Uri = parent.join(folder)
        self._shards = shards
        self._partial: Path | None = None
        self._renaming = threading.Lock()

    def open(self) -> None:
        """Make the folder, so that what cannot be written is known before any work is done in vain."""
        with _in_words(self.uri):
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass

    def notes(self, shard: int) -> dict[str, Any] | None:
        """What the file of a shard says of itself; None: there is none.

        Raises TrainingError `OutputNotWritable` when it cannot be read, or is not one of ours.
        """
        path = self._path(shard)
        with _in_words(self.uri):
            if not path.exists():
                return None
            try:
                metadata = pyarrow.parquet.read_metadata(path).metadata or {}
                notes: dict[str, Any] = json.loads(metadata[_KEY])
            except (pa.ArrowException, ValueError, KeyError):
                words = f"{self.uri.join(path.name)} was not written by this run; remove it"
                raise TrainingError("OutputNotWritable", words) from None
        return notes

    def all_notes(self) -> list[dict[str, Any]] | None:
        """Of all shards in order; None while one is missing."""
        with _in_words(self.uri):
            if not all(self._path(shard).exists() for shard in range(self._shards)):
                return None
        found = [self.notes(shard) for shard in range(self._shards)]
        return [notes for notes in found if notes is not None]

    @contextmanager
    def writing(self, shard: int, schema: pa.Schema) -> Iterator[Part]:
        """A file for the answers of a shard; there at the end of the block if `seal` was called, else gone."""
        with _in_words(self.uri):
            for wreck in self._folder.glob(f".{self._path(shard).name}.*.partial"):
                wreck.unlink(missing_ok=True)
            descriptor, name = tempfile.mkstemp(".partial", f".{self._path(shard).name}.", self._folder)
            os.fchmod(descriptor, 0o644)
            self._partial = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    part = Part(file, schema)
                    try:
                        yield part
                    finally:
                        part.close()
                    file.flush()
                    os.fsync(file.fileno())
                with self._renaming:
                    if part.sealed:
                        os.replace(self._partial, self._path(shard))
                        self._sync()
            finally:
                self._discard()

    def summary(self) -> dict[str, Any] | None:
        """What `_SUCCESS` says; None: the run is not done. Raises TrainingError `OutputNotWritable`."""
        with _in_words(self.uri):
            try:
                text = (self._folder / SUCCESS).read_text(encoding="utf-8")
            except FileNotFoundError:
                return None
            try:
                summary: dict[str, Any] = json.loads(text)
            except ValueError:
                return None
        return summary

    def succeed(self, summary: Mapping[str, Any]) -> None:
        """Say that all files are there. Raises TrainingError `OutputNotWritable`."""
        with _in_words(self.uri):
            with tempfile.NamedTemporaryFile(
                "w", dir=self._folder, prefix=".", suffix=".partial", delete=False
            ) as file:
                json.dump(summary, file, ensure_ascii=False, sort_keys=True, indent=1)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            os.replace(file.name, self._folder / SUCCESS)
            self._sync()

    def stop(self) -> None:
        """Leave nothing half-done, and let no file appear from now on: the caller ends the process."""
        self._renaming.acquire()  # for good
        self._discard()

    def _discard(self) -> None:
        if self._partial is not None:
            with suppress(OSError):
                self._partial.unlink(missing_ok=True)
            self._partial = None

    def _path(self, shard: int) -> Path:
        return self._folder / f"part-{shard:05}.parquet"

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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


@contextmanager
def _in_words(uri: Uri) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        words = error.strerror or "I/O error"
        if isinstance(error, PermissionError):
            words += f"; user {os.getuid()} or group {os.getgid()} must be able to write there"
        raise TrainingError("OutputNotWritable", f"{uri}: {words}") from error
