"""The table of a gate: what was compared, by which limit, and whether it holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from holdfast_training import paired
from holdfast_training.evaluation import formatted
from holdfast_training.paired import Mask, Paired, within

Result = Literal["Passed", "Failed", "Skipped"]

MIN_ROWS = 50
"""Fewer rows tell nothing about a model."""

MIN_SLICE_ROWS = 20

RESOLUTION: Mapping[str, float] = {"Accuracy": 0.05, "RMSE": 0.1}
"""A loss that is larger than the tolerated one by so much must be ruled out: 5 points, or 10 % of the champion's."""

MAX_ROWS = 16


@dataclass(frozen=True, slots=True)
class Row:
    """One line: decimals, and a limit that the challenger's must keep. Skipped: it decides nothing.

    Attributes:
        words: of a failure, for the message.
    """

    name: str
    result: Result
    champion: float | None = None
    challenger: float | None = None
    limit: float | None = None
    words: str = ""

    def to_json(self) -> dict[str, str]:
        """As in `status.retraining.gate`."""
        values = {"champion": self.champion, "challenger": self.challenger, "limit": self.limit}
        told = {name: formatted(value) for name, value in values.items() if value is not None}
        return {"name": self.name, **told, "result": self.result}


def non_inferior(pair: Paired, loss: float) -> list[Row]:
    """No more lost than is tolerated, and rows enough to rule out much more."""
    limit, tolerated = pair.limit(loss), loss + RESOLUTION[pair.metric]
    holds, ruled_out = within(pair, loss), pair.p_loss(tolerated) < paired.LEVEL
    largest = paired.largest_loss(pair)
    words = (
        f"{pair.metric} is {formatted(pair.challenger)}, worse than {formatted(limit)} "
        f"(champion {formatted(pair.champion)})"
    )
    few = (
        f"{pair.rows:,} rows are too few to tell: {pair.metric} may be as bad as {formatted(pair.limit(largest))}; "
        "give more labelled rows"
    )
    return [
        _judged(pair.metric, holds, pair, limit, words),
        Row(
            f"{pair.metric}Bound",
            "Passed" if ruled_out else "Failed",
            challenger=pair.limit(largest),
            limit=pair.limit(tolerated),
            words=few if holds else "",
        ),
    ]


def superior(pair: Paired) -> list[Row]:
    """Better, and by more than chance would make of two equal models."""
    probability = pair.p_better()
    better = within(pair, 0) and probability < paired.LEVEL
    words = f"{pair.metric} is {formatted(pair.challenger)} against {formatted(pair.champion)}, which chance explains"
    return [
        _judged(pair.metric, within(pair, 0), pair, pair.champion, f"{words} or is worse"),
        Row(
            f"{pair.metric}PValue",
            "Passed" if better else "Failed",
            challenger=probability,
            limit=paired.LEVEL,
            words=f"{words} (p = {formatted(probability)})",
        ),
    ]


def slices(pair: Paired, parts: Iterable[tuple[str, Mask]], loss: float) -> list[Row]:
    """No part of the rows may lose more than is tolerated, unless chance explains it; the worst first.

    The more parts there are, the more of them look bad by chance: the level is divided among them (Bonferroni).
    """
    taken = [(name, pair.take(rows)) for name, rows in parts]
    judged = [part for _, part in taken if part.rows >= MIN_SLICE_ROWS]
    rows: list[tuple[bool, float, Row]] = []
    for name, part in taken:
        if part.rows < MIN_SLICE_ROWS:
            rows.append((True, 0.0, Row(name, "Skipped")))
            continue
        limit = part.limit(loss)
        holds = within(part, loss) or part.p_worse() >= paired.LEVEL / len(judged)
        words = f"{name} is {formatted(part.challenger)} on {part.rows:,} rows, worse than {formatted(limit)}"
        rows.append((holds, -part.loss, _judged(name, holds, part, limit, words)))
    return [row for *_, row in sorted(rows, key=lambda item: item[:2])]


def _judged(name: str, holds: bool, pair: Paired, limit: float, words: str) -> Row:
    return Row(name, "Passed" if holds else "Failed", pair.champion, pair.challenger, limit, words)
