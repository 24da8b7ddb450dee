"""A request that the model can answer, for people to start from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from holdfast_serving.inference import Array
from holdfast_serving.rows import Row, made_up
from holdfast_serving.signature import Signature

MAX_ELEMENTS = 1000
"""Nobody reads more."""


def inputs(signature: Signature, samples: Sequence[Row]) -> list[dict[str, Any]] | None:
    """V2 input objects with data; None where JSON cannot carry them, or there is too much.

    Args:
        samples: rows of the kind that the model will see; may be empty.
    """
    row = samples[0] if samples else made_up(signature, 1)[0]
    if sum(values.size for values in row.values()) > MAX_ELEMENTS or any(
        tensor.datatype == "FP16" for tensor in signature.inputs
    ):
        return None
    return [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(row[tensor.name].shape),
            "data": _elements(row[tensor.name] if samples else _rounded(row[tensor.name])),
        }
        for tensor in signature.inputs
    ]


def _rounded(values: Array) -> Array:
    return values.round(2) if values.dtype.kind == "f" else values


def _elements(values: Array) -> list[Any]:
    """As JSON has them: floats in as few digits as tell them apart, missing ones as null."""
    if values.dtype.kind != "f":
        elements: list[Any] = values.ravel().tolist()
        return elements
    return [float(str(value)) if math.isfinite(value) else None for value in values.ravel()]
