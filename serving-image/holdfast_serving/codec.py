"""Open Inference Protocol V2 over JSON.

Decisions where the protocol leaves a choice:
- `data` comes flat or nested, and goes out flat.
- FP16 has no JSON form (the protocol's own rule): inputs and outputs of that type are refused with a message.
- JSON has no NaN and no infinity. In FP32 and FP64 input, `null` is a missing value (NaN), which models with an
  imputer need. In output there is no number that could stand for them, so such an answer is an error (500): `null`
  is not a number to any typed client.
- A number too large for FP32 becomes infinity, as IEEE 754 rounds it.
- Parameters are taken as the protocol allows; those that would change the meaning of the request (binary data,
  shared memory, classification) are refused, since ignoring them would give another answer than asked for.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
import orjson

from holdfast_bundle.manifest import Tensor
from holdfast_serving.inference import Array, Call, Data, Outputs
from holdfast_serving.problems import Problem, quoted
from holdfast_serving.signature import Signature

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


class Client(Protocol):
    """Where a call came from, and where its answer goes."""

    @property
    def transport(self) -> object | None: ...

    def respond(self, status: int, body: bytes) -> None: ...

    def respond_problem(self, problem: Problem) -> None: ...


class JsonCall(Call):
    """A request in V2 JSON."""

    __slots__ = ("client", "codec", "identifier", "wanted")

    def __init__(self, codec: JsonCodec, client: Client) -> None:
        self.codec = codec
        self.client = client
        self.identifier: str | None = None
        self.wanted: list[int] | None = None  # indices of outputs; None for all

    @property
    def gone(self) -> bool:
        return self.client.transport is None

    def answer(self, outputs: Outputs, first: int, last: int) -> None:
        self.client.respond(200, self.codec.encode(self, outputs, first, last))

    def fail(self, problem: Problem) -> None:
        self.client.respond_problem(problem)


class JsonCodec:
    """Requests and answers of one revision of a model."""

    def __init__(self, signature: Signature, model_name: str, version: str) -> None:
        self._inputs = [_Input(tensor) for tensor in signature.inputs]
        self._outputs = [_Output(tensor) for tensor in signature.outputs]
        self._output_names = {tensor.name: index for index, tensor in enumerate(signature.outputs)}
        self._all = list(range(len(self._outputs)))
        self._unspeakable = [tensor.name for tensor in signature.outputs if tensor.datatype == "FP16"]
        # With rows, all inputs have as many; beyond that only varying dimensions can tell two calls apart.
        self._has_rows = signature.has_rows
        self._uniform = all(-1 not in tensor.shape[1:] for tensor in signature.inputs)
        names = orjson.dumps({"model_name": model_name, "model_version": version})
        self._begin = names[:-1] + b","

    def decode(self, body: bytes | bytearray, client: Client) -> JsonCall:
        """A checked call. Raises Problem 400, or 413 for a body that would take too much memory."""
        arrived = time.perf_counter()
        document = _parsed(body)
        call = JsonCall(self, client)
        call.arrived = arrived
        items = document.get("inputs")
        if type(items) is not list:
            raise Problem(400, '"inputs" must be a list')
        if len(items) != len(self._inputs):
            self._explain_names(items)
        call.inputs = []
        call.shapes = []
        for expected, item in zip(self._inputs, items, strict=True):
            if type(item) is not dict or item.get("name") != expected.name:
                return self._decode_reordered(document, items, call)
            data, shape = expected.read(item)
            call.inputs.append(data)
            call.shapes.append(shape)
        return self._finish(document, call)

    def encode(self, call: JsonCall, outputs: Outputs, first: int, last: int) -> bytes:
        """The answer's body. Raises Problem 500 for values that JSON cannot carry."""
        if outputs.encoded is None:
            outputs.encoded = [
                output.encode(array, outputs.has_rows)
                for output, array in zip(self._outputs, outputs.arrays, strict=True)
            ]
        parts = [self._begin]
        if call.identifier is not None:
            parts += (b'"id":', orjson.dumps(call.identifier), b",")
        separator = b'"outputs":['
        for index in call.wanted or self._all:
            parts.append(separator)
            self._outputs[index].write(parts, outputs.encoded[index], first, last)
            separator = b","
        parts.append(b"]}")
        return b"".join(parts)

    def _decode_reordered(self, document: dict[str, Any], items: list[Any], call: JsonCall) -> JsonCall:
        """Inputs in another order than the model's."""
        given = {item.get("name"): item for item in items if type(item) is dict and type(item.get("name")) is str}
        if len(given) != len(items) or any(expected.name not in given for expected in self._inputs):
            self._explain_names(items)
        call.inputs, call.shapes = [], []
        for expected in self._inputs:
            data, shape = expected.read(given[expected.name])
            call.inputs.append(data)
            call.shapes.append(shape)
        return self._finish(document, call)

    def _finish(self, document: dict[str, Any], call: JsonCall) -> JsonCall:
        shape = call.shapes[0]
        call.rows = rows = shape[0] if shape else 1
        if self._has_rows and len(call.shapes) > 1 and any(shape[0] != rows for shape in call.shapes):
            raise Problem(400, "all inputs must have the same number of rows (first dimension)")
        call.key = None if self._uniform else tuple(tuple(shape[1:]) for shape in call.shapes)
        if len(document) > 1:
            identifier = document.get("id")
            if identifier is not None:
                if type(identifier) is not str:
                    raise Problem(400, '"id" must be a string')
                call.identifier = identifier
            _check_parameters(document.get("parameters"))
            if document.get("outputs"):
                call.wanted = self._wanted(document["outputs"])
        if self._unspeakable:
            for index in call.wanted or self._all:
                if self._outputs[index].name in self._unspeakable:
                    raise Problem(400, f"output {quoted(self._outputs[index].name)} is FP16, which JSON cannot carry")
        return call

    def _wanted(self, items: Any) -> list[int]:
        if type(items) is not list:
            raise Problem(400, '"outputs" must be a list')
        wanted = []
        for item in items:
            name = item.get("name") if type(item) is dict else None
            if type(name) is not str:
                raise Problem(400, 'every item of "outputs" must be an object with a "name"')
            if name not in self._output_names:
                raise Problem(400, f"no output {quoted(name)}; there are: {_list(self._output_names)}")
            _check_parameters(item.get("parameters"))
            wanted.append(self._output_names[name])
        if len(set(wanted)) != len(wanted):
            raise Problem(400, '"outputs" names an output twice')
        return wanted

    def _explain_names(self, items: list[Any]) -> NoReturn:
        names = [item.get("name") if type(item) is dict else None for item in items]
        if not all(type(name) is str for name in names):
            raise Problem(400, 'every item of "inputs" must be an object with a "name"')
        expected = [tensor.name for tensor in self._inputs]
        for name in map(str, names):
            if name not in expected:
                raise Problem(400, f"no input {quoted(name)}; there are: {_list(expected)}")
            if names.count(name) > 1:
                raise Problem(400, f"input {quoted(name)} is there twice")
        raise Problem(400, f"these inputs are missing: {_list(name for name in expected if name not in names)}")


class _Input:
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
            _check_parameters(item.get("parameters"))
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


class _Encoded(NamedTuple):
    """One output of a run as JSON.

    Attributes:
        pieces: elements per row; all in one piece for an output without rows.
        counted: whether the shape begins with the number of rows.
        tail: the rest of the shape and what follows it.
        broken: whether a value somewhere is not a number.
    """

    pieces: list[bytes]
    counted: bool
    tail: bytes
    broken: bool


class _Output:
    """Writes one output of an answer."""

    __slots__ = ("_begin", "name")

    def __init__(self, tensor: Tensor) -> None:
        self.name = tensor.name
        described = orjson.dumps({"name": tensor.name, "datatype": tensor.datatype})
        self._begin = described[:-1] + b',"shape":['

    @staticmethod
    def encode(array: Array, has_rows: bool) -> _Encoded:
        """All rows are written in one call and cut apart, which costs far less than a call per row."""
        sizes = [b"%d" % size for size in array.shape]
        tail = b",".join([b"", *sizes[1:]] if has_rows else sizes) + b'],"data":['
        rows = np.ascontiguousarray(array).reshape(len(array) if has_rows else 1, -1)
        if array.dtype.kind == "O":  # texts could hold the marks to cut at
            return _Encoded([orjson.dumps(row)[1:-1] for row in rows.tolist()], has_rows, tail, False)
        text = orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)
        broken = array.dtype.kind == "f" and b"null" in text
        return _Encoded(text[2:-2].split(b"],["), has_rows, tail, broken)

    def write(self, parts: list[bytes], encoded: _Encoded, first: int, last: int) -> None:
        """Append rows `first` to `last` to the parts of an answer."""
        pieces, counted, tail, broken = encoded
        count = last - first
        text = pieces[first] if count == 1 or not counted else b",".join(pieces[first:last])
        if broken and b"null" in text:
            raise Problem(500, f"output {quoted(self.name)} holds NaN or infinity, which JSON cannot carry")
        parts += (self._begin, b"%d" % count if counted else b"", tail, text, b"]}")


def _accepted(datatype: str) -> frozenset[type]:
    """The Python types that JSON elements of a datatype have."""
    if datatype in ("FP32", "FP64"):
        return frozenset({float, int})
    return frozenset({{"BOOL": bool, "BYTES": str}.get(datatype, int)})


def _parsed(body: bytes | bytearray) -> dict[str, Any]:
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


def _check_parameters(parameters: object) -> None:
    if parameters is None:
        return
    if type(parameters) is not dict:
        raise Problem(400, '"parameters" must be an object')
    for name, value in parameters.items():
        if type(value) not in (str, int, float, bool):
            raise Problem(400, f"parameter {quoted(name)} must be a string, a number or a boolean")
        if name in _NOT_HERE and value is not False:
            raise Problem(400, f"parameter {quoted(name)} belongs to an extension that this server does not have")


def _list(names: Iterable[str]) -> str:
    listed = list(names)
    text = ", ".join(quoted(name) for name in listed[:20])
    return text if len(listed) <= 20 else f"{text} and {len(listed) - 20} more"
