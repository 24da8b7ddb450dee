"""How a network of PyTorch learns: epochs of AdamW, until it gets no better on rows that are kept back.

Alone or, where PyTorch has a default process group, together with its other processes: each takes its share of every
batch, and DistributedDataParallel adds up what they found. All leave with the same weights, which are those of one
process but for rounding.

What an epoch draws depends on the seed and the epoch's number alone, so a descent that was interrupted goes on from
its last checkpoint as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.parallel import DistributedDataParallel

from holdfast_training.epochs import Arrays, Checkpoint, Settings, restored
from holdfast_training.fitting import Course
from holdfast_training.images import rows_at_once

_ROWS_AT_ONCE = 1024


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
    begins = (_array(tensor) for tensor in (inputs, target, *network.state_dict().values()))
    checkpoint = Checkpoint(course.folder if rank == 0 else None, settings, begins, size)
    content = _told_by_the_first(checkpoint.content()) if size > 1 else checkpoint.content()
    state = restored(content, lambda arrays: _bring(arrays, network, optimizer))
    together = DistributedDataParallel(network) if size > 1 else network
    while state.goes_on(settings):
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
        state.judge(reached, settings, lambda: _copies(network))
        checkpoint.keep(state, lambda: _packed(network, optimizer))
    network.load_state_dict({name: _tensor(array) for name, array in state.ended(settings).items()})
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


def _told_by_the_first(content: bytes) -> bytes:
    length = torch.tensor([len(content)])
    torch.distributed.broadcast(length, 0)
    told = torch.zeros(int(length.item()), dtype=torch.uint8)
    if content:
        told = _tensor(np.frombuffer(content, np.uint8).copy())
    if len(told):
        torch.distributed.broadcast(told, 0)
    return bytes(_array(told))


def _copies(network: Any) -> Arrays:
    return {name: _array(value).copy() for name, value in network.state_dict().items()}


def _packed(network: Any, optimizer: Any) -> Arrays:
    arrays = {f"network.{name}": _array(value) for name, value in network.state_dict().items()}
    for place, moments in optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer.{place}.{name}": _array(torch.as_tensor(value)) for name, value in moments.items()}
    return arrays


def _bring(arrays: Arrays, network: Any, optimizer: Any) -> None:
    """To where `_packed` was called. Raises KeyError or ValueError before anything is changed."""
    weights = {name: _tensor(arrays[f"network.{name}"]) for name in network.state_dict()}
    moments: dict[int, dict[str, Any]] = {}
    for key in arrays:
        if key.startswith("optimizer."):
            _, place, name = key.split(".")
            moments.setdefault(int(place), {})[name] = _tensor(arrays[key])
    network.load_state_dict(weights)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def _tensor(array: npt.NDArray[Any]) -> Any:
    return torch.from_dlpack(array)


def _array(tensor: Any) -> npt.NDArray[Any]:
    return np.from_dlpack(tensor.detach().contiguous())
