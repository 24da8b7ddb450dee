"""Runs calls, several at once where that is right.

All calls that the event loop reads in one turn are one batch: the first schedules a flush behind the turn, and
no timer ever makes a lone call wait. A run that takes long goes to a thread; calls that arrive meanwhile are the
next batch. Strangers share a batch, so calls are checked before they get here, and a batch that fails is run
again call by call.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from holdfast_serving.inference import Call, Outputs, feeds
from holdfast_serving.metrics import ABANDONED, CLIENT_ERROR, FAILED, OK, Metrics
from holdfast_serving.problems import Problem, busy
from holdfast_serving.session import Model

log = logging.getLogger(__name__)

MAX_QUEUED = 1024
"""Calls that may wait; each connection has at most one."""

INLINE_SECONDS = 0.0005
"""Runs that take longer go to a thread: the hop costs about a tenth of this."""

TURN_SECONDS = 0.002
"""After this much work in a row the event loop gets its turn."""

BATCH_SECONDS = 0.05
"""A batch is not made larger than what runs in this time."""

MAX_BATCH_ROWS = 256


_NODE = re.compile(r"while running (\w+ node)")


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that a run takes: `base + per_row * rows`."""

    base: float
    per_row: float

    def rows_within(self, seconds: float) -> int:
        """How many rows run in this time, 1 to `MAX_BATCH_ROWS`."""
        if self.base + self.per_row * MAX_BATCH_ROWS <= seconds:
            return MAX_BATCH_ROWS
        return max(1, int((seconds - self.base) / self.per_row)) if self.per_row > 0 else 1


class Batcher:
    """The queue before one model, in one event loop."""

    def __init__(self, model: Model, metrics: Metrics, cost: Cost, *, joins: bool) -> None:
        """`joins`: whether calls may share a run; False runs them one by one."""
        self._model = model
        self._metrics = metrics
        self._cost = cost
        self._slowness = self._slowness_before = 1.0  # of late, and of the last run, against `cost`
        self._joins = joins
        self._max_rows = cost.rows_within(BATCH_SECONDS)
        self._uniform = all(-1 not in tensor.shape[1:] for tensor in model.signature.inputs)
        self._queue: deque[Call] = deque()
        self._queued_rows = 0
        self._working = False  # a flush is scheduled or a thread runs
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "inference")
        self._waited = False  # so long that clients may have left the queue
        self._quiet_until = 0.0

    def submit(self, call: Call) -> None:
        """Take a checked call; it is answered later. Raises Problem 503 when too many wait."""
        if len(self._queue) >= MAX_QUEUED:
            raise busy("too many requests are waiting; try again")
        self._metrics.in_flight += 1
        self._queue.append(call)
        self._queued_rows += call.rows
        if not self._working:
            self._working = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        turn_ends = 0.0
        while self._queue and (calls := self._take()):
            batch = _Batch(calls)
            turn_ends = turn_ends or batch.started + TURN_SECONDS
            if self._expect(batch) > INLINE_SECONDS:
                # On the CPU's clock: a thread that comes back from the runtime may wait for the loop.
                future = self._loop.run_in_executor(self._thread, self._run, batch, time.thread_time)
                future.add_done_callback(partial(self._finish, batch))
                return
            self._run(batch, time.perf_counter)
            self._reply(batch)
            if self._queue and time.perf_counter() > turn_ends:
                self._loop.call_soon(self._flush)
                return
        self._working = False

    def _finish(self, batch: _Batch, future: asyncio.Future[None]) -> None:
        """A thread is done: its answers, then at once the next batch."""
        future.result()
        self._reply(batch)
        self._waited = True
        self._flush()
        self._waited = False

    def _take(self) -> list[Call]:
        """The next calls to run together; empty when none waits."""
        queue = self._queue
        if self._joins and self._uniform and self._queued_rows <= self._max_rows and not self._waited:
            batch = list(queue)
            queue.clear()
            self._queued_rows = 0
            return batch
        batch = []
        rows, key = 0, None
        skipped: list[Call] = []
        while queue:
            call = queue.popleft()
            if call.gone:
                self._metrics.in_flight -= 1
                self._metrics.outcomes[ABANDONED] += 1
            elif not batch:
                batch.append(call)
                rows, key = call.rows, call.key
                if not self._joins:
                    break
            elif call.key == key and rows + call.rows <= self._max_rows:
                batch.append(call)
                rows += call.rows
            else:
                skipped.append(call)
                if rows >= self._max_rows:
                    break
        queue.extendleft(reversed(skipped))
        self._queued_rows = sum([call.rows for call in queue])
        return batch

    def _expect(self, batch: _Batch) -> float:
        """Seconds that a run is likely to take."""
        batch.expected = self._cost.base + self._cost.per_row * batch.rows
        return batch.expected * self._slowness

    def _run(self, batch: _Batch, clock: Callable[[], float]) -> None:
        """Run a batch; of one that fails, every call on its own. Called in any thread, but one at a time."""
        began = clock()
        try:
            batch.parts = [(batch.calls, self._outputs(batch.calls, batch.rows))]
        except Exception as error:
            alone = len(batch.calls) == 1
            batch.parts = [([call], error if alone else self._alone(call)) for call in batch.calls]
        batch.seconds = clock() - began

    def _alone(self, call: Call) -> Outputs | Exception:
        try:
            return self._outputs([call], call.rows)
        except Exception as error:
            return error

    def _outputs(self, calls: Sequence[Call], rows: int) -> Outputs:
        arrays = self._model.run(feeds(self._model.signature, calls))
        if self._joins:
            for array in arrays:
                if len(array) != rows:
                    raise RuntimeError(f"{rows} rows got another number of answers")
        return Outputs(arrays, self._joins)

    def _reply(self, batch: _Batch) -> None:
        metrics = self._metrics
        metrics.batch.observe(batch.rows)
        metrics.in_flight -= len(batch.calls)
        waited, took = metrics.queue.observe, metrics.duration.observe
        for calls, outputs in batch.parts:
            first = last = 0
            for call in calls:
                first, last = last, last + (call.rows if self._joins else 1)
                waited(batch.started - call.arrived)
                try:
                    if isinstance(outputs, Exception):
                        raise self._failure(outputs)
                    call.answer(outputs, first, last)
                except Exception as error:
                    self._fail(call, error)
                else:
                    metrics.outcomes[OK] += 1
                    took(time.perf_counter() - call.arrived)
        self._learn(min(batch.seconds / batch.expected, 1000.0))

    def _learn(self, slowness: float) -> None:
        """What was measured at load need not hold for every input: believe two slow runs, and forget them slowly.

        One alone may be the node's doing.
        """
        self._slowness = max(1.0, min(slowness, self._slowness_before), 0.9 * self._slowness)
        self._slowness_before = slowness

    def _fail(self, call: Call, error: Exception) -> None:
        if not isinstance(error, Problem):
            log.error("an answer could not be written", exc_info=error)
            error = Problem(500, "the server failed on this request")
        self._metrics.outcomes[FAILED if error.status >= 500 else CLIENT_ERROR] += 1
        try:
            call.fail(error)
        except Exception:  # whatever it is, the calls behind this one must get their answers
            log.exception("an error could not be sent")

    def _failure(self, error: Exception) -> Problem:
        now = time.perf_counter()
        if now >= self._quiet_until:  # whoever sends bad input shall not fill the log
            self._quiet_until = now + 10
            where = _NODE.search(str(error))  # the rest of the text can hold values
            log.warning(
                "the model failed on a request%s: %s (said at most every 10 s)",
                f" in node {where[1]}" if where else "",
                type(error).__name__,
            )
        return Problem(500, "the model failed on this request")


class _Batch:
    """Calls that run together.

    Attributes:
        started: time.perf_counter().
        expected: seconds of the run as measured at load.
        seconds: that it took.
        parts: calls with their common outputs, or with the error that they ended in.
    """

    __slots__ = ("calls", "expected", "parts", "rows", "seconds", "started")

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        self.rows = sum([call.rows for call in calls])
        self.started = time.perf_counter()
        self.expected = self.seconds = 0.0
        self.parts: list[tuple[list[Call], Outputs | Exception]] = []
