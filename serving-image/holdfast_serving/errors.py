"""How far predicted numbers were from true ones, by the bins of the profile.

Exact counts and no sum: one number that somebody made up is one row in the last bin, however large it is.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast_serving.profile import Ranges


class Errors:
    """Counts of one revision, whose bins no other one has."""

    __slots__ = ("_counts", "_edges")

    def __init__(self, bins: Ranges) -> None:
        self._edges = bins.edges
        self._counts = [0] * len(bins.names)

    def add(self, error: float) -> None:
        """Count an absolute error."""
        self._counts[bisect_left(self._edges, error)] += 1

    def counts(self) -> list[int]:
        """In the order of the bins' names; none is missing."""
        return list(self._counts)
