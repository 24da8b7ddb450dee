"""The processes that train one network together: how they meet, each with the same rows, and how they part.

They meet at the leader's TCPStore of PyTorch, and become its default process group (gloo). No pickles are exchanged:
whoever reaches the port can spoil a training, but run nothing. One that loses another ends, with an exit code that uses
up no attempt, and is started again with it; what they had learned is in the leader's checkpoint.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from holdfast_training.errors import TrainingError
from holdfast_training.progress import Progress

MEET_SECONDS = 1800
"""How long a worker waits for the others."""
SILENCE_SECONDS = 300
"""After which one that neither answers nor is gone counts as lost."""

_LOOK_SECONDS = 0.5
_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 20
_CALLED, _ROLL, _PRESENT, _ALL, _OVER = "called", "roll", "present", "all", "over"


class Team:
    """`size` workers, of which this is number `worker`, and 0 leads. One alone has nobody to meet.

    As a context, it ends with the group dissolved, and with TrainingError `WorkerLost` when that was why.
    """

    def __init__(
        self,
        size: int,
        worker: int,
        leader: tuple[str, int] | None,
        *,
        is_over: Callable[[], bool],
        progress: Progress,
    ) -> None:
        """leader: its host and port; only None for one alone. is_over: whether the run has published."""
        if size > 1 and leader is None:
            raise ValueError("workers that do not know their leader cannot meet")
        self.size, self.worker = size, worker
        self._host, self._port = leader or ("", 0)
        self._is_over, self._progress = is_over, progress
        self._store: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is None:
            return
        self._part()
        if isinstance(error, RuntimeError) and "gloo" in str(error):  # there is no class of its own for it
            raise self._lost() from error

    def meet(self, read: str) -> bool:
        """Wait until all workers are there, and have `read` the same; False: the run is over.

        Raises:
            TrainingError: `DataUnreachable` when another has read something else; `WorkersMissing`.
        """
        if self.size == 1:
            return True
        deadline = time.monotonic() + MEET_SECONDS
        while True:
            try:
                if self._has_met(read, deadline):
                    return True
            except RuntimeError:  # of the store and of gloo: one of them has gone again
                self._part()
            if time.monotonic() > deadline:
                if self._is_over():
                    return False
                raise self._missing()
            time.sleep(_LOOK_SECONDS)

    def dismiss(self) -> None:
        """The leader has published: the others may end."""
        if self._store is not None:
            self._store.add(_OVER, 1)

    def await_dismissal(self) -> None:
        """Wait for what the leader does alone. One that ended before it would not be there for another attempt.

        Raises:
            TrainingError: `WorkerLost`.
        """
        self._progress.say("waiting for the first worker, which measures and publishes")
        try:
            while not self._store.add(_OVER, 0):
                time.sleep(_LOOK_SECONDS)
        except RuntimeError as error:
            if not self._is_over():
                raise self._lost() from error

    def _has_met(self, read: str, deadline: float) -> bool:
        import torch.distributed as together

        token = f"{os.urandom(8).hex()} {read}"
        store = self._call_the_roll(token, deadline) if self.worker == 0 else self._answer_the_roll(token, deadline)
        if store is None:
            return False
        group = together.PrefixStore("group", store)
        silence = timedelta(seconds=SILENCE_SECONDS)
        together.init_process_group("gloo", store=group, rank=self.worker, world_size=self.size, timeout=silence)
        self._store = store
        return True

    def _call_the_roll(self, token: str, deadline: float) -> Any:
        """The store, when all others are there; None when they did not come in time."""
        store = self._opened(leads=True)
        others = range(1, self.size)
        while missing := [worker for worker in others if not store.add(_here(worker), 0)]:
            there = self.size - len(missing)
            self._progress.say(f"waiting for the other workers: {there} of {self.size} are there")
            if time.monotonic() > deadline:
                return None
            time.sleep(_LOOK_SECONDS)
        tokens = [token, *(store.get(_token(worker)).decode() for worker in others)]
        store.set(_ROLL, "\n".join(tokens))
        store.add(_CALLED, 1)
        _, _, own = token.partition(" ")
        for worker, each in enumerate(tokens):
            if each.partition(" ")[2] != own:
                message = f"worker {worker} has read other rows than worker 0: the data must not change meanwhile"
                raise TrainingError("DataUnreachable", message)
        # One that was there may have gone since, and another come in its place: then all meet anew, at a new store.
        if not _soon(lambda: store.add(_PRESENT, 0) == len(others)):
            return None
        store.add(_ALL, 1)
        return store

    def _answer_the_roll(self, token: str, deadline: float) -> Any:
        """The store, when the leader has called this worker; None when it does not answer, or has called one that was
        here before."""
        self._progress.say("waiting for the first worker")
        try:
            socket.create_connection((self._host, self._port), _CONNECT_SECONDS).close()
        except OSError:
            return None
        store = self._opened(leads=False)
        store.set(_token(self.worker), token)
        store.add(_here(self.worker), 1)
        while not store.add(_CALLED, 0):
            if time.monotonic() > deadline:
                return None
            time.sleep(_LOOK_SECONDS)
        if token not in store.get(_ROLL).decode().split("\n"):
            return None
        store.add(_PRESENT, 1)
        return store if _soon(lambda: store.add(_ALL, 0) == 1, 2 * _ANSWER_SECONDS) else None

    def _opened(self, *, leads: bool) -> Any:
        import torch.distributed as together

        host, patience = "localhost" if leads else self._host, timedelta(seconds=_CONNECT_SECONDS)
        return together.TCPStore(host, self._port, self.size, leads, timeout=patience, wait_for_workers=False)

    def _part(self) -> None:
        import torch.distributed as together

        self._store = None
        if together.is_initialized():
            together.destroy_process_group()

    def _lost(self) -> TrainingError:
        message = (
            f"another of the {self.size} workers was lost; all begin again, from the last checkpoint if there is one"
        )
        return TrainingError("WorkerLost", message)

    def _missing(self) -> TrainingError:
        message = (
            f"worker {self.worker} has waited {MEET_SECONDS // 60} minutes for the other {self.size - 1}: is there room"
            f" for all of their pods, and may these reach port {self._port} of each other?"
        )
        return TrainingError("WorkersMissing", message)


def _soon(holds: Callable[[], bool], seconds: float = _ANSWER_SECONDS) -> bool:
    """Whether it comes to hold within so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _here(worker: int) -> str:
    return f"here-{worker}"


def _token(worker: int) -> str:
    return f"token-{worker}"
