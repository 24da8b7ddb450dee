"""Requests in V2, and what must come back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DATATYPES = {"float32": "FP32", "int64": "INT64"}
NUMPY = {"FP32": "<f4", "FP64": "<f8", "INT32": "<i4", "INT64": "<i8"}
_LENGTH = "inference-header-content-length"


class WrongAnswerError(Exception):
    """A server did not answer as it must; the text says how."""


@dataclass(frozen=True, slots=True)
class Question:
    """A POST request, and the outputs that must come back.

    Attributes:
        fields: header fields beside Host and Content-Length.
    """

    path: str
    fields: dict[str, str]
    body: bytes
    expected: dict[str, Array]

    def check(self, status: int, fields: dict[str, str], body: bytes) -> None:
        """Raises WrongAnswerError. `fields` by lower-case name."""
        if status != 200:
            raise WrongAnswerError(f"status {status}: {body[:200].decode(errors='replace')}")
        size = int(fields.get(_LENGTH, len(body)))
        try:
            document, rest = json.loads(body[:size]), body[size:]
            given = {}
            for output in document["outputs"]:
                dtype = NUMPY[output["datatype"]]
                if "data" in output:
                    values = np.array(output["data"], dtype)
                else:
                    length = output["parameters"]["binary_data_size"]
                    values, rest = np.frombuffer(rest[:length], dtype), rest[length:]
                given[output["name"]] = values
        except (ValueError, KeyError, TypeError) as error:
            raise WrongAnswerError(f"no V2 answer ({error}): {body[:200].decode(errors='replace')}") from error
        compare(given, self.expected)

    def answer(self, model: str, version: str) -> bytes:
        """The right answer in JSON, as our own server writes it."""
        outputs = [
            {
                "name": name,
                "datatype": DATATYPES[values.dtype.name],
                "shape": list(values.shape),
                "data": _numbers(values),
            }
            for name, values in self.expected.items()
        ]
        document = {"model_name": model, "model_version": version, "outputs": outputs}
        return json.dumps(document, separators=(",", ":")).encode()


def compare(given: dict[str, Array], expected: dict[str, Array]) -> None:
    """Raises WrongAnswerError. Shapes are not compared: MLServer makes [1, 1] of [1]."""
    for name, values in expected.items():
        if name not in given or given[name].size != values.size:
            raise WrongAnswerError(f"output {name} is missing or has another size")
        if not np.allclose(given[name].ravel(), values.ravel(), rtol=1e-3, atol=1e-5):
            raise WrongAnswerError(f"output {name} is {given[name].ravel()[:8]}, not {values.ravel()[:8]}")


def in_json(model: str, rows: dict[str, Array], expected: dict[str, Array]) -> Question:
    """With flat JSON data."""
    document = {
        "inputs": [
            {
                "name": name,
                "shape": list(values.shape),
                "datatype": DATATYPES[values.dtype.name],
                "data": _numbers(values),
            }
            for name, values in rows.items()
        ]
    }
    fields = {"Content-Type": "application/json"}
    return Question(f"/v2/models/{model}/infer", fields, json.dumps(document).encode(), expected)


def in_binary(model: str, rows: dict[str, Array], expected: dict[str, Array]) -> Question:
    """With the binary tensor extension, both ways."""
    document = {
        "inputs": [
            {
                "name": name,
                "shape": list(values.shape),
                "datatype": DATATYPES[values.dtype.name],
                "parameters": {"binary_data_size": values.nbytes},
            }
            for name, values in rows.items()
        ],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(document).encode()
    fields = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    body = head + b"".join(np.ascontiguousarray(values).tobytes() for values in rows.values())
    return Question(f"/v2/models/{model}/infer", fields, body, expected)


def _numbers(values: Array) -> list[float]:
    """With the fewest digits: 5.1, not 5.099999904632568."""
    return [float(str(value)) if values.dtype.kind == "f" else int(value) for value in values.ravel()]
