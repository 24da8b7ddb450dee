"""How far a network's learning is, whatever library it learns with, and a file in which that outlives the pod."""

from __future__ import annotations

import hashlib
import io
import math
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning

from holdfast_training.checkpoint import replace_file

Arrays = Mapping[str, npt.NDArray[Any]]

KEEP_SECONDS = 2.0
"""Between checkpoints, at least."""

_DAMAGED = (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile)
_KEPT = "kept."


class Settings(Protocol):
    """What is asked of an estimator; the names are scikit-learn's, of MLPClassifier.

    Attributes:
        alpha: AdamW's weight decay.
        batch_size: rows of a step, of all processes together.
    """

    alpha: float
    learning_rate_init: float
    batch_size: int
    max_iter: int
    n_iter_no_change: int
    tol: float
    validation_fraction: float
    random_state: int


@dataclass(slots=True)
class State:
    """Where a descent is.

    Attributes:
        best, kept: the least loss on the rows kept back, and the network's arrays then.
        goal, waited: the loss that counts as progress, and for how many epochs there was none.
    """

    epoch: int = 0
    best: float = math.inf
    goal: float = math.inf
    waited: int = 0
    kept: Arrays | None = None

    def goes_on(self, settings: Settings) -> bool:
        """Whether there is to be another epoch."""
        return self.epoch < settings.max_iter and self.waited < settings.n_iter_no_change

    def judge(self, reached: float, settings: Settings, arrays: Callable[[], Arrays]) -> None:
        """After an epoch. reached: the loss on the rows kept back. arrays: copies of the network's."""
        if reached < self.best:
            self.best, self.kept = reached, arrays()
        progressed = reached < self.goal - settings.tol
        self.goal, self.waited = (reached, 0) if progressed else (self.goal, self.waited + 1)

    def ended(self, settings: Settings) -> Arrays:
        """The arrays after the best epoch; warns where there might have been a better one. Raises ValueError."""
        if self.waited < settings.n_iter_no_change:
            warnings.warn(f"max_iter ({settings.max_iter}) reached", ConvergenceWarning, stacklevel=2)
        if self.kept is None:
            raise ValueError("the loss is not a number; scale the features or lower learning_rate_init")
        return self.kept


class Checkpoint:
    """A file of arrays, named by all that a descent begins with: another one, as from other rows, never finds it."""

    def __init__(
        self, folder: Path | None, settings: Settings, begins: Iterable[npt.NDArray[Any]], *facts: object
    ) -> None:
        """folder: None for no checkpoint. begins, facts: what a descent begins with beside its settings."""
        self._path, self._due = None, time.monotonic() + KEEP_SECONDS
        if folder is not None:
            told = [getattr(settings, name) for name in Settings.__annotations__]
            sha = hashlib.sha256(repr([*told, *facts]).encode())
            for array in begins:
                sha.update(f"{array.dtype} {array.shape}".encode())
                sha.update(array.tobytes())
            self._path = folder / f"network-{sha.hexdigest()[:16]}.npz"

    def content(self) -> bytes:
        """Of the file; empty where there is none."""
        return self._path.read_bytes() if self._path is not None and self._path.exists() else b""

    def keep(self, state: State, arrays: Callable[[], Arrays]) -> None:
        """Write how far it is, unless that was done a moment ago.

        Raises:
            TrainingError: `OutputNotWritable`.
        """
        if self._path is None or time.monotonic() < self._due:
            return
        facts = np.array([state.epoch, state.best, state.goal, state.waited], np.float64)
        kept = {f"{_KEPT}{name}": array for name, array in (state.kept or {}).items()}
        content = io.BytesIO()
        named: dict[str, Any] = {"state": facts, **kept, **arrays()}
        np.savez(content, **named)
        replace_file(self._path, content.getvalue())
        self._due = time.monotonic() + KEEP_SECONDS


def restored(content: bytes, bring: Callable[[Arrays], None]) -> State:
    """Where a descent goes on. A damaged file is as good as none.

    bring: takes the arrays that `Checkpoint.keep` was given; raises KeyError or ValueError before it changes anything.
    """
    if not content:
        return State()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = dict(file)
        epoch, best, goal, waited = arrays["state"].tolist()
        kept = {name.removeprefix(_KEPT): array for name, array in arrays.items() if name.startswith(_KEPT)}
        bring(arrays)
        return State(int(epoch), best, goal, int(waited), kept or None)
    except _DAMAGED:
        return State()
