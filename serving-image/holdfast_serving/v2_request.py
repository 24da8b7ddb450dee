"""Reading V2 requests: JSON and bytes to checked tensors."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from struct import Struct
from typing import Any

import numpy as np

from holdfast_bundle.manifest import Tensor
from holdfast_serving.inference import Data
from holdfast_serving.json_body import MAX_DECODED_BYTES
from holdfast_serving.problems import Problem, quoted
from holdfast_serving.signature import MAX_DIMENSIONS, NUMPY

ROUTED = "holdfast_routed"
"""Request parameter: another pod's router has sent this. It is run where it arrives, and the answer says how long the
server had it, in the header field `Server-Timing`."""

CLASSIFICATION = "classification"
"""Parameter of a wanted output: how many of its largest elements are asked for, as texts, in the place of all."""

_NOT_HERE = frozenset({"shared_memory_byte_size", "shared_memory_offset", "shared_memory_region"})
_CODES = {
    "BOOL": "B", "FP32": "f", "FP64": "d", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B",
    "UINT16": "H", "UINT32": "I", "UINT64": "Q",
}  # fmt: skip
_LENGTH = Struct("<I")  # before every element of BYTES
_WORDS = {"BOOL": "true or false", "BYTES": "strings", "FP32": "numbers", "FP64": "numbers"}


def check_parameters(parameters: object, *, of_output: bool = False) -> None:
    """Raises Problem 400 for parameters that are none, or that ask for what this server does not have.

    Args:
        of_output: they are an output's, of which a classification can be asked.
    """
    if parameters is None:
        return
    if type(parameters) is not dict:
        raise Problem(400, '"parameters" must be an object')
    for name, value in parameters.items():
        if type(value) not in (str, int, float, bool):
            raise Problem(400, f"parameter {quoted(name)} must be a string, a number or a boolean")
        if name in _NOT_HERE and value is not False:
            raise Problem(400, f"parameter {quoted(name)} belongs to an extension that this server does not have")
        if name == CLASSIFICATION and not of_output and value is not False:
            raise Problem(400, "classification is for outputs: it stands in the parameters of one")
        if name == "binary_data_size":
            raise Problem(
                400, "binary_data_size is for inputs, and needs the header field Inference-Header-Content-Length"
            )


def switch(parameters: dict[str, Any] | None, name: str, *, default: bool) -> bool:
    """A parameter that is true or false. Raises Problem 400."""
    value = parameters.get(name, default) if parameters else default
    if type(value) is not bool:
        raise Problem(400, f"parameter {quoted(name)} must be true or false")
    return value


def attach(items: Sequence[Any], data: memoryview) -> None:
    """Give every input whose elements came behind the JSON its part of them, as `data`.

    The parts lie in the order of the inputs in the request, which need not be the model's. Raises Problem 400.
    """
    end = 0
    for item in items:
        parameters = item.get("parameters") if type(item) is dict else None
        if type(parameters) is not dict or "binary_data_size" not in parameters:
            continue
        size = parameters.pop("binary_data_size")
        check_parameters(parameters)
        start, left = end, len(data) - end
        if type(size) is not int or not 0 <= size <= left:
            raise Problem(400, f"binary_data_size must be 0 to {left}, the bytes that are left behind the JSON")
        if "data" in item:
            raise Problem(400, "an input has its elements either in data or behind the JSON, not in both")
        end = start + size
        item["data"] = data[start:end]
    if end != len(data):
        raise Problem(400, f"{len(data) - end} bytes behind the JSON belong to no input: give its binary_data_size")


def listed(names: Iterable[str]) -> str:
    """Names for an error message."""
    all_names = list(names)
    text = ", ".join(quoted(name) for name in all_names[:20])
    return text if len(all_names) <= 20 else f"{text} and {len(all_names) - 20} more"


class Input:
    """Reads one input of a request.

    Attributes:
        name: as the model calls it.
        accepts: types that its elements have in JSON.
        code: of its elements in an array; None for texts, and for FP16, which JSON cannot carry.
        row: the shape of one row; empty where more than the number of rows varies.
    """

    __slots__ = ("_datatype", "_dimensions", "_item_size", "_row_count", "accepts", "code", "name", "row")

    def __init__(self, tensor: Tensor) -> None:
        self.name = tensor.name
        self._datatype = tensor.datatype
        self._dimensions = tensor.shape
        self.code = _CODES.get(tensor.datatype)
        self._item_size = NUMPY[tensor.datatype].itemsize
        self.accepts = _accepted(tensor.datatype)
        fixed = tensor.shape[:1] == (-1,) and -1 not in tensor.shape[1:]
        self.row: Sequence[int] = [1, *tensor.shape[1:]] if fixed else ()  # a tuple, which no JSON equals
        self._row_count = math.prod(tensor.shape[1:])

    @property
    def is_column(self) -> bool:
        """Whether it has one element in each row."""
        return bool(self.row) and self._row_count == 1 and self._datatype != "FP16"

    def read(self, item: dict[str, Any]) -> tuple[Data, Sequence[int]]:
        """(elements, shape). Raises Problem 400."""
        if item.get("datatype") != self._datatype:
            raise self._wrong(f"must have the datatype {self._datatype}")
        shape = item.get("shape")
        usual = shape == self.row and type(shape[0]) is int and type(shape[-1]) is int
        if usual:
            shape = self.row  # its numbers may be 4.0 in the text
        count = self._row_count if usual else self._checked(shape)
        data = item.get("data")
        if type(data) is not list:
            if type(data) is memoryview:  # attached
                return self._binary(data, count), shape  # type: ignore[return-value]
            check_parameters(item.get("parameters"))
            raise self._wrong("must have its elements in a list, data")
        if not self.accepts.issuperset(map(type, data)):
            data = self._unusual(data, shape)  # type: ignore[arg-type]
        if len(data) != count:
            raise self._wrong(f"has {len(data)} elements, its shape asks for {count}")
        if len(item) > 4:
            check_parameters(item.get("parameters"))
        if self.code is None:
            return data, shape  # type: ignore[return-value]
        try:
            return array(self.code, data), shape  # type: ignore[return-value]
        except OverflowError:
            raise self._wrong(f"has elements outside the range of {self._datatype}") from None

    def read_raw(self, data: memoryview) -> tuple[Data, list[int]]:
        """(elements, shape) of a request that is nothing but data: one row if rows vary. Raises Problem 400."""
        shape = [1 if size == -1 and axis == 0 else size for axis, size in enumerate(self._dimensions)]
        varying = shape.count(-1)
        if varying > 1:
            raise self._wrong(f"has more than one size to find out in {self._shape_text()}: say it in JSON")
        if self._datatype == "BYTES":  # one text, without its length
            if varying or math.prod(shape) != 1:
                raise self._wrong(f"has the shape {self._shape_text()}: more than one text needs JSON")
            return [self._text(data)], shape
        if varying:
            known = -math.prod(shape) * self._item_size
            shape[shape.index(-1)] = max(1, len(data) // known)
        return self._binary(data, math.prod(shape)), shape

    def _binary(self, data: memoryview, count: int) -> Data:
        """`count` elements in bytes."""
        if self._datatype == "BYTES":
            return self._texts(data, count)
        if len(data) != count * self._item_size:
            raise self._wrong(f"has {len(data)} bytes, its shape asks for {count * self._item_size}")
        if self._datatype == "BOOL" and np.frombuffer(data, np.uint8).max() > 1:
            raise self._wrong("has bytes other than 0 and 1, which BOOL is made of")
        return data

    def _texts(self, data: memoryview, count: int) -> list[str]:
        """Each with its length before it."""
        size = len(data)
        if count * _LENGTH.size > size:
            raise self._wrong(f"has {size} bytes, too few for the {count} texts that its shape asks for")
        if 64 * count > MAX_DECODED_BYTES:
            raise Problem(413, "the body has too many elements for one request; send fewer rows")
        texts = []
        end = 0
        for _ in range(count):
            start = end + _LENGTH.size
            if start > size:
                break
            (length,) = _LENGTH.unpack_from(data, end)
            end = start + length
            texts.append(self._text(data[start:end]))
        if end != size or len(texts) != count:
            raise self._wrong(f"has {size} bytes, which are not {count} texts with their lengths before them")
        return texts

    def _text(self, data: memoryview) -> str:
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            raise self._wrong("has a text that is not UTF-8") from None

    def _checked(self, shape: object) -> int:
        """The number of elements that a shape asks for, once it fits the model."""
        if type(shape) is not list or not all(type(size) is int for size in shape):
            raise self._wrong("must have a shape, a list of integers")
        wanted = self._dimensions
        if len(shape) > MAX_DIMENSIONS:
            raise self._wrong(f"must not have more than {MAX_DIMENSIONS} dimensions")
        if wanted and len(shape) != len(wanted):
            raise self._wrong(f"must have {len(wanted)} dimensions, {self._shape_text()}")
        if any(size < 1 for size in shape) or any(
            expected not in (-1, size) for expected, size in zip(wanted, shape, strict=False)
        ):
            raise self._wrong(f"must have a shape that fits {self._shape_text()}")
        return math.prod(shape)

    def _unusual(self, data: list[Any], shape: Sequence[int]) -> list[Any]:
        """Nested data made flat, missing numbers made NaN; whatever else is there is wrong."""
        if self._datatype == "FP16":
            raise self._wrong("is FP16, which JSON cannot carry: send it as binary data")
        size = shape[0] if shape else 1
        for inner in shape[1:]:
            if set(map(type, data)) != {list}:
                break
            if len(data) != size or set(map(len, data)) != {inner}:
                raise self._wrong("has nested data that does not fit its shape")
            data = list(chain.from_iterable(data))
            size *= inner
        if self.accepts.issuperset(map(type, data)):
            return data
        if float in self.accepts and (self.accepts | {type(None)}).issuperset(map(type, data)):
            return [math.nan if value is None else value for value in data]
        raise self._wrong(f"must have data of {_WORDS.get(self._datatype, 'integers')}, flat or nested as its shape")

    def _wrong(self, what: str) -> Problem:
        return Problem(400, f"input {quoted(self.name)} {what}")

    def _shape_text(self) -> str:
        return str(list(self._dimensions)) + (" (-1: any size)" if -1 in self._dimensions else "")


def _accepted(datatype: str) -> frozenset[type]:
    """The Python types that JSON elements of a datatype have."""
    if datatype == "FP16":
        return frozenset()
    if datatype in ("FP32", "FP64"):
        return frozenset({float, int})
    return frozenset({{"BOOL": bool, "BYTES": str}.get(datatype, int)})
