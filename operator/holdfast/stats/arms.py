"""What one arm of a comparison did: how many requests it answered, and how many of them badly."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arm:
    """Counts of one arm. Raises ValueError if they cannot be."""

    requests: int
    bad: int

    def __post_init__(self) -> None:
        if not 0 <= self.bad <= self.requests:
            raise ValueError(f"{self.bad} bad requests of {self.requests}")

    def __add__(self, other: Arm) -> Arm:
        return Arm(self.requests + other.requests, self.bad + other.bad)

    @property
    def rate(self) -> float:
        """Share of bad requests; 0 where there are none at all."""
        return self.bad / self.requests if self.requests else 0.0

    def to_json(self) -> list[int]:
        return [self.requests, self.bad]

    @classmethod
    def parse(cls, document: object) -> Arm:
        """Raises ValueError unless this is what `to_json` makes."""
        match document:
            case [int(requests), int(bad)] if not isinstance(requests, bool) and not isinstance(bad, bool):
                return cls(requests, bad)
        raise ValueError("an arm is a pair of whole numbers: requests, bad")


NONE = Arm(0, 0)
