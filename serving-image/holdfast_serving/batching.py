"""Runs calls, several at once where that is right.

All calls that the event loop reads in one turn are one batch: the first schedules a flush behind the turn, and
no timer ever makes a lone call wait. A run that takes long goes to a thread; calls that arrive when no thread is
left are the next batch. Strangers share a batch, so calls are checked before they get here, and a batch that fails
is run again call by call.

Every call has a deadline. One that the queue cannot answer in time is refused when it comes, which costs next to
nothing; one whose time is up when its turn comes is not run; and a batch grows no larger than what its most urgent
call can wait for. So under any load the model works on answers that somebody still wants.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from holdfast_bundle.manifest import Tensor
from holdfast_serving.cost import Cost, Forecast
from holdfast_serving.inference import Call, Outputs, feeds
from holdfast_serving.metrics import ABANDONED, OWN, Metrics, outcome_of
from holdfast_serving.problems import Problem, busy
from holdfast_serving.session import Model
from holdfast_serving.signature import NUMPY

if TYPE_CHECKING:
    from holdfast_serving.drift import Drift

log = logging.getLogger(__name__)

MAX_QUEUED = 4096
"""Calls that may wait, whatever their deadlines: the queue's share of memory."""

MAX_QUEUED_BYTES = 128 << 20
"""That the inputs of waiting calls may take: JSON grows when it is read."""

INLINE_SECONDS = 0.0005
"""Runs that take longer go to a thread: the hop costs about a tenth of this."""

TURN_SECONDS = 0.002
"""After this much work in a row the event loop gets its turn."""

BATCH_SECONDS = 0.05
"""A batch is not made larger than what runs in this time, where nobody says how large."""

PATIENCE, LEAST_PATIENCE = 0.8, 0.3
"""Share of a call's time that its wait may take by the forecast, which can be wrong. Where calls come too late all the
same, as on a node whose CPU comes and goes, it shrinks, and it grows again with every batch in time."""

_NEVER = math.inf
_TEXT_BYTES = 64  # an object of its own; the characters count with the body
_WATCH_SECONDS = 0.5
_NODE = re.compile(r"while running (\w+ node)")


class Batcher:
    """The queue before one model, in one event loop."""

    def __init__(
        self,
        model: Model,
        metrics: Metrics,
        cost: Cost,
        *,
        joins: bool,
        runs: int = 1,
        max_rows: int | None = None,
        queued_bytes: int | None = None,
        drift: Drift | None = None,
        most_seconds: float = math.inf,
    ) -> None:
        """Give `cost` as measured.

        Args:
            joins: whether calls may share a run; False runs them one by one.
            runs: that may go on at the same time.
            max_rows: of a batch of several calls; None for what runs in `BATCH_SECONDS`.
            queued_bytes: that the inputs of waiting calls may take; None for `MAX_QUEUED_BYTES`.
            drift: counts the rows of all runs.
            most_seconds: that a run may take before it is stopped.
        """
        self._signature = model.signature
        self._workers = [_Worker(model), *(_Worker(model.twin()) for _ in range(runs - 1))]
        self._idle = list(self._workers)
        self._metrics = metrics
        self._drift = drift
        self._joins = joins
        self._max_rows = max_rows or cost.rows_within(BATCH_SECONDS)
        self._forecast = Forecast(cost)
        self._uniform = all(-1 not in tensor.shape[1:] for tensor in model.signature.inputs)
        row_bytes = sum(map(_row_bytes, model.signature.inputs))
        self._most_queued_bytes = queued_bytes or MAX_QUEUED_BYTES
        self._most_queued_rows = self._most_queued_bytes // row_bytes if self._uniform else _NEVER
        self._queue: deque[Call] = deque()
        self._queued_rows = 0
        self._queued_bytes = 0  # where rows are of different sizes
        self._earliest = _NEVER  # no call in the queue has a deadline before this
        self._scheduled = False  # a flush is
        self._patience = PATIENCE
        self._late = False  # since the last batch, a call was dropped at its turn
        self._ample = self._enough()
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(runs, "inference")
        if most_seconds < _NEVER:
            threading.Thread(target=_watch, args=(weakref.ref(self), most_seconds), daemon=True).start()
        self._waited = False  # so long that clients may have left the queue
        self._quiet_until = 0.0

    @property
    def max_rows(self) -> int:
        """Rows of several calls in one run."""
        return self._max_rows

    def oldest_seconds(self) -> float:
        """Since when the oldest call that is here has been in this server; 0 when there is none."""
        running = [worker.calls for worker in self._workers]
        arrived = [call.arrived for calls in (*running, self._queue) for call in calls]
        return time.perf_counter() - min(arrived) if arrived else 0.0

    def admit(self, seconds: float, rows: int = 1) -> None:
        """Raises Problem 503 if a call with so much time would have to wait too long.

        Protocols ask before they take a request apart: to refuse it then costs next to nothing.
        """
        if self._idle and not self._scheduled:
            return  # a lone call is tried in any case, or a wrong forecast could never be put right
        if seconds > self._ample and self._idle and self._queued_rows + rows <= self._max_rows:
            return  # the usual case, without a forecast
        runs = len(self._workers)
        share = max(rows, -(-(self._queued_rows + rows) // runs))  # of what waits, for one worker
        wait = self._forecast.queue(share, -(-share // self._max_rows) if self._joins else len(self._queue) // runs + 1)
        if not self._idle:
            # A run that is overdue may well take as long again.
            now = time.perf_counter()
            wait += min([abs(worker.free_at - now) for worker in self._workers])
        if wait > self._patience * seconds or len(self._queue) >= MAX_QUEUED:
            raise busy("more requests are waiting than can be answered in time; try again", wait)

    def _enough(self) -> float:
        """Seconds that are enough for a call behind which at most `_max_rows` wait, and no run."""
        return self._forecast.queue(self._max_rows, 1 if self._joins else self._max_rows) / self._patience

    def submit(self, call: Call) -> None:
        """Take a checked call; it is answered later. Raises Problem 503 as `admit` does."""
        self.admit(call.deadline - time.perf_counter(), call.rows)
        if self._queued_rows + call.rows > self._most_queued_rows and self._queue:
            raise _full()
        if not self._uniform:
            size = _size(call)
            if self._queued_bytes + size > self._most_queued_bytes and self._queue:
                raise _full()
            self._queued_bytes += size
        if self._idle and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        self._metrics.in_flight += 1
        self._queue.append(call)
        self._queued_rows += call.rows
        if call.deadline < self._earliest:
            self._earliest = call.deadline

    def _flush(self) -> None:
        turn_ends = 0.0
        while self._queue and self._idle and (calls := self._take()):
            batch = _Batch(calls, self._idle[-1])
            turn_ends = turn_ends or batch.started + TURN_SECONDS
            if self._forecast.run(batch.rows) > INLINE_SECONDS:
                self._idle.pop()
                batch.worker.calls = batch.calls
                batch.worker.free_at = batch.started + self._forecast.batch(batch.rows)
                # On the CPU's clock: a thread that comes back from the runtime may wait for the loop.
                future = self._loop.run_in_executor(self._threads, self._run, batch, time.thread_time)
                future.add_done_callback(partial(self._finish, batch))
                continue
            self._run(batch, time.perf_counter)
            self._reply(batch)
            if self._queue and time.perf_counter() > turn_ends:
                self._loop.call_soon(self._flush)
                return
        self._scheduled = False

    def _finish(self, batch: _Batch, future: asyncio.Future[None]) -> None:
        """A thread is done: its answers, then at once the next batch."""
        future.result()
        batch.worker.calls = ()
        self._idle.append(batch.worker)
        self._reply(batch)
        self._waited = True
        self._flush()
        self._waited = False

    def _take(self) -> list[Call]:
        """The next calls to run together; empty when none is left."""
        queue, most = self._queue, self._max_rows
        idle = len(self._idle)
        if idle > 1 and self._forecast.run(self._queued_rows) > INLINE_SECONDS:
            most = min(most, -(-self._queued_rows // idle))  # each of them gets its share
        now = time.perf_counter()
        if (
            self._joins
            and self._uniform
            and self._queued_rows <= most
            and now + self._forecast.batch(self._queued_rows) <= self._earliest
            and not self._waited
        ):
            batch = list(queue)
            queue.clear()
        else:
            batch = self._choose(now, most)
            self._queued_rows -= sum([call.rows for call in batch])
            if not self._uniform:
                self._queued_bytes -= sum(map(_size, batch))
        if not queue:
            self._queued_rows = self._queued_bytes = 0
            self._earliest = _NEVER
        return batch

    def _choose(self, now: float, most: int) -> list[Call]:
        """Take calls of at most so many rows that fit together out of the queue, and those that nobody waits for."""
        queue, forecast = self._queue, self._forecast
        batch: list[Call] = []
        skipped: list[Call] = []
        rows, key, earliest = 0, None, _NEVER
        while queue:
            call = queue.popleft()
            if call.gone:
                self._drop(call)
            elif call.deadline < now or (
                # It cannot be answered in time, and somebody else can.
                (queue or batch or skipped) and now + forecast.batch(call.rows) > call.deadline
            ):
                self._drop(call, Problem(504, "the request waited longer than it may; it was not tried"))
            elif not batch:
                batch.append(call)
                rows, key, earliest = call.rows, call.key, call.deadline
                if not self._joins:
                    break
            elif (
                call.key == key
                and rows + call.rows <= most
                and now + forecast.batch(rows + call.rows) <= min(earliest, call.deadline)
            ):
                batch.append(call)
                rows += call.rows
                earliest = min(earliest, call.deadline)
            else:
                skipped.append(call)
                if self._uniform or rows >= most:
                    break
        queue.extendleft(reversed(skipped))
        return batch

    def _drop(self, call: Call, problem: Problem | None = None) -> None:
        """Leave a call of the queue alone; without a problem its client has gone."""
        self._queued_rows -= call.rows
        if not self._uniform:
            self._queued_bytes -= _size(call)
        self._metrics.in_flight -= 1
        if problem is None:
            self._metrics.requests[call.protocol].outcomes[ABANDONED] += 1
        else:
            self._late = True
            self._fail(call, problem)

    def _run(self, batch: _Batch, clock: Callable[[], float]) -> None:
        """Run a batch; of one that fails, every call on its own. In any thread, but one at a time for a worker."""
        began = clock()
        worker = batch.worker
        worker.run_began = batch.started
        try:
            batch.parts = [(batch.calls, self._outputs(worker.model, batch.calls, batch.rows))]
        except TimeoutError as error:
            batch.parts = [(batch.calls, error)]
        except Exception as error:
            alone = len(batch.calls) == 1
            batch.parts = [([call], error if alone else self._alone(worker.model, call)) for call in batch.calls]
        worker.run_began = _NEVER
        batch.seconds = clock() - began

    def _alone(self, model: Model, call: Call) -> Outputs | Exception:
        try:
            return self._outputs(model, [call], call.rows)
        except Exception as error:
            return error

    def _outputs(self, model: Model, calls: Sequence[Call], rows: int) -> Outputs:
        given = feeds(self._signature, calls)
        arrays = model.run(given)
        if self._joins:
            for array in arrays:
                if len(array) != rows:
                    raise RuntimeError(f"{rows} rows got another number of answers")
        outputs = Outputs(arrays, self._joins)
        outputs.inputs = given
        return outputs

    def _reply(self, batch: _Batch) -> None:
        began = time.perf_counter()
        metrics = self._metrics
        statistics = metrics.statistics
        metrics.batch.observe(batch.rows)
        metrics.in_flight -= len(batch.calls)
        answered = 0
        took: list[list[float]] = [[] for _ in metrics.requests]
        late = [0 for _ in metrics.requests]
        for calls, outputs in batch.parts:
            first = last = 0
            for call in calls:
                first, last = last, last + (call.rows if self._joins else 1)
                try:
                    if isinstance(outputs, Exception):
                        raise self._failure(outputs)
                    call.answer(outputs, first, last)
                except Exception as error:
                    self._fail(call, error)
                else:
                    answered += call.rows
                    now = time.perf_counter()
                    took[call.protocol].append(now - call.arrived)
                    if now > call.deadline:
                        late[call.protocol] += 1
        for requests, seconds, missed in zip(metrics.requests, took, late, strict=True):
            if seconds:
                requests.answered(seconds, missed)
        statistics.rows += answered
        metrics.queue.observe_all([batch.started - call.arrived for call in batch.calls])
        statistics.last = ended = time.perf_counter()
        self._forecast.learn(batch.rows, batch.seconds, ended - batch.started)
        if self._late or ended > batch.calls[0].deadline:
            self._patience = max(LEAST_PATIENCE, 0.9 * self._patience)
            self._late = False
        elif self._patience < PATIENCE:
            self._patience = min(PATIENCE, self._patience + 0.005)
        self._ample = self._enough()
        share = 1 / len(batch.parts)
        for calls, outputs in batch.parts:
            if not isinstance(outputs, Exception):
                rows = batch.rows if len(batch.parts) == 1 else calls[0].rows
                statistics.count_run(rows, len(calls), share * batch.seconds, share * (ended - began))
                if self._drift is not None:
                    for theirs in self._of_users(calls, outputs) if took[OWN] else (outputs,):
                        self._note(theirs, self._drift)

    def _of_users(self, calls: Sequence[Call], outputs: Outputs) -> Iterator[Outputs]:
        """A run without the rows of the pod's own requests."""
        if len(calls) == 1:
            if calls[0].protocol != OWN:
                yield outputs
            return
        first = last = 0
        for call in calls:
            first, last = last, last + call.rows
            if call.protocol != OWN:
                part = Outputs([array[first:last] for array in outputs.arrays], outputs.has_rows)
                part.inputs = {name: array[first:last] for name, array in outputs.inputs.items()}
                yield part

    def _note(self, outputs: Outputs, drift: Drift) -> None:
        """Have a run's rows counted, once their answers are on their way."""
        if not drift.record(outputs.inputs, outputs.arrays):
            return
        if drift.is_large:
            self._threads.submit(drift.count, drift.take())
        else:
            drift.count(drift.take())

    def _fail(self, call: Call, error: Exception) -> None:
        if not isinstance(error, Problem):
            log.error("an answer could not be written", exc_info=error)
            error = Problem(500, "the server failed on this request")
        self._metrics.requests[call.protocol].outcomes[outcome_of(error)] += 1
        self._metrics.statistics.count_failure(time.perf_counter() - call.arrived)
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
        if isinstance(error, TimeoutError):
            return Problem(504, "the model took much longer than a request may, and was stopped")
        return Problem(500, "the model failed on this request")


def _full() -> Problem:
    return busy("the requests that wait are too large for one more; try again")


def _row_bytes(tensor: Tensor) -> int:
    """Of an input, as it waits."""
    return math.prod(tensor.shape[1:]) * (
        _TEXT_BYTES if tensor.datatype == "BYTES" else NUMPY[tensor.datatype].itemsize
    )


def _size(call: Call) -> int:
    """Bytes of a call's inputs, as it waits."""
    return sum([_TEXT_BYTES * len(data) if isinstance(data, list) else memoryview(data).nbytes for data in call.inputs])


def _watch(batcher: weakref.ref[Batcher], seconds: float) -> None:
    """Stop runs that take longer; in a thread, for the event loop may be in such a run itself."""
    while (watched := batcher()) is not None:
        now = time.perf_counter()
        for worker in watched._workers:
            if now - worker.run_began > seconds:
                worker.model.stop()
        del watched
        time.sleep(_WATCH_SECONDS)


class _Worker:
    """Runs one batch at a time.

    Attributes:
        calls: that its thread has.
        run_began: time.perf_counter() of the run that is under way.
        free_at: when the thread that it has is likely to be done.
    """

    __slots__ = ("calls", "free_at", "model", "run_began")

    def __init__(self, model: Model) -> None:
        self.model = model
        self.calls: Sequence[Call] = ()
        self.run_began = _NEVER
        self.free_at = 0.0


class _Batch:
    """Calls that run together.

    Attributes:
        worker: that runs them.
        started: time.perf_counter().
        seconds: that the run took.
        parts: calls with their common outputs, or with the error that they ended in.
    """

    __slots__ = ("calls", "parts", "rows", "seconds", "started", "worker")

    def __init__(self, calls: list[Call], worker: _Worker) -> None:
        self.calls = calls
        self.worker = worker
        self.rows = sum([call.rows for call in calls])
        self.started = time.perf_counter()
        self.seconds = 0.0
        self.parts: list[tuple[list[Call], Outputs | Exception]] = []
