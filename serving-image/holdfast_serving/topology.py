"""How a model uses several CPUs, found out by trying: more processes, threads for each run, or runs side by side.

With a small model the protocol is what takes time, and one process speaks it on one CPU. Otherwise, threads make a lone
request fast, if the model's operators can use them; runs side by side answer more requests, if they do not keep each
other from memory. Which of the two it is lies in the model, and in the machine.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from holdfast_serving import session
from holdfast_serving.batching import INLINE_SECONDS
from holdfast_serving.inference import Array
from holdfast_serving.session import Model

log = logging.getLogger(__name__)

LARGE_BYTES = 32 << 20
"""A file of more is loaded only once, with a thread for each CPU."""

WORTH = 1.2
"""Times as much that runs side by side must answer."""

_THREADS_WORTH = 0.75  # of what runs side by side answer: then threads are better, for they serve lone requests, too
_SHARE = 0.6  # of the container's memory that processes may take before the first request
_BUDGET_SECONDS = 0.3
_LEAST_SECONDS = 0.04  # of a trial
_LONG_SECONDS = 0.05  # a run that leaves no time for a trial


@dataclass(frozen=True, slots=True)
class Topology:
    """Who works at the same time.

    Attributes:
        threads: of one run.
        runs: at the same time, in one process.
        processes: of the pod.
    """

    threads: int = 1
    runs: int = 1
    processes: int = 1


def affordable(processes: int, limit: int | None) -> int:
    """Of so many processes like this one, those that fit into the container's memory with room for requests.

    Args:
        limit: bytes; None for no limit.
    """
    if limit is None:
        return processes
    return max(1, min(processes, int(_SHARE * limit) // _memory()))


def _memory() -> int:
    """Bytes that this process takes; what others share with it is counted in part."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("the kernel does not tell how much memory a process takes")


def threads_to_begin_with(file: Path, cpus: int) -> int:
    """Of the session that the model is tried in."""
    return cpus if file.stat().st_size > LARGE_BYTES else 1


def choose(model: Model, file: Path, row: Mapping[str, Array], seconds: float, cpus: int) -> tuple[Model, Topology]:
    """The model in the session that is best for it, and how to run it.

    Args:
        model: in a session with `threads_to_begin_with`.
        row: that it can work on.
        seconds: that this takes.
        cpus: at least 2.
    """
    began = time.perf_counter()
    threads = threads_to_begin_with(file, cpus)
    if seconds < INLINE_SECONDS and threads == 1:
        return model, Topology(processes=cpus)  # what takes time is the protocol, and that is Python's
    if seconds > _LONG_SECONDS or seconds < INLINE_SECONDS:
        return _with_threads(model, file, threads, cpus), Topology(cpus)
    trial = max(_LEAST_SECONDS, 1.5 * seconds)
    single, parallel = _rate(model, row, 1, trial), _rate(model, row, cpus, trial)
    pays = parallel > WORTH * single
    if threads == cpus or time.perf_counter() - began > _BUDGET_SECONDS - 2 * trial:
        return model, Topology(threads, cpus if pays else 1)
    threaded = _with_threads(model, file, threads, cpus)
    wide = _rate(threaded, row, 1, trial)
    log.info("runs per second: %.0f alone, %.0f side by side, %.0f with %d threads", single, parallel, wide, cpus)
    if pays and wide < _THREADS_WORTH * parallel:
        return model, Topology(1, cpus)
    # The threads cost nothing while they wait, and larger batches may have use for them.
    return threaded, Topology(cpus)


def _with_threads(model: Model, file: Path, threads: int, wanted: int) -> Model:
    if threads == wanted:
        return model
    made = session.load(file, wanted)
    made.signature = model.signature
    return made


def _rate(model: Model, row: Mapping[str, Array], callers: int, seconds: float) -> float:
    """Runs per second of so many callers at once; what has not ended when the time is up is stopped."""
    twins = [model.twin() for _ in range(callers)]
    began = time.perf_counter()
    ends = began + seconds

    def call(twin: Model) -> float:
        """Runs per second of one caller."""
        runs, last = 0, began
        while last < ends:
            try:
                twin.run(row)
            except TimeoutError:
                break
            runs, last = runs + 1, time.perf_counter()
        return runs / (last - began) if runs else 0.0

    def stop() -> None:
        for twin in twins:
            twin.stop()

    stopper = threading.Timer(1.5 * seconds, stop)
    stopper.start()
    try:
        with ThreadPoolExecutor(callers) as pool:
            return sum(pool.map(call, twins))
    finally:
        stopper.cancel()
