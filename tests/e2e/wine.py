"""A wine bundle made by the trainer, here; versions of its model; and what users ask."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from examples.wine.versions import defects
from examples.wine.versions.defects import Defect
from examples.wine.versions.questions import questions

from holdfast_training import datasets, spec
from holdfast_training.output import output_at
from holdfast_training.train import train


@dataclass(frozen=True)
class Wine:
    """What a training run published, and what its model says to users.

    Attributes:
        bundle: files by name; with golden requests and a profile.
        digest: of the bundle.
        questions: as users.py takes them.
    """

    bundle: dict[str, bytes]
    digest: str
    questions: dict[str, Any]

    @property
    def model(self) -> bytes:
        return self.bundle["model.onnx"]

    def version(self, kind: str, **more: Any) -> bytes:
        """A version of the model, as a bare file; `more` is of `Defect`."""
        return defects.version(self.model, Defect(kind, **more))


@cache
def trained(estimator: str = "LogisticRegression", seed: int = 0) -> Wine:
    with tempfile.TemporaryDirectory() as name:
        claims = Path(name)
        (claims / "models").mkdir()
        (claims / "scratch").mkdir()
        table = claims / "models" / "wine.csv"
        datasets.write("wine", table)
        document = {
            "data": {"uri": "pvc://models/wine.csv"},
            "target": "cultivar",
            "task": "Classification",
            "estimators": [{"name": estimator}],
            "output": {"uri": "pvc://models/wine", "folder": "bundle"},
            "seed": seed,
        }
        run = spec.parse(json.dumps(document))
        output = output_at(run.output_uri, run.output_folder, claims=claims)
        report = train(run, output, scratch=claims / "scratch", claims=claims)
        bundle = {file.name: file.read_bytes() for file in (claims / "models/wine/bundle").iterdir()}
        asked = questions(bundle["model.onnx"], table, defects.STRONG)
    return Wine(bundle, report["model"]["digest"], asked)
