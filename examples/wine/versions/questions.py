"""Make the users' questions from a table, with a model's answers.

    python questions.py MODEL.onnx TABLE.csv STRONG FILE

The file has `inputs` (names of columns) and, for `usual` and `strong` wines, `rows` and `labels`. Strong ones are the
same wines with more alcohol than STRONG, which none of them has; a good model has an answer to them too.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

STRONGEST = 19.0


def questions(model: bytes, table: Path, least_strong: float) -> dict[str, Any]:
    """Rows of a table whose last column is the class; those of strong wines have more alcohol than `least_strong`."""
    header, *rows = csv.reader(table.read_text().splitlines())
    usual = np.array([[float(value) for value in row[:-1]] for row in rows], np.float32)
    strong = usual.copy()
    strong[:, 0] = np.linspace(least_strong + 0.1, STRONGEST, len(rows), dtype=np.float32)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def asked(values: np.ndarray[Any, Any]) -> dict[str, Any]:
        (labels,) = session.run(["label"], {name: values[:, [n]] for n, name in enumerate(header[:-1])})
        return {"rows": [[float(value) for value in row] for row in values], "labels": labels.tolist()}

    return {"inputs": header[:-1], "usual": asked(usual), "strong": asked(strong)}


if __name__ == "__main__":
    model, table, strong, file = sys.argv[1:]
    Path(file).write_text(json.dumps(questions(Path(model).read_bytes(), Path(table), float(strong))))
