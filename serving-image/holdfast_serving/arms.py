"""What became of the requests that the router drew, by arm.

One process draws and counts both arms, so that they have the same clients and the same minutes, and one look gives
both at one instant. A revision that has just become ready is slow in ways that say nothing about it: what is drawn
then is counted apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast_serving.metrics import LATENCY_EDGES, Histogram

if TYPE_CHECKING:  # numpy is imported with the model
    from holdfast_serving.inference import Outputs
    from holdfast_serving.predictions import Predictions
    from holdfast_serving.shadow import Comparison

OUTCOMES = (
    "ok", "client_error", "rejected", "failed", "timeout", "connect", "reset", "invalid", "refused", "saturated",
)  # fmt: skip
"""How a drawn request ended in its arm.

ok: answered. client_error: its own fault, 4xx. rejected: 503. failed: another 5xx. timeout: not in time. Of the target
alone, whose requests were then answered by the local model: connect: no connection; reset: the connection broke;
invalid: an answer that is none; refused: 4xx for a request that is in order; saturated: not sent, since too many are
without an answer.
"""

OK, CLIENT_ERROR, REJECTED, FAILED, TIMEOUT, CONNECT, RESET, INVALID, REFUSED, SATURATED = range(len(OUTCOMES))

LOCAL, TARGET = "local", "target"


class Arm:
    """One arm in one phase.

    Attributes:
        drawn: requests.
        outcomes: of those that have ended, by index in `OUTCOMES`.
        duration: seconds in the server that answered, from a request's last byte; answered requests only.
        predictions: of the rows in these answers; None without a profile that tells their bins.
    """

    __slots__ = ("drawn", "duration", "outcomes", "predictions")

    def __init__(self, predictions: Predictions | None) -> None:
        self.drawn = 0
        self.outcomes = [0] * len(OUTCOMES)
        self.duration = Histogram(LATENCY_EDGES)
        self.predictions = predictions

    def answered(self, seconds: float, outputs: Outputs, first: int, last: int) -> None:
        """Count an answer: rows `first` to `last` (not included) of `outputs`."""
        self.outcomes[OK] += 1
        self.duration.observe(seconds)
        if self.predictions is not None:
            self.predictions.note(outputs, first, last)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "drawn": self.drawn,
            "outcomes": dict(zip(OUTCOMES, self.outcomes, strict=True)),
            "duration": {"counts": self.duration.counts, "sum": self.duration.sum},
            "predictions": None if self.predictions is None else self.predictions.document(),
        }


class Pair:
    """Both arms in one phase."""

    __slots__ = ("local", "target")

    def __init__(self, predictions: Callable[[], Predictions | None]) -> None:
        self.local = Arm(predictions())
        self.target = Arm(predictions())

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {LOCAL: self.local.document(), TARGET: self.target.document()}


class Arms:
    """All that is counted against one other revision.

    Attributes:
        steady, warming: what counts, and what was drawn when the target had just become ready.
        client: seconds from a request's last byte to its answer, as its client sees it, of the requests that were drawn
            for the target, whoever answered them; not of copies.
        comparison: of copies' answers.
        synthetic: how many of the requests drawn, in both arms, were golden requests of the pod's own.
    """

    __slots__ = ("client", "comparison", "revision", "steady", "synthetic", "warming")

    def __init__(
        self, revision: str, comparison: Comparison, predictions: Callable[[], Predictions | None] = lambda: None
    ) -> None:
        """`predictions`: makes the counters of one arm."""
        self.revision = revision
        self.steady = Pair(predictions)
        self.warming = Pair(predictions)
        self.client = Histogram(LATENCY_EDGES)
        self.comparison = comparison
        self.synthetic = 0

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "target": self.revision,
            "edges": LATENCY_EDGES,
            "steady": self.steady.document(),
            "warming": self.warming.document(),
            "client": {"counts": self.client.counts, "sum": self.client.sum},
            "comparison": self.comparison.document(),
            "synthetic": self.synthetic,
        }


def outcome_of(status: int) -> int:
    """How a request ended that was answered with such an error in its own pod."""
    if status < 500:
        return CLIENT_ERROR
    return {503: REJECTED, 504: TIMEOUT}.get(status, FAILED)
