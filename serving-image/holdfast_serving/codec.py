"""Open Inference Protocol V2 over JSON.

Decisions where the protocol leaves a choice:
- `data` comes flat or nested, and goes out flat.
- FP16 has no JSON form (the protocol's own rule): inputs and outputs of that type are refused with a message.
- JSON has no NaN and no infinity. In FP32 and FP64 input, `null` is a missing value (NaN), which models with an
  imputer need. In output there is no number that could stand for them, and `null` is none to a typed client: such
  an answer is an error, 400 if the request itself held such values, else 500.
- A number too large for FP32 becomes infinity, as IEEE 754 rounds it.
- Parameters are taken as the protocol allows; those that would change the meaning of the request (binary data,
  shared memory, classification) are refused, since ignoring them would give another answer than asked for.
"""

from __future__ import annotations

import math
import time
from typing import Any, NoReturn, Protocol

from holdfast_serving.inference import Call, Outputs
from holdfast_serving.problems import Problem, quoted
from holdfast_serving.signature import Signature
from holdfast_serving.v2_answer import Answers, NotANumberError, Run
from holdfast_serving.v2_request import Input, check_parameters, listed, parse


class Client(Protocol):
    """Where a call came from, and where its answer goes."""

    @property
    def transport(self) -> object | None: ...

    def respond(self, status: int, body: bytes) -> None: ...

    def respond_problem(self, problem: Problem) -> None: ...


class JsonCall(Call):
    """A request in V2 JSON."""

    __slots__ = ("_client", "_codec", "identifier", "wanted")

    def __init__(self, codec: JsonCodec, client: Client) -> None:
        self._codec = codec
        self._client = client
        self.arrived = time.perf_counter()
        self.inputs = []
        self.shapes = []
        self.identifier: str | None = None
        self.wanted: list[int] | None = None  # indices of outputs; None for all

    @property
    def gone(self) -> bool:
        return self._client.transport is None

    def answer(self, outputs: Outputs, first: int, last: int) -> None:
        self._client.respond(200, self._codec.encode(self, outputs, first, last))

    def fail(self, problem: Problem) -> None:
        self._client.respond_problem(problem)


class JsonCodec:
    """Requests and answers of one revision of a model.

    Attributes:
        same_rows: whether all inputs of a request must have as many rows, as those that share runs must.
    """

    def __init__(self, signature: Signature, model_name: str, version: str) -> None:
        self._inputs = [Input(tensor) for tensor in signature.inputs]
        self._output_names = {tensor.name: index for index, tensor in enumerate(signature.outputs)}
        self._all = range(len(signature.outputs))
        self._unspeakable = {index for index in self._all if signature.outputs[index].datatype == "FP16"}
        self.same_rows = False
        # Beside the number of rows, only varying dimensions can tell two calls apart.
        self._uniform = all(-1 not in tensor.shape[1:] for tensor in signature.inputs)
        self._answers = Answers(signature.outputs, model_name, version)

    def decode(self, body: bytes | bytearray, client: Client) -> JsonCall:
        """A checked call. Raises Problem 400, or 413 for a body that would take too much memory."""
        call = JsonCall(self, client)
        document = parse(body)
        items = document.get("inputs")
        if type(items) is not list:
            raise Problem(400, '"inputs" must be a list')
        if len(items) != len(self._inputs):
            self._explain_names(items)
        for expected, item in zip(self._inputs, items, strict=True):
            if type(item) is not dict or item.get("name") != expected.name:
                items = self._in_order(items)
                break
        for expected, item in zip(self._inputs, items, strict=True):
            data, shape = expected.read(item)
            call.inputs.append(data)
            call.shapes.append(shape)
        shape = call.shapes[0]
        call.rows = rows = shape[0] if shape else 1
        if self.same_rows and len(call.shapes) > 1 and any(shape[0] != rows for shape in call.shapes):
            raise Problem(400, "all inputs must have the same number of rows (first dimension)")
        call.key = None if self._uniform else tuple([tuple(shape[1:]) for shape in call.shapes])
        if len(document) > 1:
            self._read_options(document, call)
        if self._unspeakable:
            for index in self._unspeakable.intersection(call.wanted or self._all):
                raise Problem(400, f"output {quoted(self._answers.names[index])} is FP16, which JSON cannot carry")
        return call

    def encode(self, call: JsonCall, outputs: Outputs, first: int, last: int) -> bytes:
        """The answer's body. Raises Problem for values that JSON cannot carry."""
        run: Run = outputs.encoded
        if run is None:
            run = outputs.encoded = self._answers.of_run(outputs)
        try:
            if call.wanted is None and call.identifier is None:
                return run.answer(first, last)
            return run.chosen_answer(call.identifier, call.wanted or self._all, first, last)
        except NotANumberError as problem:
            if any(_has_missing(data) for data in call.inputs):
                raise Problem(400, f"{problem.message}: the request has missing or infinite values") from None
            raise

    def _in_order(self, items: list[Any]) -> list[Any]:
        """Inputs that came in another order than the model's."""
        given = {item.get("name"): item for item in items if type(item) is dict and type(item.get("name")) is str}
        if len(given) != len(items) or any(expected.name not in given for expected in self._inputs):
            self._explain_names(items)
        return [given[expected.name] for expected in self._inputs]

    def _read_options(self, document: dict[str, Any], call: JsonCall) -> None:
        identifier = document.get("id")
        if identifier is not None:
            if type(identifier) is not str:
                raise Problem(400, '"id" must be a string')
            call.identifier = identifier
        check_parameters(document.get("parameters"))
        if document.get("outputs"):
            call.wanted = self._wanted(document["outputs"])

    def _wanted(self, items: Any) -> list[int]:
        if type(items) is not list:
            raise Problem(400, '"outputs" must be a list')
        wanted = []
        for item in items:
            name = item.get("name") if type(item) is dict else None
            if type(name) is not str:
                raise Problem(400, 'every item of "outputs" must be an object with a "name"')
            if name not in self._output_names:
                raise Problem(400, f"no output {quoted(name)}; there are: {listed(self._output_names)}")
            check_parameters(item.get("parameters"))
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
                raise Problem(400, f"no input {quoted(name)}; there are: {listed(expected)}")
            if names.count(name) > 1:
                raise Problem(400, f"input {quoted(name)} is there twice")
        raise Problem(400, f"these inputs are missing: {listed(name for name in expected if name not in names)}")


def _has_missing(data: Any) -> bool:
    """Whether a call's input holds what is not a finite number."""
    return getattr(data, "typecode", "") in ("f", "d") and not all(map(math.isfinite, data))
