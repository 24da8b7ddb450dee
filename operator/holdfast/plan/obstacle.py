"""What stands in the way of a revision."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.plan.conditions import Status
from holdfast.plan.observed import Write


@dataclass(frozen=True)
class Obstacle:
    """Why there is no wanted revision yet, and what to do about it."""

    status: Status
    reason: str
    message: str
    writes: tuple[Write, ...] = ()
    hopeless: bool = False
    """A person must act, at once."""
