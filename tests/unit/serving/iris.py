"""What a client of the iris model asks, and what is right to answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from tests.unit.serving import models

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 3.0, 4.2, 1.5]], np.float32)


def right(given: dict[str, Any], rows: Any = ROWS) -> None:
    label, probabilities = onnxruntime.InferenceSession(models.iris()).run(None, {"X": rows})
    outputs = given["outputs"]
    assert (outputs["label"]["dtype"], outputs["label"]["data"]) == ("int64", label.tolist())
    assert (outputs["probabilities"]["dtype"], outputs["probabilities"]["shape"]) == ("float32", [len(rows), 3])
    np.testing.assert_allclose(outputs["probabilities"]["data"], probabilities.ravel(), 1e-6)


def classified(given: dict[str, Any]) -> None:
    """The two likeliest classes of each row."""
    _, probabilities = onnxruntime.InferenceSession(models.iris()).run(None, {"X": ROWS})
    output = given["outputs"]["probabilities"]
    assert (output["dtype"], output["shape"]) == ("object", [3, 2])
    for row, texts in zip(probabilities, np.reshape(output["data"], (3, 2)), strict=True):
        values, places = zip(*[text.split(":") for text in texts], strict=True)
        assert list(map(int, places)) == np.argsort(-row)[:2].tolist()
        np.testing.assert_allclose(list(map(float, values)), np.sort(row)[::-1][:2], 1e-6)
