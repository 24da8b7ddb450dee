"""Golden requests that a pod draws of its own beside its users', where these are too few to tell anything."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Callable, Sequence

from holdfast_serving.golden import Kept
from holdfast_serving.inference import Call, Outputs, Proxy
from holdfast_serving.metrics import OWN
from holdfast_serving.problems import Problem

_MOST_BEHIND_SECONDS = 1.0  # what a busy loop has missed beyond this is left out


class Synthetic:
    """Hands golden requests, one after the other and over again, to `draw` at a steady rate."""

    def __init__(self, requests: Sequence[Kept], draw: Callable[[Call], None], seconds: float) -> None:
        """`seconds`: that each may take."""
        self._calls = itertools.cycle([kept.call for kept in requests])
        self._some = bool(requests)
        self._draw = draw
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._interval = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def draw(self, per_second: float) -> None:
        """From now on at this rate; 0 for none. Without golden requests nothing is drawn."""
        interval = 1 / per_second if per_second and self._some else 0.0
        if interval == self._interval:
            return  # a lease that is renewed must not begin the interval again
        self._interval = interval
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if interval:
            self._due = self._loop.time() + random.random() * interval  # noqa: S311 - pods shall not keep step
            self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self._due = max(self._due + self._interval, self._loop.time() - _MOST_BEHIND_SECONDS)
        self._timer = self._loop.call_at(self._due, self._tick)
        with contextlib.suppress(Problem):  # it is counted in its arm
            self._draw(_Own(next(self._calls), self._seconds))


class _Own(Proxy):
    """A request that nobody waits for."""

    __slots__ = ()

    def __init__(self, call: Call, seconds: float) -> None:
        super().__init__(call)
        self.protocol = OWN
        self.arrived = time.perf_counter()
        self.deadline = self.arrived + seconds

    @property
    def gone(self) -> bool:
        return False

    def answer(self, outputs: Outputs, first: int, last: int) -> None: ...

    def fail(self, problem: Problem) -> None: ...
