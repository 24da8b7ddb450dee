"""What alarms are worth, when it is known what happened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

DAYS_OF_A_YEAR = 365.25


def begins(alarming: Sequence[bool]) -> int:
    """How often an alarm begins."""
    return sum(now and not before for before, now in zip([False, *alarming], alarming, strict=False))


@dataclass(slots=True)
class Rate:
    """Alarms in streams in which nothing happens."""

    alarms: int = 0
    days: float = 0.0

    def add(self, alarming: Sequence[bool], days: float) -> None:
        self.alarms += begins(alarming)
        self.days += days

    @property
    def per_year(self) -> float | None:
        return round(self.alarms * DAYS_OF_A_YEAR / self.days, 3) if self.days else None


@dataclass(slots=True)
class Verdicts:
    """Stretches of streams, some of them with a loss of accuracy, by whether an alarm was raised in them."""

    right: int = 0
    wrong: int = 0
    missed: int = 0
    delays: list[float] = field(default_factory=list)

    def add(self, fell: bool, delay: float | None) -> None:
        """delay: rows until the alarm; None: there was none."""
        if delay is None:
            self.missed += fell
        elif fell:
            self.right += 1
            self.delays.append(delay)
        else:
            self.wrong += 1

    @property
    def precision(self) -> float | None:
        return round(self.right / (self.right + self.wrong), 3) if self.right + self.wrong else None

    @property
    def recall(self) -> float | None:
        return round(self.right / (self.right + self.missed), 3) if self.right + self.missed else None

    @property
    def delay_p50(self) -> float | None:
        return round(median(self.delays)) if self.delays else None


def mean_error(pairs: Iterable[tuple[float, float]]) -> float | None:
    """Mean absolute difference."""
    errors = [abs(one - other) for one, other in pairs]
    return round(fmean(errors), 5) if errors else None
