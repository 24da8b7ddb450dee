"""How long runs take, and so how long a queue."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BATCH_ROWS = 256
"""Of a batch, where nobody says otherwise: more rows do not make a row cheaper."""

_WEIGHT = 0.1  # of one batch in what is known about all
_LARGEST_JUMP = 4  # that one batch may claim: it may be the node's doing


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


class Forecast:
    """What was measured at load, corrected by what is seen: that need not hold for every input.

    There are two corrections. One is for the time that the model itself needs: it trusts nothing, since it keeps slow
    runs off the event loop. The other is for the time from the start of a batch to its last answer, waits for a
    thread, for the loop and for other programs included: it follows the mean, since queues are made of many batches.
    """

    def __init__(self, cost: Cost) -> None:
        self._base = cost.base
        self._per_row = cost.per_row
        self._slowness = self._slowness_before = 1.0
        self._pace = 1.0

    def run(self, rows: int) -> float:
        """Seconds that the model is likely to need."""
        return (self._base + self._per_row * rows) * self._slowness

    def batch(self, rows: int) -> float:
        """Seconds from the start of a batch to its last answer."""
        return (self._base + self._per_row * rows) * self._pace

    def queue(self, rows: int, batches: int) -> float:
        """Seconds from the start of the first of so many batches to the last answer."""
        return (batches * self._base + self._per_row * rows) * self._pace

    def learn(self, rows: int, run: float, batch: float) -> None:
        """So long did a batch of so many rows take, in the model and altogether."""
        measured = self._base + self._per_row * rows
        # Believe two slow runs, and forget them slowly.
        slowness = min(run / measured, 1000.0)
        self._slowness = max(1.0, min(slowness, self._slowness_before), 0.9 * self._slowness)
        self._slowness_before = slowness
        self._pace += _WEIGHT * (min(batch / measured, _LARGEST_JUMP * self._pace) - self._pace)
