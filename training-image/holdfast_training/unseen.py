"""Rows to compare two models on: those that the challenger has not learned from.

Its bundle says how rows were held out. Where they were held out by digest, any row tells by itself; otherwise the split
is made once more, which takes the very data that it was made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast_bundle.credentials import Credentials
from holdfast_bundle.manifest import Manifest
from holdfast_bundle.uris import CLAIMS
from holdfast_bundle.web import Web
from holdfast_training import columns, data, evaluation, rowdigests
from holdfast_training.columns import Examples
from holdfast_training.rowdigests import Digests
from holdfast_training.spec import Features, Run

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


def read(
    source: Mapping[str, Any],
    run: Run,
    features: Features,
    folder: Path,
    *,
    claims: Path = CLAIMS,
    web: Web,
    credentials: Credentials,
) -> Labelled:
    """Read data by what a spec says of them (`uri`, and `digest` and `format` where it does); `folder` is for scratch.

    Raises:
        TrainingError: as a run's.
    """
    folder.mkdir()
    digest, format = source.get("digest"), source.get("format")
    found = data.locate(source["uri"], digest, format, scratch=folder, claims=claims, web=web, credentials=credentials)
    table = found.read(columns.wanted(found.columns, run.target, features))
    examples = columns.examine(table, run.target, run.task, features)
    return Labelled(found.digest, examples, rowdigests.of(examples.columns, examples.features, examples.target))


def unseen(bundle: Manifest | None, run: Run, data: Labelled, rows: Digests) -> Mask | None:
    """Which of `rows` a model has certainly not learned from; None when nobody can tell.

    Args:
        bundle: of the model.
        run: that trains models of its kind.
        data: what that run reads, as they are now.
    """
    lineage = bundle.lineage if bundle else {}
    if (lineage.get("target"), lineage.get("task")) != (run.target, run.task):
        return None
    if lineage.get("dataDigest") == data.digest and _same_split(lineage, run):
        learned, _ = evaluation.split(data.examples, run)
        return ~np.isin(rows, data.digests[learned])
    if lineage.get("splitMethod") == "RowDigest":
        return rowdigests.held_out(rows, int(lineage["testPercent"]))
    return None


def _same_split(lineage: Mapping[str, Any], run: Run) -> bool:
    made = (lineage.get("splitMethod", "Random"), lineage.get("testPercent"), lineage.get("seed"))
    return made == (run.split_method, run.test_percent, run.seed)
