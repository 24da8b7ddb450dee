"""Feedback: true labels with the receipts of what was predicted, counted by revision.

Whoever may call the endpoint may lie about the truth, so feedback is evidence for people and for a gated retraining,
never for a rollback. What a receipt does keep: nobody invents predictions, and each one counts once here.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from holdfast_serving.problems import Problem
from holdfast_serving.receipts import MAX_ROWS, Receipt, ReceiptError, Receipts, Said

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from holdfast_serving.errors import Errors

REASONS = ("forged", "expired", "repeated", "unfit", "capped")
"""Why a receipt is refused: not sealed by us for this model; too old; it was there before; its labels are not such as
the model gives, or not as many; enough labels have come in this minute."""

MAX_ITEMS = 256
REMEMBERED = 65536
"""Receipts that a replica remembers having seen, the last ones."""

_WINDOW_SECONDS = 60.0
_MOST_REVISIONS = 32


class Feedback:
    """What is known of the predictions of this model's revisions.

    Attributes:
        receipts: that it goes by.
        certified: whether it is only for clients that show a certificate.
        errors: of the numbers that this pod's revision has predicted; None where nobody knows how large they may be.
    """

    def __init__(self, receipts: Receipts, model: str, revision: str, rows_per_minute: int, *, certified: bool) -> None:
        """`revision`: the one that this pod serves."""
        self.receipts = receipts
        self.certified = certified
        self.errors: Errors | None = None
        self._model = model
        self._revision = revision
        self._most = rows_per_minute
        self._revisions = {revision: _Tally()}
        self._refused = dict.fromkeys(REASONS, 0)
        self._seen: set[int] = set()
        self._order: deque[int] = deque()
        self._window_ends = 0.0
        self._left = 0

    def take(self, document: Any) -> tuple[int, list[dict[str, Any]], float]:
        """Count what is good of a request.

        Returns:
            (rows that count, what is refused: `index` and `reason`, seconds until more can come if it was too much).

        Raises:
            Problem: 400, nothing was counted.
        """
        items = _items(document)
        counted, refused = 0, []
        for index, (text, labels) in enumerate(items):
            try:
                counted += self._take(text, labels)
            except ReceiptError as error:
                self._refused[error.reason] += 1
                refused.append({"index": index, "reason": error.reason})
        capped = any(each["reason"] == "capped" for each in refused)
        return counted, refused, self._window_ends - time.monotonic() if capped else 0.0

    def _take(self, text: str, labels: list[Any]) -> int:
        receipt = self.receipts.read(text)
        if receipt.nonce in self._seen:
            raise ReceiptError("repeated")
        now = time.monotonic()
        if now >= self._window_ends:
            self._window_ends, self._left = now + _WINDOW_SECONDS, self._most
        if len(labels) > self._left:
            raise ReceiptError("capped")
        if len(labels) != len(receipt.said) or not all(map(_fits, receipt.said, labels)):
            raise ReceiptError("unfit")
        self._left -= len(labels)
        self._remember(receipt.nonce)
        errors = self.errors if receipt.revision == self._revision else None
        return self._tally(receipt).count(receipt.said, labels, errors)

    def _remember(self, nonce: int) -> None:
        self._seen.add(nonce)
        self._order.append(nonce)
        if len(self._order) > REMEMBERED:
            self._seen.discard(self._order.popleft())

    def _tally(self, receipt: Receipt) -> _Tally:
        tally = self._revisions.pop(receipt.revision, None) or _Tally()
        if len(self._revisions) >= _MOST_REVISIONS:
            del self._revisions[next(name for name in self._revisions if name != self._revision)]
        self._revisions[receipt.revision] = tally  # the last ones are those that were spoken of last
        return tally

    def collect(self) -> Iterator[Metric]:
        """For a prometheus_client registry."""
        from prometheus_client.core import CounterMetricFamily

        names = ["model", "revision"]
        rows = CounterMetricFamily(
            "holdfast_feedback_rows",
            "Rows whose true label is known, by whether the model had said so.",
            labels=[*names, "outcome"],
        )
        values = CounterMetricFamily(
            "holdfast_feedback_values", "Rows with a predicted number, whose true one is known.", labels=names
        )
        error = CounterMetricFamily("holdfast_feedback_absolute_error", "Sum of their absolute errors.", labels=names)
        for revision, tally in self._revisions.items():
            rows.add_metric([self._model, revision, "correct"], tally.correct)
            rows.add_metric([self._model, revision, "wrong"], tally.wrong)
            values.add_metric([self._model, revision], tally.values)
            error.add_metric([self._model, revision], tally.error)
        yield from (rows, values, error)
        refused = CounterMetricFamily(
            "holdfast_feedback_refused", "Receipts that were not counted.", labels=[*names, "reason"]
        )
        for reason, count in self._refused.items():
            refused.add_metric([self._model, self._revision, reason], count)
        yield refused


class _Tally:
    """Of one revision."""

    __slots__ = ("correct", "error", "values", "wrong")

    def __init__(self) -> None:
        self.correct = self.wrong = self.values = 0
        self.error = 0.0

    def count(self, said: list[Said], labels: list[Said], errors: Errors | None) -> int:
        """Compare, row by row; rows without a label or a prediction are not counted.

        errors: where those of numbers are counted, too.
        """
        counted = 0
        for one, other in zip(said, labels, strict=True):
            if one is None or other is None:
                continue
            counted += 1
            if type(one) is float:
                error = abs(one - float(other))
                self.values += 1
                self.error += error
                if errors is not None:
                    errors.add(error)
            elif one == other:
                self.correct += 1
            else:
                self.wrong += 1
        return counted


def _items(document: Any) -> list[tuple[str, list[Any]]]:
    listed = document.get("feedback") if type(document) is dict else None
    if type(listed) is not list or not 0 < len(listed) <= MAX_ITEMS:
        raise Problem(400, f'"feedback" must be a list of 1 to {MAX_ITEMS} objects with "receipt" and "labels"')
    items = []
    for item in listed:
        text, labels = (item.get("receipt"), item.get("labels")) if type(item) is dict else (None, None)
        if type(text) is not str or type(labels) is not list or len(labels) > MAX_ROWS:
            raise Problem(400, 'every item of "feedback" needs a "receipt" and "labels", a list with one for each row')
        items.append((text, labels))
    return items


def _fits(said: Said, label: object) -> bool:
    """Whether a label is one that can be compared with what the model said; null is no label."""
    if said is None or label is None:
        return True
    if type(said) is float:
        return type(label) in (int, float) and abs(label) < 1e300 and math.isfinite(label)  # type: ignore[arg-type]
    return type(label) is type(said)
