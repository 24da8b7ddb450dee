"""What is served: models of the zoo as files, the bundle that our own server gets, and questions about them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from bench.serving.calls import Call, call
from bench.serving.questions import DATATYPES, Array, Question, WrongAnswerError, in_binary, in_json
from tests.unit.serving import zoo

from holdfast_bundle import manifest
from holdfast_devcluster import packages


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model on disk.

    Attributes:
        file: bare ONNX.
        rows: an .npz file with rows to ask for, by input.
        uri, digest: of the bundle below `claims`.
    """

    name: str
    file: Path
    rows: Path
    uri: str
    digest: str

    def questions(self, count: int, rows_each: int = 1, *, binary: bool = False) -> list[Question]:
        """About the model's rows in turn, with what the runtime says to them."""
        make = in_binary if binary else in_json
        return [make(self.name, rows, expected) for rows, expected in self._asked(count, rows_each)]

    def calls(self, count: int) -> list[Call]:
        """About the model's rows in turn, one each."""
        return [call(self.name, rows, expected) for rows, expected in self._asked(count, 1)]

    def _asked(self, count: int, rows_each: int) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
        """Inputs and outputs."""
        session = onnxruntime.InferenceSession(str(self.file), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        all_rows = dict(np.load(self.rows).items())
        size = len(next(iter(all_rows.values())))
        for number in range(count):
            chosen = [(number * rows_each + offset) % size for offset in range(rows_each)]
            rows = {name: values[chosen] for name, values in all_rows.items()}
            yield rows, dict(zip(names, session.run(names, rows), strict=True))


def of_torch(name: str, folder: Path, report: Callable[[str], None]) -> zoo.Subject:
    """One of the networks that PyTorch exports: `cnn` or `transformer`.

    Raises:
        ClusterError: there is no PyTorch, and it cannot be installed.
        subprocess.CalledProcessError: it cannot be exported.
    """
    if not (folder / f"{name}.onnx").exists():
        packages.require(("torch",), report)
        command = ["/usr/bin/python3", str(Path(__file__).with_name("torch_models.py")), str(folder)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    rows, answers = (dict(np.load(folder / f"{name}-{part}.npz").items()) for part in ("rows", "answers"))
    return zoo.Subject((folder / f"{name}.onnx").read_bytes(), rows, answers)


def prepare(name: str, subject: zoo.Subject, folder: Path, profile: dict[str, Any] | None = None) -> Prepared:
    """Write a model below `folder`, whose `claims` our own server is given.

    Raises:
        WrongAnswerError: the runtime answers otherwise than the framework that the model comes from.
    """
    bundle = folder / "claims" / "models" / name
    bundle.mkdir(parents=True)
    file, rows = folder / f"{name}.onnx", folder / f"{name}.npz"
    file.write_bytes(subject.content)
    np.savez(rows, **subject.rows)
    (bundle / manifest.MODEL).write_bytes(subject.content)
    if profile is not None:
        (bundle / "profile.json").write_bytes(manifest.canonical_json(profile))
    session = onnxruntime.InferenceSession(subject.content, providers=["CPUExecutionProvider"])
    outputs = session.run(None, subject.rows)
    for tensor, values in zip(session.get_outputs(), outputs, strict=True):
        if not np.allclose(values, subject.answers.get(tensor.name, values), rtol=1e-3, atol=1e-4):
            raise WrongAnswerError(f"{name}: the runtime's {tensor.name} is not what the framework answers")
    digest = manifest.write(
        bundle,
        name=name,
        framework="scikit-learn",
        opset=17,
        inputs=[_tensor(key, values) for key, values in subject.rows.items()],
        outputs=[_tensor(key.name, values) for key, values in zip(session.get_outputs(), outputs, strict=True)],
        metrics={},
        lineage={},
    )
    return Prepared(name, file, rows, f"pvc://models/{name}", digest)


def profile(features: Sequence[str], rows: Array, labels: Array, confidence: Array) -> dict[str, Any]:
    """A profile of a classifier over the columns of `X`."""

    def shares(edges: Array, values: Array) -> dict[str, Any]:
        counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
        return {"edges": edges.tolist(), "ratios": (counts / len(values)).round(6).tolist()}

    columns = {}
    for index, name in enumerate(features):
        edges = np.unique(np.quantile(rows[:, index], np.arange(1, 10) / 10, method="inverted_cdf"))
        spread = shares(edges[edges < rows[:, index].max()], rows[:, index])
        columns[name] = {"input": "X", "column": index, "kind": "numeric", **spread, "missingRatio": 0.0}
    known, counts = np.unique(labels, return_counts=True)
    sure = shares(np.arange(1, 20) / 20, confidence)
    return {
        "rows": len(rows),
        "features": columns,
        "prediction": {"labels": known.tolist(), "ratios": (counts / len(labels)).round(6).tolist()},
        "confidence": {**sure, "accuracy": [None if share == 0 else 0.97 for share in sure["ratios"]]},
    }


def _tensor(name: str, values: Array) -> manifest.Tensor:
    return manifest.Tensor(name, DATATYPES[values.dtype.name], (-1, *values.shape[1:]))
