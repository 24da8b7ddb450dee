"""What outlives a pod: a folder beside the bundle, where an interrupted search or fit goes on, and processes meet."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast_training.errors import TrainingError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the processes of one search share its trials.

    Attributes:
        folder: the run's, on the claim of its output; None where that is in a store, and nothing outlives the pod.
        search: its name. Another search of the same run, as with other data, meets elsewhere.
        worker: which of the processes this is; 0 leads.
        is_over: whether the run has published.
    """

    folder: Path | None
    search: str
    worker: int
    is_over: Callable[[], bool]

    def storage(self) -> BaseStorage | None:
        """Where the trials are kept; None: in memory.

        Raises:
            TrainingError: `OutputNotWritable`.
        """
        if self.folder is None:
            return None
        from holdfast_training.search import JOURNAL, storage  # loads Optuna

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError("OutputNotWritable", f"no checkpoint: {error.strerror or 'I/O error'}") from error
        return storage(f"{JOURNAL}{self.folder / self.search}.journal")

    def invite(self) -> None:
        """The others may begin: the first trials are queued."""
        if self.folder is not None:
            self._begun(self.folder).touch()

    def is_invited(self) -> bool:
        """Wait for the leader; False when the run is over before."""
        if self.folder is None:
            raise ValueError("processes cannot meet where nothing outlives a pod")
        while not self._begun(self.folder).exists():
            if self.is_over():
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def _begun(self, folder: Path) -> Path:
        return folder / f"{self.search}.begun"


@contextmanager
def kept(folder: Path | None) -> Iterator[None]:
    """While this lasts, a failure that may pass leaves the folder to the next attempt; after another there is none."""
    try:
        yield
    except TrainingError as error:
        if error.is_permanent:
            discard(folder)
        raise


def discard(folder: Path | None) -> None:
    """The run has come to its end: there is nothing to go on with."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of a checkpoint, so that whoever reads it finds the old one or the new one, whole.

    Raises:
        TrainingError: `OutputNotWritable`.
    """
    new = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(new, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    except OSError as error:
        raise TrainingError("OutputNotWritable", f"no checkpoint: {error.strerror or 'I/O error'}") from error
