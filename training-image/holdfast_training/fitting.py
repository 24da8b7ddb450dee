"""One model from some rows: preprocessing and estimator, fitted on those rows alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast_training import estimators, preprocessing
from holdfast_training.columns import Columns, Frame
from holdfast_training.errors import Finding
from holdfast_training.model import Model
from holdfast_training.spec import Candidate, Run


@dataclass(frozen=True, slots=True)
class Course:
    """What a fit that takes long has beside its rows.

    Attributes:
        folder: that outlives the pod, so that an interrupted fit goes on; None: there is none.
        say: to be told, in a few words, how far it is.
    """

    folder: Path | None = None
    say: Callable[[str], None] = lambda message: None


def fit(
    run: Run,
    candidate: Candidate,
    columns: Columns,
    features: Frame,
    target: npt.NDArray[Any],
    threads: int,
    course: Course = Course(),
) -> tuple[Model, list[Finding]]:
    """The model, and what is worth knowing of the fit. course: for estimators that have one.

    Raises:
        TrainingError: as `estimators.build` and `estimators.fit`.
    """
    np.random.seed(run.seed)  # for estimators that draw without a random_state of their own
    estimator = estimators.build(candidate.name, candidate.parameters, seed=run.seed, threads=threads)
    if hasattr(estimator, "course"):
        estimator.course = course
    preprocessor = preprocessing.fit(features, run.preprocessing)
    notes = estimators.fit(estimator, preprocessor.transform(features), target)
    return Model(run.task, columns, preprocessor, estimator), notes
