"""Rows to compare two models on: those that the challenger has not learned from.

Its bundle says how rows were held out. Where they were held out by digest, any row tells by itself. Otherwise the very
data that the model has read are needed: the split is made once more, or all of them count as learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast_bundle.manifest import Manifest
from holdfast_training import columns, evaluation, rowdigests
from holdfast_training.columns import Examples
from holdfast_training.data import Data
from holdfast_training.rowdigests import Digests
from holdfast_training.spec import Features, Run, Task
from holdfast_training.table import examples_of

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Rows with a target, as features that both models take.

    Attributes:
        digest: of the data.
        digests: of the rows.
    """

    digest: str
    examples: Examples
    digests: Digests


def labelled(source: Data, target: str, task: Task, features: Features, run: Run | None = None) -> Labelled:
    """Read the rows.

    Args:
        run: that learned from these very data, if one of ours did: then rows have the order that it gave them.

    Raises:
        TrainingError: as a run's.
    """
    if run is not None:
        examples = examples_of(source, replace(run, features=features))
    else:
        table = source.read(columns.wanted(source.columns, target, features))
        examples = columns.examine(table, target, task, features)
    return Labelled(source.digest, examples, rowdigests.of(examples.columns, examples.features, examples.target))


def unseen(
    bundle: Manifest | None, target: str, task: Task, run: Run | None, data: Labelled, rows: Digests
) -> Mask | None:
    """Which of `rows` a model has certainly not learned from; None when nobody can tell.

    Args:
        bundle: of the model.
        run: that trains models of its kind; None for a trainer of somebody's own.
        data: what that run reads, as they are now.
    """
    lineage = bundle.lineage if bundle else {}
    if (lineage.get("target"), lineage.get("task")) != (target, task):
        return None
    same_data = lineage.get("dataDigest") == data.digest
    if same_data and run is not None and _same_split(lineage, run):
        learned, _ = evaluation.split(data.examples, run)
        return ~np.isin(rows, data.digests[learned])
    foreign: Mask = ~np.isin(rows, data.digests)
    if lineage.get("splitMethod") == "RowDigest":
        held_out = rowdigests.held_out(rows, int(lineage["testPercent"]))
        return held_out | foreign if same_data else held_out
    return foreign if same_data else None


def _same_split(lineage: Mapping[str, Any], run: Run) -> bool:
    made = [lineage.get(name) for name in ("splitMethod", "testPercent", "seed")]
    return [*made, lineage.get("orderColumn", "")] == [run.split_method, run.test_percent, run.seed, run.order_column]
