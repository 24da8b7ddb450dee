"""Shadow mode: the other revision gets copies of requests, and its answers are compared with the local ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from holdfast_bundle.manifest import Tensor
from holdfast_serving.inference import Array

_INLINE_BYTES = 256 << 10  # of outputs: a comparison of more goes to a thread


class Comparison:
    """Counts rows that were answered by both revisions, and those where the answers differ.

    Attributes:
        rows: compared.
        disagreeing: of them, those with another label; of a model without labels, those where any output differs.
        by_output: of them, those where this output of the signature does.
        pending: comparisons that are under way in a thread.
    """

    def __init__(self, outputs: Sequence[Tensor], *, has_rows: bool) -> None:
        """`has_rows`: whether the first dimension of every output is that of the rows; else an answer is one row."""
        self.names = [tensor.name for tensor in outputs]
        self._has_rows = has_rows
        self.rows = self.disagreeing = self.pending = 0
        self.by_output = [0] * len(outputs)
        # Probabilities of two classifiers that agree are not the same numbers.
        labels = [index for index, tensor in enumerate(outputs) if tensor.datatype.startswith(("INT", "UINT", "BYTES"))]
        self._telling = labels or list(range(len(outputs)))

    def compare(self, ours: Sequence[Array], theirs: Sequence[Array], relative: float, absolute: float) -> None:
        """Count one request's answers, now or, if they are large, soon.

        Args:
            relative, absolute: floats agree within `absolute + relative * |ours|`; NaN agrees with NaN.
        """
        if sum(array.nbytes for array in ours) <= _INLINE_BYTES:
            self._count(self._differences(ours, theirs, relative, absolute))
            return
        future = asyncio.get_running_loop().run_in_executor(None, self._differences, ours, theirs, relative, absolute)
        self.pending += 1
        future.add_done_callback(self._end)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rows": self.rows,
            "disagreeing": self.disagreeing,
            "outputs": dict(zip(self.names, self.by_output, strict=True)),
        }

    def _end(self, done: asyncio.Future[Array]) -> None:
        self.pending -= 1
        self._count(done.result())

    def _count(self, differences: Array) -> None:
        self.rows += differences.shape[1]
        self.disagreeing += int(differences[self._telling].any(axis=0).sum())
        for index, count in enumerate(differences.sum(axis=1).tolist()):
            self.by_output[index] += count

    def _differences(self, ours: Sequence[Array], theirs: Sequence[Array], relative: float, absolute: float) -> Array:
        """Whether they differ, by output and row."""
        return np.stack([self._differ(mine, its, relative, absolute) for mine, its in zip(ours, theirs, strict=True)])

    def _differ(self, mine: Array, its: Array, relative: float, absolute: float) -> Array:
        rows = len(mine) if self._has_rows else 1
        if mine.shape != its.shape:
            return np.ones(rows, bool)
        size = mine.size // rows  # not -1: an answer may be empty
        mine, its = mine.reshape(rows, size), its.reshape(rows, size)
        different = mine != its
        if mine.dtype.kind == "f" and different.any():
            with np.errstate(invalid="ignore", over="ignore"):
                # Not "differ by more than": with NaN or infinity no comparison is true.
                within = np.abs(mine - its) <= absolute + relative * np.abs(mine)
            within &= np.isfinite(mine)
            different &= ~(within | (np.isnan(mine) & np.isnan(its)))
        return np.asarray(different.any(axis=1), bool)
