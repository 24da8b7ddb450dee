"""How a network of PyTorch learns: epochs of AdamW, until it gets no better on rows that are kept back.

Alone or, where PyTorch has a default process group, together with its other processes: each takes its share of every
batch, and DistributedDataParallel adds up what they found. All leave with the same weights, which are those of one
process but for rounding.

What an epoch draws depends on the seed and the epoch's number alone, so a descent that was interrupted goes on from
its last checkpoint as if it had not been.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from torch.nn.parallel import DistributedDataParallel

from holdfast_training.checkpoint import replace_file
from holdfast_training.fitting import Course
from holdfast_training.images import rows_at_once

Arrays = Mapping[str, npt.NDArray[Any]]

KEEP_SECONDS = 2.0
"""Between checkpoints, at least."""

_ROWS_AT_ONCE = 1024
_DAMAGED = (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile)


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
class _State:
    """Where a descent is.

    Attributes:
        best, kept: the least loss on the rows kept back, and the network's state then.
        goal, waited: the loss that counts as progress, and for how many epochs there was none.
    """

    epoch: int = 0
    best: float = math.inf
    goal: float = math.inf
    waited: int = 0
    kept: dict[str, Any] | None = None


def descend(
    network: Any, inputs: Any, target: Any, loss: Callable[[Any, Any], Any], settings: Settings, course: Course
) -> int:
    """Teach `network`, whose weights are drawn already, and leave it as it was after its best epoch; returns how many
    there were.

    inputs, target: rows first. loss: of a batch, summed over its rows.

    Raises:
        ValueError: for what cannot be learned with.
        RuntimeError: a process of the group was lost.
    """
    rank, size = _place()
    order = torch.randperm(len(inputs), generator=_generator(settings.random_state, 0))
    held = order[: math.ceil(len(order) * settings.validation_fraction)]
    learned = order[len(held) :]
    if not len(learned):
        raise ValueError("validation_fraction leaves no row to learn from")
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate_init, weight_decay=settings.alpha)
    checkpoint = _Checkpoint(course.folder if rank == 0 else None, network, inputs, target, settings, size)
    state = checkpoint.restored(network, optimizer)
    together = DistributedDataParallel(network) if size > 1 else network
    while state.epoch < settings.max_iter and state.waited < settings.n_iter_no_change:
        state.epoch += 1
        course.say(f"epoch {state.epoch} of at most {settings.max_iter}")
        network.train()
        torch.manual_seed(_seed(settings.random_state, state.epoch, rank))  # of what is left out, another in each
        for batch in learned[_shuffled(len(learned), settings.random_state, state.epoch)].split(settings.batch_size):
            rows = batch[rank::size]
            optimizer.zero_grad()
            # The mean over processes of these is the mean over the batch, also where their shares are not equal.
            (loss(together(inputs[rows]), target[rows]) * (size / len(batch))).backward()
            optimizer.step()
        network.eval()
        reached = _mean_loss(network, inputs, target, held[rank::size], loss, len(held), size)
        if reached < state.best:
            state.best = reached
            state.kept = {name: value.clone() for name, value in network.state_dict().items()}
        progressed = reached < state.goal - settings.tol
        state.goal, state.waited = (reached, 0) if progressed else (state.goal, state.waited + 1)
        checkpoint.keep(state, network, optimizer)
    if state.waited < settings.n_iter_no_change:
        warnings.warn(f"max_iter ({settings.max_iter}) reached", ConvergenceWarning, stacklevel=2)
    if state.kept is None:
        raise ValueError("the loss is not a number; scale the features or lower learning_rate_init")
    network.load_state_dict(state.kept)
    return state.epoch


def _place() -> tuple[int, int]:
    """This process's rank among how many."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _generator(*parts: int) -> Any:
    return torch.Generator().manual_seed(_seed(*parts))


def _shuffled(rows: int, seed: int, epoch: int) -> Any:
    """The same in every process, whatever else they draw."""
    return torch.randperm(rows, generator=_generator(seed, epoch))


def _mean_loss(
    network: Any, inputs: Any, target: Any, share: Any, loss: Callable[[Any, Any], Any], rows: int, size: int
) -> float:
    """share: this process's part of so many `rows`."""
    total = torch.zeros(1, dtype=torch.float64)
    with torch.no_grad():
        for part in share.split(min(_ROWS_AT_ONCE, rows_at_once(inputs.shape[1:]))):
            total += loss(network(inputs[part]), target[part]).double()
    if size > 1:
        torch.distributed.all_reduce(total)
    return float(total.item()) / rows


class _Checkpoint:
    """A file of arrays, named by all that a descent begins with: another one, as from other rows, never finds it.

    The first process writes and reads it, and tells the others.
    """

    def __init__(
        self, folder: Path | None, network: Any, inputs: Any, target: Any, settings: Settings, size: int
    ) -> None:
        self._path, self._size, self._due = None, size, time.monotonic() + KEEP_SECONDS
        if folder is not None:
            name = _digest(network, inputs, target, settings, size)
            self._path = folder / f"network-{name[:16]}.npz"

    def restored(self, network: Any, optimizer: Any) -> _State:
        """Where the descent goes on; network and optimizer are brought there. A damaged file is as good as none."""
        content = b""
        if self._path is not None and self._path.exists():
            content = self._path.read_bytes()
        content = _told_by_the_first(content) if self._size > 1 else content
        if not content:
            return _State()
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return _unpacked(dict(arrays), network, optimizer)
        except _DAMAGED:
            return _State()

    def keep(self, state: _State, network: Any, optimizer: Any) -> None:
        """Write how far it is, unless that was done a moment ago. Raises TrainingError `OutputNotWritable`."""
        if self._path is None or time.monotonic() < self._due:
            return
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **_packed(state, network, optimizer))
        replace_file(self._path, content.getvalue())
        self._due = time.monotonic() + KEEP_SECONDS


def _digest(network: Any, inputs: Any, target: Any, settings: Settings, size: int) -> str:
    sha = hashlib.sha256(repr([getattr(settings, name) for name in Settings.__annotations__]).encode())
    sha.update(str(size).encode())
    for tensor in (inputs, target, *network.state_dict().values()):
        array = _array(tensor)
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _told_by_the_first(content: bytes) -> bytes:
    length = torch.tensor([len(content)])
    torch.distributed.broadcast(length, 0)
    told = torch.zeros(int(length.item()), dtype=torch.uint8)
    if content:
        told = _tensor(np.frombuffer(content, np.uint8).copy())
    if len(told):
        torch.distributed.broadcast(told, 0)
    return bytes(_array(told))


def _packed(state: _State, network: Any, optimizer: Any) -> dict[str, npt.NDArray[Any]]:
    facts = np.array([state.epoch, state.best, state.goal, state.waited], np.float64)
    arrays = {"state": facts}
    arrays |= {f"network.{name}": _array(value) for name, value in network.state_dict().items()}
    arrays |= {f"kept.{name}": _array(value) for name, value in (state.kept or {}).items()}
    for place, moments in optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer.{place}.{name}": _array(torch.as_tensor(value)) for name, value in moments.items()}
    return arrays


def _unpacked(arrays: Arrays, network: Any, optimizer: Any) -> _State:
    """Raises KeyError or ValueError before anything is changed."""
    epoch, best, goal, waited = arrays["state"].tolist()
    names = network.state_dict()
    weights = {name: _tensor(arrays[f"network.{name}"]) for name in names}
    kept = {name: _tensor(arrays[f"kept.{name}"]) for name in names} if math.isfinite(best) else None
    moments: dict[int, dict[str, Any]] = {}
    for key in arrays:
        if key.startswith("optimizer."):
            _, place, name = key.split(".")
            moments.setdefault(int(place), {})[name] = _tensor(arrays[key])
    network.load_state_dict(weights)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return _State(int(epoch), best, goal, int(waited), kept)


def _tensor(array: npt.NDArray[Any]) -> Any:
    return torch.from_dlpack(array)


def _array(tensor: Any) -> npt.NDArray[Any]:
    return np.from_dlpack(tensor.detach().contiguous())
