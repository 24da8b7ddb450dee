"""Open Inference Protocol V2 over gRPC: messages to checked calls, and runs to messages.

Decisions where the protocol leaves a choice:
- Inputs come in any order; their elements in typed contents or, all of them, in raw_input_contents.
- Outputs come as the inputs came: raw to raw. FP16 has no typed form, so that an answer with an output of it is raw.
- BYTES are UTF-8, for the runtime's strings are text.
- NaN and infinity are numbers here, in both directions.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, cast

from holdfast_bundle.manifest import Tensor
from holdfast_serving.grpc import messages, wire
from holdfast_serving.grpc.answers import CONTENTS, Answers, Run, parameter
from holdfast_serving.grpc.frames import Buffer
from holdfast_serving.inference import Call, Data, Outputs
from holdfast_serving.metrics import GRPC
from holdfast_serving.problems import Problem, quoted
from holdfast_serving.receipts import RECEIPT
from holdfast_serving.signature import Signature
from holdfast_serving.v2_codec import NO_CLASSES, Codec
from holdfast_serving.v2_request import CLASSIFICATION, Input, check_parameters, switch

_LARGE_BYTES = 64 << 10
"""Of a request; smaller ones can do no harm, and copies of them cost nothing."""

_MAX_COMPACT_BYTES = 4 << 20
"""Of typed contents whose elements take more memory than bytes on the wire: up to sixteen times as much."""

CONTENTS_NAMES = {
    1: "bool_contents", 2: "int_contents", 3: "int64_contents", 4: "uint_contents", 5: "uint64_contents",
    6: "fp32_contents", 7: "fp64_contents", 8: "bytes_contents",
}  # fmt: skip
_AS_IN_MEMORY = frozenset({"BOOL", "FP32", "FP64"})  # packed numbers are the array's bytes
# Datatypes of which any bytes are elements, in typed contents and in raw ones: none can change what a request means.
_FLOATS = frozenset({"FP32", "FP64"})
_ANY_BYTES = frozenset(CONTENTS.keys() - {"BOOL", "BYTES"} | {"FP16"})
_MAX_FORMS = 64


class Client(Protocol):
    """Where a call came from, and where its answer goes."""

    @property
    def deadline(self) -> float: ...

    @property
    def gone(self) -> bool: ...

    def reply(self, parts: Sequence[Buffer]) -> None: ...

    def fail(self, problem: Problem) -> None: ...


class GrpcCall(Call):
    """A ModelInferRequest.

    Attributes:
        identifier: comes back with the answer; empty for none.
        wanted: indices of outputs in the order of the answer; None for all.
        raw: whether outputs go out in raw_output_contents.
        classes: how many of an output's largest elements are asked for, by its index.
        sealed: whether the answer bears a receipt.
    """

    __slots__ = ("_client", "_codec", "classes", "identifier", "pinned", "raw", "sealed", "wanted")

    protocol = GRPC

    def __init__(self, codec: GrpcCodec, client: Client) -> None:
        self._codec = codec
        self._client = client
        self.arrived = time.perf_counter()
        self.inputs = []
        self.shapes = []
        self.pinned = self.sealed = False
        self.identifier = ""
        self.wanted: list[int] | None = None
        self.raw = False
        self.classes: Mapping[int, int] = NO_CLASSES

    @property
    def gone(self) -> bool:
        return self._client.gone

    def answer(self, outputs: Outputs, first: int, last: int) -> None:
        self._client.reply(self._codec.encode(self, outputs, first, last))

    def fail(self, problem: Problem) -> None:
        self._client.fail(problem)


class GrpcCodec(Codec):
    """Requests and answers of one revision of a model."""

    def __init__(self, signature: Signature, model_name: str, version: str) -> None:
        super().__init__(signature)
        self._model = model_name
        self._versions = ("", version)
        self._inputs = [_Input(tensor) for tensor in signature.inputs]
        self._answers = Answers(signature.outputs, model_name, version)
        self._request = messages.inference("ModelInferRequest")
        datatypes = {tensor.datatype for tensor in signature.inputs}
        self._learnable = {False: datatypes <= _FLOATS, True: datatypes <= _ANY_BYTES}  # whether raw: whether to learn
        self._forms: dict[int, _Form] = {}  # by the size of a message
        self._missed = 0  # the size of the last message whose form was not known
        self._grows = any(tensor.datatype not in _AS_IN_MEMORY for tensor in signature.inputs)

    def decode(self, message: Buffer, client: Client) -> GrpcCall:
        """A checked call. Raises Problem 400, 404, or 413 for a message that would take too much memory."""
        call = GrpcCall(self, client)
        form = self._forms.get(len(message))
        if form is not None and form.fill(call, message):
            return call
        raw: Sequence[bytes | memoryview]
        if len(message) > _LARGE_BYTES:
            message, raw, typed = wire.split(memoryview(message))
            if typed > _MAX_COMPACT_BYTES and self._grows:
                raise Problem(413, f"typed contents have more than {_MAX_COMPACT_BYTES} bytes; use raw_input_contents")
            request = messages.parse(self._request, message)
        else:
            request = messages.parse(self._request, message)
            raw = request.raw_input_contents
        if request.model_name != self._model:
            raise Problem(404, f"no model {quoted(request.model_name)} here")
        if request.model_version not in self._versions:
            raise Problem(404, f"model {quoted(self._model)} has no version {quoted(request.model_version)} here")
        call.pinned = bool(request.model_version)
        self._read_inputs(request.inputs, raw, call)
        self._count_rows(call)
        call.identifier = request.id
        if request.parameters and switch(_checked(request.parameters), RECEIPT, default=False):
            self.sealer.check(call.rows)
            call.sealed = True
        if request.outputs:
            self._read_outputs(request.outputs, call)
        if self._halves and self._halves.intersection(call.wanted or self._all).difference(call.classes):
            call.raw = True
        if type(message) is bytes and self._learnable[bool(raw)] and not (call.identifier or call.sealed):
            self._learn(message, call, [item.name for item in request.inputs])
        return call

    def _learn(self, message: bytes, call: GrpcCall, names: list[str]) -> None:
        """Remember the form of a message, if it is the second in a row of its size."""
        size = len(message)
        if size != self._missed:
            self._missed = size
            return
        places = wire.elements(message)
        given = [bytes(cast(bytes, data)) for data in call.inputs]
        if names == self._input_names and [message[start:end] for start, end in places] == given:
            if len(self._forms) >= _MAX_FORMS:
                self._forms.clear()
            self._forms[size] = _Form(message, places, call)

    def encode(self, call: GrpcCall, outputs: Outputs, first: int, last: int) -> Sequence[Buffer]:
        """The answer's message, in parts."""
        run: Run | None = outputs.encoded.get(self)
        if run is None:
            run = outputs.encoded[self] = self._answers.of_run(outputs)
        texts = self._classified(call.classes, outputs, first, last) if call.classes else None
        parts = run.answer(call.identifier, call.wanted, first, last, raw=call.raw, texts=texts)
        return (*parts, parameter(RECEIPT, self.sealer.receipt(outputs, first, last))) if call.sealed else parts

    def _read_inputs(self, items: Any, raw: Sequence[bytes | memoryview], call: GrpcCall) -> None:
        contents: Sequence[bytes | memoryview | None]
        if raw:
            if len(raw) != len(items):
                raise Problem(400, f"there are {len(items)} inputs and {len(raw)} raw_input_contents: each needs one")
            contents, call.raw = raw, True
        else:
            contents = [None] * len(items)
        pairs = list(zip(items, contents, strict=True))
        if [item.name for item in items] != self._input_names:
            pairs = self._in_order(pairs)
        for expected, (item, content) in zip(self._inputs, pairs, strict=True):
            data, shape = expected.read_message(item, content)
            call.inputs.append(data)
            call.shapes.append(shape)

    def _in_order(self, pairs: list[Any]) -> list[Any]:
        """Inputs that came in another order than the model's."""
        names = [item.name for item, _ in pairs]
        if sorted(names) != sorted(self._input_names):
            self._explain_names(names)
        given = dict(zip(names, pairs, strict=True))
        return [given[name] for name in self._input_names]

    def _read_outputs(self, items: Any, call: GrpcCall) -> None:
        call.wanted = wanted = []
        classes = {}
        for item in items:
            wanted.append(self._output(item.name))
            parameters = _checked(item.parameters, of_output=True) if item.parameters else {}
            if CLASSIFICATION in parameters:
                classes[wanted[-1]] = self._classes(call, wanted[-1], parameters[CLASSIFICATION])
        self._check_wanted(wanted)
        if classes:
            call.classes = classes
            call.pinned = call.pinned or self._are_named(classes)


class _Form:
    """A request but for its elements. Clients repeat themselves, and what is the same need not be read again."""

    __slots__ = ("_end", "_known", "_places", "_rest", "_shapes", "_start")

    def __init__(self, message: bytes, places: Sequence[tuple[int, int]], call: GrpcCall) -> None:
        """`call`: what `message`, with elements at `places`, was read as."""
        self._shapes = call.shapes
        self._known = call.rows, call.key, call.wanted, call.raw, call.pinned, call.classes
        self._places = places
        self._start = message[: places[0][0]]
        self._end = message[places[-1][1] :]
        self._rest = [(before, message[before:after]) for (_, before), (after, _) in pairwise(places)]

    def fill(self, call: GrpcCall, message: Buffer) -> bool:
        """Make a call of a message of the same size, if it is of this form."""
        if type(message) is not bytes or not message.startswith(self._start) or not message.endswith(self._end):
            return False
        for position, part in self._rest:
            if not message.startswith(part, position):
                return False
        call.inputs = [message[start:end] for start, end in self._places]
        call.shapes = self._shapes
        call.rows, call.key, call.wanted, call.raw, call.pinned, call.classes = self._known
        return True


class _Input(Input):
    """Reads one input of a ModelInferRequest."""

    __slots__ = ("_as_in_memory", "_field", "_tag")

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor)
        number = CONTENTS.get(tensor.datatype, 0)
        self._field = CONTENTS_NAMES.get(number, "")
        self._tag = number << 3 | 2
        self._as_in_memory = tensor.datatype in _AS_IN_MEMORY

    def read_message(self, item: Any, raw: bytes | memoryview | None) -> tuple[Data, list[int]]:
        """(elements, shape) of an InferInputTensor. Raises Problem 400."""
        if item.datatype != self._datatype:
            raise self._wrong(f"must have the datatype {self._datatype}")
        shape = list(item.shape)
        count = self._row_count if shape == self.row else self._checked(shape)
        if item.parameters:
            _checked(item.parameters)
        if raw is not None:
            if item.HasField("contents"):
                raise self._wrong("has contents beside the request's raw_input_contents: send one or the other")
            return self._binary(memoryview(raw), count), shape
        if self._as_in_memory:
            return self._packed(item.contents, count), shape
        return self._listed(item.contents, count), shape

    def _packed(self, contents: Any, count: int) -> Data:
        """Numbers whose packed form is the array's, taken from the message as they are."""
        data: bytes = contents.SerializeToString()
        start, size = 0, len(data)
        if data:
            tag, start = wire.read(data, 0)
            length, start = wire.read(data, start)
            if tag != self._tag or start + length != size:
                raise self._wrong(f"must have its elements in {self._field}")
        if size - start != count * self._item_size:
            raise self._miscounted((size - start) // self._item_size, count)
        return data[start:]

    def _listed(self, contents: Any, count: int) -> Data:
        if not self._field:
            raise self._wrong(f"is {self._datatype}, which raw_input_contents alone can carry")
        elements = getattr(contents, self._field)
        if len(contents.ListFields()) != bool(elements):
            raise self._wrong(f"must have its elements in {self._field}")
        if len(elements) != count:
            raise self._miscounted(len(elements), count)
        if self.code is None:
            return [self._text(element) for element in elements]
        try:
            return array(self.code, elements)
        except OverflowError:
            raise self._wrong(f"has elements outside the range of {self._datatype}") from None

    def _miscounted(self, there: int, count: int) -> Problem:
        return self._wrong(f"has {there} elements, its shape asks for {count}")


def _checked(parameters: Any, *, of_output: bool = False) -> dict[str, Any]:
    """By their names. Raises Problem 400 for those that ask for what this server does not have."""
    given = {
        name: getattr(value, value.WhichOneof("parameter_choice") or "", None) for name, value in parameters.items()
    }
    check_parameters(given, of_output=of_output)
    return given
