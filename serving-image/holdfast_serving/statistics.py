"""What the V2 statistics extension tells beyond the metrics: how many runs of which size, and how long they took."""

from __future__ import annotations

MAX_SIZES = 1000
"""Batch sizes that are told apart. A client chooses the size of its requests, and shall not fill the memory so."""


class Size:
    """Runs of one batch size.

    Attributes:
        runs: that succeeded.
        infer: seconds in the model, with the joining of inputs.
        output: seconds of writing answers.
    """

    __slots__ = ("infer", "output", "runs")

    def __init__(self) -> None:
        self.runs = 0
        self.infer = self.output = 0.0


class Statistics:
    """Of one revision, since the process began; all times in seconds.

    Attributes:
        rows: that were answered.
        runs, calls: runs that succeeded, and the calls in them.
        infer, output: of those calls, each with the time of the whole run that it was in.
        failures: calls that ended in an error.
        failed: from their last bytes to their errors.
        last: time.perf_counter() of the last run; 0 before the first.
        sizes: by rows of a run, the first `MAX_SIZES` that there were.
    """

    __slots__ = ("calls", "failed", "failures", "infer", "last", "output", "rows", "runs", "sizes")

    def __init__(self) -> None:
        self.rows = self.runs = self.calls = self.failures = 0
        self.infer = self.output = self.failed = self.last = 0.0
        self.sizes: dict[int, Size] = {}

    def count_run(self, rows: int, calls: int, infer: float, output: float) -> None:
        """Count a run of so many rows and calls that succeeded."""
        self.runs += 1
        self.calls += calls
        self.infer += infer * calls
        self.output += output * calls
        size = self.sizes.get(rows)
        if size is None:
            if len(self.sizes) == MAX_SIZES:
                return
            size = self.sizes[rows] = Size()
        size.runs += 1
        size.infer += infer
        size.output += output

    def count_failure(self, seconds: float) -> None:
        """Count a call that ended in an error."""
        self.failures += 1
        self.failed += seconds
