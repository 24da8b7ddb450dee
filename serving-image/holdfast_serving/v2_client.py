"""V2 REST with binary tensors, as one pod speaks it to another.

Whatever the client of a call spoke, this is how the call goes to another revision. The answer is believed only as far
as it fits this pod's own signature: names, datatypes, shapes, rows and sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from struct import Struct
from struct import error as struct_error
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson

from holdfast_bundle.manifest import Tensor
from holdfast_serving.inference import Array, Call, Data
from holdfast_serving.lease import Target
from holdfast_serving.signature import NUMPY, Signature
from holdfast_serving.v2_request import ROUTED

_JSON_SIZE = b"inference-header-content-length"
_TIMING = b"server-timing"
_TIMING_START = b"infer;dur="
_LENGTH = Struct("<I")  # before every element of BYTES
_MAX_KNOWN, _MAX_KNOWN_BYTES = 256, 4 << 10


class InvalidAnswer(Exception):
    """What came is not an answer to what was asked. The text says why, without values."""


class Client:
    """Writes calls to another revision of a model, and reads its answers by this revision's signature."""

    def __init__(self, signature: Signature, model: str, target: Target, *, rows: bool) -> None:
        """`rows`: whether every output has a row per row of input."""
        self._inputs = signature.inputs
        self._outputs = signature.outputs
        self._model = model
        self.revision = target.revision
        self._rows = rows
        begin = f"POST /v2/models/{quote(model)}/versions/{quote(target.revision)}/infer"
        begin += f" HTTP/1.1\r\nhost: {target.address}\r\n"
        self._head = begin.replace("%", "%%").encode() + (
            b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"
            b"content-length: %d\r\n\r\n"
        )
        self._has_texts = any(tensor.datatype == "BYTES" for tensor in signature.inputs)
        self._known_requests: dict[Any, tuple[bytes, int]] = {}
        self._known_answers: dict[tuple[int, bytes], _Layout] = {}

    def request(self, call: Call) -> tuple[list[Data], int]:
        """(head and body in parts, bytes of all)."""
        if self._has_texts:
            parts = [_texts(data) if isinstance(data, list) else data for data in call.inputs]
            head, size = self._begin(call.shapes, [memoryview(part).nbytes for part in parts])
            return [head, *parts], size
        key = tuple([tuple(shape) for shape in call.shapes])
        known = self._known_requests.get(key)
        if known is None:
            if len(self._known_requests) >= _MAX_KNOWN:
                self._known_requests.clear()
            sizes = [
                math.prod(shape) * NUMPY[tensor.datatype].itemsize
                for tensor, shape in zip(self._inputs, call.shapes, strict=True)
            ]
            known = self._known_requests[key] = self._begin(call.shapes, sizes)
        return [known[0], *call.inputs], known[1]

    def read(self, fields: dict[bytes, bytes], body: bytes | bytearray, rows: int) -> tuple[list[Array], float]:
        """(arrays per output of the signature, seconds that the server had the request). Raises InvalidAnswer."""
        size = fields.get(_JSON_SIZE, b"")
        if not size.isdigit() or len(size) > 12 or int(size) > len(body):
            raise InvalidAnswer("it does not say where its JSON ends")
        start = int(size)
        document = bytes(body[:start])
        layout = self._known_answers.get((rows, document))
        if layout is None:
            layout = self._layout(document, rows)
            if len(self._known_answers) >= _MAX_KNOWN:
                self._known_answers.clear()
            if len(document) <= _MAX_KNOWN_BYTES:
                self._known_answers[rows, document] = layout
        if len(body) - start != layout.size:
            raise InvalidAnswer("its tensors have another size than it says")
        return layout.arrays(body, start), _seconds(fields.get(_TIMING, b""))

    def _begin(self, shapes: Sequence[Sequence[int]], sizes: Sequence[int]) -> tuple[bytes, int]:
        """(HTTP head and JSON, bytes of the whole request)."""
        document = orjson.dumps(
            {
                "parameters": {"binary_data_output": True, ROUTED: True},
                "inputs": [
                    {
                        "name": tensor.name,
                        "datatype": tensor.datatype,
                        "shape": shape,
                        "parameters": {"binary_data_size": size},
                    }
                    for tensor, shape, size in zip(self._inputs, shapes, sizes, strict=True)
                ],
            }
        )
        data_size = sum(sizes)
        begin = self._head % (len(document), len(document) + data_size) + document
        return begin, len(begin) + data_size

    def _layout(self, document: bytes, rows: int) -> _Layout:
        try:
            answer = orjson.loads(document)
        except orjson.JSONDecodeError:
            raise InvalidAnswer("its JSON is none") from None
        if type(answer) is not dict or type(answer.get("outputs")) is not list:
            raise InvalidAnswer("it has no outputs")
        if (answer.get("model_name"), answer.get("model_version")) != (self._model, self.revision):
            raise InvalidAnswer("it comes from another model or revision")
        places: dict[str, tuple[int, int, str, list[int]]] = {}
        end = 0
        for item in answer["outputs"]:
            name, datatype, shape, size = _described(item)
            if name in places:
                raise InvalidAnswer("an output is there twice")
            places[name] = (end, end + size, datatype, shape)
            end += size
        return _Layout(end, [self._place(tensor, places, rows) for tensor in self._outputs])

    def _place(self, tensor: Tensor, places: dict[str, tuple[int, int, str, list[int]]], rows: int) -> _Place:
        if tensor.name not in places:
            raise InvalidAnswer(f"output {tensor.name!r} is missing")
        start, stop, datatype, shape = places[tensor.name]
        if datatype != tensor.datatype:
            raise InvalidAnswer(f"output {tensor.name!r} has another datatype")
        fits = not tensor.shape or (
            len(shape) == len(tensor.shape)
            and all(expected in (-1, size) for expected, size in zip(tensor.shape, shape, strict=True))
        )
        if not fits or (self._rows and shape[:1] != [rows]):
            raise InvalidAnswer(f"output {tensor.name!r} has another shape")
        if datatype != "BYTES" and math.prod(shape) * NUMPY[datatype].itemsize != stop - start:
            raise InvalidAnswer(f"output {tensor.name!r} has another size than its shape asks for")
        return start, stop, datatype, shape


_Place = tuple[int, int, str, list[int]]
"""(first byte, byte behind the last, datatype, shape) of an output, counted from the end of the JSON."""


class _Layout:
    """Where the outputs are in an answer, checked; `size`: bytes of all."""

    __slots__ = ("_places", "size")

    def __init__(self, size: int, places: list[_Place]) -> None:
        self.size = size
        self._places = [
            (start, stop, None if datatype == "BYTES" else NUMPY[datatype], math.prod(shape), shape)
            for start, stop, datatype, shape in places
        ]

    def arrays(self, body: bytes | bytearray, offset: int) -> list[Array]:
        """Raises InvalidAnswer for texts that are none."""
        made = []
        for start, stop, dtype, count, shape in self._places:
            if dtype is None:
                array = _read_texts(memoryview(body)[offset + start : offset + stop], count)
            else:
                array = np.frombuffer(body, dtype, count, offset + start)
                if not array.flags.aligned:
                    array = array.copy()
            made.append(array if len(shape) == 1 else array.reshape(shape))
        return made


def _described(item: Any) -> tuple[str, str, list[int], int]:
    """(name, datatype, shape, size) of an output in an answer."""
    if type(item) is not dict:
        raise InvalidAnswer("an output is no object")
    name, datatype, shape, parameters = (item.get(key) for key in ("name", "datatype", "shape", "parameters"))
    size = parameters.get("binary_data_size") if type(parameters) is dict else None
    if (
        type(name) is not str
        or type(datatype) is not str
        or type(shape) is not list
        or not all(type(count) is int and count >= 0 for count in shape)
        or type(size) is not int
        or size < 0
    ):
        raise InvalidAnswer("an output is not described as binary data is")
    return name, datatype, shape, size


def _texts(data: list[str]) -> bytes:
    encoded = [text.encode() for text in data]
    return b"".join([part for text in encoded for part in (_LENGTH.pack(len(text)), text)])


def _read_texts(data: memoryview, count: int) -> Array:
    if 4 * count > len(data):
        raise InvalidAnswer("it has fewer texts than its shape asks for")
    made = np.empty(count, object)
    start = 0
    try:
        for index in range(count):
            (length,) = _LENGTH.unpack_from(data, start)
            start += 4 + length
            if start > len(data):
                raise InvalidAnswer("a text ends behind its output")
            made[index] = str(data[start - length : start], "utf-8")
    except (ValueError, struct_error):
        raise InvalidAnswer("it has texts that are none") from None
    if start != len(data):
        raise InvalidAnswer("it has more texts than its shape asks for")
    return made


def _seconds(timing: bytes) -> float:
    try:
        seconds = float(timing.removeprefix(_TIMING_START)) / 1000
    except ValueError:
        seconds = math.nan
    if not timing.startswith(_TIMING_START) or not 0 <= seconds < math.inf:
        raise InvalidAnswer("it does not say how long it took")
    return seconds
