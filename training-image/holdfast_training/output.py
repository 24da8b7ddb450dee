"""Publish a bundle as a folder that appears whole or not at all.

Files are written into a hidden sibling folder, which is renamed when its manifest is on disk. A run has its folder for
itself, so what lies there is either its own finished bundle, which is reported again, or its own wreck.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast_bundle import manifest, verify
from holdfast_bundle.errors import BundleError
from holdfast_bundle.uris import CLAIMS, Uri, local_path, parse
from holdfast_training.errors import TrainingError


class Output:
    """The place of one run's bundle. `stop` may be called from any thread, at any moment."""

    def __init__(self, uri: str, folder: str, claims: Path = CLAIMS) -> None:
        """Raises TrainingError `OutputNotWritable` for a URI that is not on a claim."""
        if not folder or "/" in folder or folder.startswith("."):
            raise ValueError(f"not a folder's name: {folder!r}")
        try:
            parent = parse(uri)
            self._parent = local_path(parent, claims)
        except BundleError as error:
            raise TrainingError("OutputNotWritable", error.message) from error
        self.uri: Uri = parent.join(folder)
        self.model_name = parent.name or parent.host
        self._final = self._parent / folder
        self._staging: Path | None = None
        self._renaming = threading.Lock()

    def finished(self) -> tuple[str, manifest.Manifest] | None:
        """Digest and manifest of the valid bundle that lies there already; None: there is none.

        Raises TrainingError `OutputNotWritable` when the claim cannot be read.
        """
        with _in_words(self.uri):
            if not self._final.exists():
                return None
            try:
                return verify.verify(self._final, None), manifest.read(self._final)
            except BundleError:
                return None

    @contextmanager
    def staging(self) -> Iterator[None]:
        """While this lasts, there is a fresh folder to write the bundle into; gone at the end unless published.

        Raises TrainingError `OutputNotWritable`, before any work is done in vain.
        """
        with _in_words(self.uri):
            self._parent.mkdir(parents=True, exist_ok=True)
            for wreck in self._parent.glob(f".{self._final.name}.*.partial"):
                shutil.rmtree(wreck)
            staging = Path(tempfile.mkdtemp(prefix=f".{self._final.name}.", suffix=".partial", dir=self._parent))
            staging.chmod(0o755)
        self._staging = staging
        try:
            yield
        finally:
            self._discard()

    def publish(self, files: Mapping[str, bytes], **contents: Any) -> tuple[str, manifest.Manifest]:
        """Write the files, seal them with a manifest of `contents`, and give the folder its final name.

        Returns digest and manifest of what lies there now. Raises TrainingError `OutputNotWritable`.
        """
        staging = self._staging
        if staging is None:
            raise RuntimeError("publish() belongs into staging()")
        with _in_words(self.uri):
            for name, content in files.items():
                (staging / name).write_bytes(content)
            digest = manifest.write(staging, name=self.model_name, **contents)
            sealed = manifest.read(staging)
            with self._renaming:
                # An attempt on a node that was thought lost may have finished meanwhile; pods may already read that.
                if finished := self.finished():
                    return finished
                if self._final.exists():
                    shutil.rmtree(self._final)
                os.rename(staging, self._final)
                self._staging = None
            descriptor = os.open(self._parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return digest, sealed

    def stop(self) -> None:
        """Leave nothing half-done and let nothing be published from now on: the caller ends the process."""
        self._renaming.acquire()  # for good: a rename must not take place while its files are being removed
        self._discard()

    def _discard(self) -> None:
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = None


@contextmanager
def _in_words(uri: Uri) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        words = error.strerror or "I/O error"
        if isinstance(error, PermissionError):
            words += f"; user {os.getuid()} or group {os.getgid()} must be able to write there"
        raise TrainingError("OutputNotWritable", f"{uri}: {words}") from error
