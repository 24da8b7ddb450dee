"""One model from some rows: preprocessing and estimator, fitted on those rows alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast_training import estimators, preprocessing
from holdfast_training.columns import Columns, Frame
from holdfast_training.errors import Finding
from holdfast_training.model import Model
from holdfast_training.spec import Candidate, Run


def fit(
    run: Run, candidate: Candidate, columns: Columns, features: Frame, target: npt.NDArray[Any], threads: int
) -> tuple[Model, list[Finding]]:
    """The model, and what is worth knowing of the fit.

    Raises:
        TrainingError: as `estimators.build` and `estimators.fit`.
    """
    np.random.seed(run.seed)  # for estimators that draw without a random_state of their own
    estimator = estimators.build(candidate.name, candidate.parameters, seed=run.seed, threads=threads)
    preprocessor = preprocessing.fit(features, run.preprocessing)
    notes = estimators.fit(estimator, preprocessor.transform(features), target)
    return Model(run.task, columns, preprocessor, estimator), notes
