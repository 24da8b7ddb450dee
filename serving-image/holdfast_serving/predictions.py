"""What one arm of the router predicted, by the bins of this revision's profile: both arms are held to the same."""

from __future__ import annotations

import logging

from holdfast_serving.drift import table, tally
from holdfast_serving.inference import Array, Outputs
from holdfast_serving.profile import Prediction

log = logging.getLogger(__name__)

_ENOUGH = 512  # answers: then counting them costs little for each


class Predictions:
    """Exact counts. Answers are noted one by one and counted many at a time."""

    __slots__ = ("_bins", "_broken", "_counts", "_noted", "_output")

    def __init__(self, prediction: Prediction) -> None:
        self._output = prediction.output
        self._bins = prediction.bins
        self._counts = tally(prediction.bins)
        self._noted: list[Array] = []
        self._broken = False

    def note(self, outputs: Outputs, first: int, last: int) -> None:
        """Take note of an answer's rows, `first` to `last` (not included)."""
        array = outputs.arrays[self._output]
        self._noted.append(array[first:last].copy() if outputs.has_rows else array)
        if len(self._noted) >= _ENOUGH:
            self._count()

    def document(self) -> dict[str, int]:
        """Rows by bin."""
        self._count()
        return dict(zip(self._bins.names, self._counts.counts(0), strict=True))

    def _count(self) -> None:
        noted, self._noted = self._noted, []
        if not noted or self._broken:
            return
        try:
            self._counts.add(table(noted).reshape(1, -1))
        except Exception:  # whatever it is, requests are worth more than their statistics
            self._broken = True
            log.exception("predictions are not counted any more")
