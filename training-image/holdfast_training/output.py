"""Publish a bundle that appears whole or not at all.

A run has its folder for itself, so what lies there is either its own finished bundle, which is reported again, or its
own wreck. On a claim, files are written into a hidden sibling folder, which is renamed when its manifest is on disk. In
a store, where nothing can be renamed, the manifest comes last: a folder without one is no bundle.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast_bundle import manifest, verify
from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import fetch_file, fetch_model
from holdfast_bundle.uris import CLAIMS, STORES, Uri, local_path, parse
from holdfast_bundle.web import Web
from holdfast_training.errors import TrainingError
from holdfast_training.listing import PRODUCTION

NOTES = "_run.json"
"""What a run has to say of itself beside the bundle. It is not sealed: two runs of one recipe give the same bundle."""
_STARTED = "_started"
MAX_SMALL_BYTES = 1 << 20
_PAUSES_SECONDS = (1.0, 3.0, 10.0, 30.0)

Finished = tuple[str, manifest.Manifest]
"""Digest and manifest of a bundle that lies there."""


def output_at(
    uri: str, folder: str, *, claims: Path = CLAIMS, web: Web = PRODUCTION, credentials: Credentials = NOBODY
) -> Output:
    """The place of a run's bundle: its own `folder` below `uri`.

    Raises:
        TrainingError: `OutputNotWritable` for a URI that leads neither to a claim nor to a store.
    """
    if not folder or "/" in folder or folder.startswith("."):
        raise ValueError(f"not a folder's name: {folder!r}")
    try:
        parent = parse(uri)
        if parent.scheme in STORES:
            return StoreOutput(parent, folder, web, credentials)
        return ClaimOutput(parent, folder, local_path(parent, claims))
    except BundleError as error:
        raise TrainingError("OutputNotWritable", error.message) from error


def checkpoint_at(uri: str, folder: str, claims: Path = CLAIMS) -> Path | None:
    """Where a run keeps what its next attempt goes on from: beside its bundle. None where that lies on no claim."""
    where = parse(uri)
    return _beside(local_path(where, claims) / folder) if where.scheme == "pvc" else None


def notes_in(content: bytes) -> dict[str, Any]:
    """What the file `NOTES` says; empty where it is damaged."""
    try:
        notes = json.loads(content)
    except ValueError:
        return {}
    return notes if isinstance(notes, dict) else {}


class Output(ABC):
    """The place of one run's bundle. `stop` may be called from any thread, at any moment."""

    def __init__(self, parent: Uri, folder: str) -> None:
        self.uri: Uri = parent.join(folder)
        self.model_name = parent.name or parent.host
        self._staging: Path | None = None
        self._publishing = threading.Lock()

    @property
    def checkpoint(self) -> Path | None:
        """As `checkpoint_at`."""
        return None

    @abstractmethod
    def finished(self) -> Finished | None:
        """The valid bundle that lies there already; None: there is none.

        Raises TrainingError `OutputNotWritable` when that cannot be found out.
        """

    @abstractmethod
    def small(self, name: str) -> bytes:
        """A file that was published with the bundle, of at most 1 MiB; empty where it cannot be read."""

    def notes(self) -> dict[str, Any]:
        """What the run that published the bundle said beside it; empty where that is lost."""
        return notes_in(self.small(NOTES))

    @contextmanager
    def staging(self) -> Iterator[None]:
        """While this lasts, there is a fresh folder to write the bundle into; gone at the end unless published.

        Raises TrainingError `OutputNotWritable`, before any work is done in vain.
        """
        self._staging = self._prepared()
        try:
            yield
        finally:
            self._discard()

    def publish(
        self, files: Mapping[str, bytes | Path], notes: Mapping[str, Any] | None = None, **contents: Any
    ) -> Finished:
        """Write the files, seal them with a manifest of `contents`, and let the bundle appear.

        Returns digest and manifest of what lies there now. Raises TrainingError `OutputNotWritable`.
        """
        staging = self._staging
        if staging is None:
            raise RuntimeError("publish() belongs into staging()")
        with _in_words(self.uri):
            for name, content in files.items():
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, Path):
                    shutil.copyfile(content, staging / name)
                else:
                    (staging / name).write_bytes(content)
            digest = manifest.write(staging, name=self.model_name, **contents)
            (staging / NOTES).write_bytes(manifest.canonical_json(dict(notes or {})))
            sealed = manifest.read(staging)
            with self._publishing:
                # An attempt on a node that was thought lost may have finished meanwhile; pods may already read that.
                if finished := self.finished():
                    return finished
                self._appear(staging)
        return digest, sealed

    def stop(self) -> None:
        """Leave nothing half-done and let nothing be published from now on: the caller ends the process."""
        self._publishing.acquire()  # for good: nothing must appear while its files are being removed
        self._discard()

    @abstractmethod
    def _prepared(self) -> Path:
        """A folder to write into, once it is certain that the output can be written."""

    @abstractmethod
    def _appear(self, staging: Path) -> None:
        """Give the bundle its final place."""

    def _discard(self) -> None:
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = None


class ClaimOutput(Output):
    """A folder on a claim."""

    def __init__(self, parent: Uri, folder: str, path: Path) -> None:
        super().__init__(parent, folder)
        self._parent = path
        self._final = path / folder

    @property
    def checkpoint(self) -> Path:
        return _beside(self._final)

    def finished(self) -> Finished | None:
        with _in_words(self.uri):
            return _bundle(self._final) if self._final.exists() else None

    def small(self, name: str) -> bytes:
        return _read(self._final / name)

    def _prepared(self) -> Path:
        with _in_words(self.uri):
            self._parent.mkdir(parents=True, exist_ok=True)
            for wreck in self._parent.glob(f".{self._final.name}.*.partial"):
                shutil.rmtree(wreck)
            staging = Path(tempfile.mkdtemp(prefix=f".{self._final.name}.", suffix=".partial", dir=self._parent))
            staging.chmod(0o755)
        return staging

    def _appear(self, staging: Path) -> None:
        if self._final.exists():
            shutil.rmtree(self._final)
        os.rename(staging, self._final)
        self._staging = None
        descriptor = os.open(self._parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class StoreOutput(Output):
    """A folder in an object store."""

    def __init__(self, parent: Uri, folder: str, web: Web, credentials: Credentials) -> None:
        from holdfast_bundle.stores import Bucket

        super().__init__(parent, folder)
        self._web, self._credentials = web, credentials
        self._bucket = Bucket(self.uri, web, credentials)

    def finished(self) -> Finished | None:
        with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
            try:
                _again(lambda: fetch_model(self.uri, Path(folder), web=self._web, credentials=self._credentials))
            except BundleError as error:
                if error.reason in ("NotFound", "Invalid", "DigestMismatch"):
                    return None
                raise _not_writable(error) from error
            return _bundle(Path(folder))

    def small(self, name: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
            path, uri = Path(folder) / "file", self.uri.join(name)
            try:
                fetch_file(uri, path, limit=MAX_SMALL_BYTES, web=self._web, credentials=self._credentials)
            except BundleError:
                return b""
            return _read(path)

    def _prepared(self) -> Path:
        staging = Path(tempfile.mkdtemp(prefix="holdfast-"))
        (staging / _STARTED).touch()
        self._put(staging / _STARTED)
        (staging / _STARTED).unlink()
        return staging

    def _appear(self, staging: Path) -> None:
        files = sorted(path for path in staging.rglob("*") if path.is_file() and path.name != manifest.MANIFEST)
        for path in (*files, staging / manifest.MANIFEST):
            self._put(path, path.relative_to(staging).as_posix())

    def _put(self, path: Path, name: str = _STARTED) -> None:
        try:
            _again(lambda: self._bucket.put(name, path))
        except BundleError as error:
            raise _not_writable(error) from error


def _beside(bundle: Path) -> Path:
    return bundle.with_name(f".checkpoint-{bundle.name}")


def _again(ask: Callable[[], object]) -> None:
    """Ask a store until it answers, for about a minute: what was trained for hours must not be lost to a hiccup."""
    for pause in _PAUSES_SECONDS:
        try:
            ask()
            return
        except BundleError as error:
            if error.reason != "Unreachable":
                raise
        time.sleep(pause)
    ask()


def _bundle(folder: Path) -> Finished | None:
    try:
        return verify.verify(folder, None), manifest.read(folder)
    except BundleError:
        return None


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_SMALL_BYTES + 1)
    except OSError:
        return b""
    return content if len(content) <= MAX_SMALL_BYTES else b""


def _not_writable(error: BundleError) -> TrainingError:
    """Secrets keep their own reasons: those wait for a person."""
    if error.reason in ("SecretNotFound", "SecretInvalid", "AddressRefused"):
        return TrainingError(error.reason, error.message)
    return TrainingError("OutputNotWritable", error.message)


@contextmanager
def _in_words(uri: Uri) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        words = error.strerror or "I/O error"
        if isinstance(error, PermissionError):
            words += f"; user {os.getuid()} or group {os.getgid()} must be able to write there"
        raise TrainingError("OutputNotWritable", f"{uri}: {words}") from error
