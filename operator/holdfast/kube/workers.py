"""The workers: take a key, make a pass, say when it is due again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from pydantic import ValidationError

from holdfast.kube import errors, metrics
from holdfast.kube.kinds import Key
from holdfast.kube.queue import ShutDown, WorkQueue
from holdfast.kube.reconcile import Outcome

PASS_SECONDS = 120.0
"""More than any pass needs: every request in it has a timeout of its own."""
log = logging.getLogger(__name__)


class Pass(Protocol):
    """A pass over one custom resource."""

    async def __call__(self, key: Key) -> Outcome: ...


class Workers:
    """A fixed number of tasks around one queue."""

    def __init__(self, queue: WorkQueue[Key], make_pass: Callable[[Key], Awaitable[Outcome]], number: int) -> None:
        self._queue = queue
        self._pass = make_pass
        self._number = number
        self._tasks: list[asyncio.Task[None]] = []
        self._busy_since: dict[int, float] = {}

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._work(number), name=f"worker {number}") for number in range(self._number)
        ]

    @property
    def alive(self) -> int:
        """How many still take keys."""
        return sum(not task.done() for task in self._tasks)

    @property
    def longest_pass(self) -> float:
        """Seconds for which the slowest pass that is under way has gone on."""
        now = asyncio.get_running_loop().time()
        return max((now - since for since in self._busy_since.values()), default=0.0)

    async def stop(self, seconds: float) -> None:
        """Let passes that are under way end, for at most `seconds`, and start no other."""
        self._queue.shut_down()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)

    async def _work(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                key = await self._queue.get()
            except ShutDown:
                return
            self._busy_since[number] = loop.time()
            try:
                with metrics.RECONCILES.labels(key.kind).time():
                    await self._one(key)
            finally:
                del self._busy_since[number]
                self._queue.done(key)

    async def _one(self, key: Key) -> None:
        try:
            async with asyncio.timeout(PASS_SECONDS):
                outcome = await self._pass(key)
        except errors.NotLeading:
            self._queue.add_after(key, 1.0)  # the process is about to end, or to lead
        except errors.ApiError as error:
            self._failed(key, error, error.retry_after)
        except ValidationError as error:
            # Its text would hold what the user wrote; where it is wrong says enough.
            places = [".".join(map(str, each["loc"])) for each in error.errors(include_url=False, include_input=False)]
            fields = {"object": str(key), "fields": places}
            log.error("the object cannot be read: is its CRD newer than this operator?", extra={"fields": fields})
            self._failed(key, errors.ApiError("the object cannot be read"))
        except Exception as error:  # a bug: the others must go on
            log.exception("a pass failed", extra={"fields": {"object": str(key)}})
            self._failed(key, error)
        else:
            for other in outcome.concerned:
                self._queue.add(other)
            if outcome.refused:
                self._queue.retry(key)
                return
            self._queue.forget(key)
            if outcome.requeue_after is not None:
                self._queue.add_after(key, outcome.requeue_after)

    def _failed(self, key: Key, error: Exception, at_least: float = 0.0) -> None:
        metrics.RECONCILE_ERRORS.labels(key.kind, type(error).__name__).inc()
        delay = self._queue.retry(key, at_least)
        fields = {"object": str(key), "failures": self._queue.failures(key), "next": f"{delay:.1f} s"}
        log.warning("%s", str(error) or type(error).__name__, extra={"fields": fields})
