"""Reading V2 requests: JSON to checked tensors."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import orjson

from holdfast_bundle.manifest import Tensor
from holdfast_serving.inference import Data
from holdfast_serving.problems import Problem, quoted

MAX_DECODED_BYTES = 256 << 20
"""Memory that the decoded form of one body may take, by a cautious estimate."""

_LARGE_BODY = 1 << 20
_NOT_HERE = frozenset(
    {
        "binary_data", "binary_data_output", "binary_data_size", "classification", "shared_memory_byte_size",
        "shared_memory_offset", "shared_memory_region",
    }
)  # fmt: skip
_CODES = {
    "BOOL": "B", "FP32": "f", "FP64": "d", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B",
    "UINT16": "H", "UINT32": "I", "UINT64": "Q",
}  # fmt: skip
_WORDS = {"BOOL": "true or false", "BYTES": "strings", "FP32": "numbers", "FP64": "numbers"}


def parse(body: bytes | bytearray) -> dict[str, Any]:
    """A request's JSON object. Raises Problem 400, or 413 for what would take too much memory."""
    if len(body) > _LARGE_BODY:
        objects, elements = body.count(b"[") + body.count(b"{"), body.count(b",")
        if 64 * objects + 32 * elements > MAX_DECODED_BYTES:
            raise Problem(413, "the body has too many elements for one request; send fewer rows")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    if type(document) is not dict:
        raise Problem(400, "the body must be a JSON object")
    return document


def check_parameters(parameters: object) -> None:
    """Raises Problem 400 for parameters that are none, or that ask for what this server does not have."""
    if parameters is None:
        return
    if type(parameters) is not dict:
        raise Problem(400, '"parameters" must be an object')
    for name, value in parameters.items():
        if type(value) not in (str, int, float, bool):
            raise Problem(400, f"parameter {quoted(name)} must be a string, a number or a boolean")
        if name in _NOT_HERE and value is not False:
            raise Problem(400, f"parameter {quoted(name)} belongs to an extension that this server does not have")


def listed(names: Iterable[str]) -> str:
    """Names for an error message."""
    all_names = list(names)
    text = ", ".join(quoted(name) for name in all_names[:20])
    return text if len(all_names) <= 20 else f"{text} and {len(all_names) - 20} more"


class Input:
    """Reads one input of a request."""

    __slots__ = ("_accepts", "_code", "_datatype", "_dimensions", "_row", "_row_count", "name")

    def __init__(self, tensor: Tensor) -> None:
        self.name = tensor.name
        self._datatype = tensor.datatype
        self._dimensions = tensor.shape
        self._code = _CODES.get(tensor.datatype)
        self._accepts = _accepted(tensor.datatype)
        fixed = tensor.shape[:1] == (-1,) and -1 not in tensor.shape[1:]
        self._row = [1, *tensor.shape[1:]] if fixed else None
        self._row_count = math.prod(tensor.shape[1:])

    def read(self, item: dict[str, Any]) -> tuple[Data, Sequence[int]]:
        """(elements, shape). Raises Problem 400."""
        if item.get("datatype") != self._datatype:
            raise self._wrong(f"must have the datatype {self._datatype}")
        if self._code is None and self._datatype != "BYTES":
            raise self._wrong(f"is {self._datatype}, which JSON cannot carry")
        shape = item.get("shape")
        usual = shape == self._row and type(shape[0]) is int  # type: ignore[index]
        count = self._row_count if usual else self._checked(shape)
        data = item.get("data")
        if type(data) is not list:
            raise self._wrong("must have its elements in a list, data")
        if not self._accepts.issuperset(map(type, data)):
            data = self._unusual(data, shape)  # type: ignore[arg-type]
        if len(data) != count:
            raise self._wrong(f"has {len(data)} elements, its shape asks for {count}")
        if len(item) > 4:
            check_parameters(item.get("parameters"))
        if self._code is None:
            return data, shape  # type: ignore[return-value]
        try:
            return array(self._code, data), shape  # type: ignore[return-value]
        except OverflowError:
            raise self._wrong(f"has elements outside the range of {self._datatype}") from None

    def _checked(self, shape: object) -> int:
        """The number of elements that a shape asks for, once it fits the model."""
        if type(shape) is not list or not all(type(size) is int for size in shape):
            raise self._wrong("must have a shape, a list of integers")
        wanted = self._dimensions
        if wanted and len(shape) != len(wanted):
            raise self._wrong(f"must have {len(wanted)} dimensions, {self._shape_text()}")
        if any(size < 1 for size in shape) or any(
            expected not in (-1, size) for expected, size in zip(wanted, shape, strict=False)
        ):
            raise self._wrong(f"must have a shape that fits {self._shape_text()}")
        return math.prod(shape)

    def _unusual(self, data: list[Any], shape: Sequence[int]) -> list[Any]:
        """Nested data made flat, missing numbers made NaN; whatever else is there is wrong."""
        size = shape[0] if shape else 1
        for inner in shape[1:]:
            if set(map(type, data)) != {list}:
                break
            if len(data) != size or set(map(len, data)) != {inner}:
                raise self._wrong("has nested data that does not fit its shape")
            data = list(chain.from_iterable(data))
            size *= inner
        if self._accepts.issuperset(map(type, data)):
            return data
        if float in self._accepts and (self._accepts | {type(None)}).issuperset(map(type, data)):
            return [math.nan if value is None else value for value in data]
        raise self._wrong(f"must have data of {_WORDS.get(self._datatype, 'integers')}, flat or nested as its shape")

    def _wrong(self, what: str) -> Problem:
        return Problem(400, f"input {quoted(self.name)} {what}")

    def _shape_text(self) -> str:
        return str(list(self._dimensions)) + (" (-1: any size)" if -1 in self._dimensions else "")


def _accepted(datatype: str) -> frozenset[type]:
    """The Python types that JSON elements of a datatype have."""
    if datatype in ("FP32", "FP64"):
        return frozenset({float, int})
    return frozenset({{"BOOL": bool, "BYTES": str}.get(datatype, int)})
