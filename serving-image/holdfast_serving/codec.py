"""Open Inference Protocol V2 over REST: JSON, and the binary tensor extension.

A body is JSON; or JSON whose size the header tells, with tensors in bytes behind it; or, with a size of 0, nothing
but the bytes of the only input. Every output goes out as it is asked for.

Decisions where the protocol leaves a choice:
- `data` comes flat or nested, and goes out flat.
- FP16 has no JSON form (the protocol's own rule): without binary data it is refused with a message.
- BYTES are UTF-8 in either form, for the runtime's strings are text.
- A request without JSON asks for one row where the first dimension varies, and gets all outputs in bytes.
- JSON has no NaN and no infinity. In FP32 and FP64 input, `null` is a missing value (NaN), which models with an
  imputer need. In output there is no number that could stand for them, and `null` is none to a typed client: such
  an answer is an error, 400 if the request itself held such values, else 500.
- A number too large for FP32 becomes infinity, as IEEE 754 rounds it.
- Parameters are taken as the protocol allows; those that would change the meaning of the request (shared memory) are
  refused, since ignoring them would give another answer than asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np

from holdfast_serving.connection import JSON
from holdfast_serving.inference import Call, Outputs, to_array
from holdfast_serving.json_body import parse
from holdfast_serving.metrics import REST, ROUTER
from holdfast_serving.problems import Problem, quoted
from holdfast_serving.receipts import RECEIPT
from holdfast_serving.signature import Signature
from holdfast_serving.v2_answer import Answers, NotANumberError, Run
from holdfast_serving.v2_codec import NO_CLASSES, Codec
from holdfast_serving.v2_form import Forms
from holdfast_serving.v2_request import CLASSIFICATION, ROUTED, Input, attach, check_parameters, switch

_BINARY = b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"
_TIMING = b"server-timing: infer;dur=%.3f\r\n"


class Client(Protocol):
    """Where a call came from, and where its answer goes."""

    @property
    def transport(self) -> object | None: ...

    def respond(self, status: int, body: bytes, fields: bytes = ...) -> None:
        """`fields`: header lines that say what the body is, where it is not JSON."""
        ...

    def respond_problem(self, problem: Problem) -> None: ...


class RestCall(Call):
    """A request over REST.

    Attributes:
        identifier: comes back with the answer.
        wanted: indices of outputs in the order of the answer; None for all.
        binary: those that go out in bytes.
        classes: how many of an output's largest elements are asked for, by its index.
        sealed: whether the answer bears a receipt.
        timed: whether the answer says how long this server had the request.
    """

    __slots__ = (
        "_client",
        "_codec",
        "binary",
        "classes",
        "identifier",
        "pinned",
        "protocol",
        "sealed",
        "timed",
        "wanted",
    )

    def __init__(self, codec: RestCodec, client: Client) -> None:
        self._codec = codec
        self._client = client
        self.arrived = time.perf_counter()
        self.deadline = math.inf
        self.inputs = []
        self.shapes = []
        self.protocol = REST
        self.pinned = self.sealed = self.timed = False
        self.identifier: str | None = None
        self.wanted: list[int] | None = None
        self.binary: Collection[int] = ()
        self.classes: Mapping[int, int] = NO_CLASSES

    @property
    def gone(self) -> bool:
        return self._client.transport is None

    def answer(self, outputs: Outputs, first: int, last: int) -> None:
        body, json_size = self._codec.encode(self, outputs, first, last)
        if self.timed:
            fields = _BINARY % json_size if self.binary else JSON
            self._client.respond(200, body, fields + _TIMING % (1000 * (time.perf_counter() - self.arrived)))
        elif self.binary:
            self._client.respond(200, body, _BINARY % json_size)
        else:
            self._client.respond(200, body)

    def fail(self, problem: Problem) -> None:
        self._client.respond_problem(problem)


class RestCodec(Codec):
    """Requests and answers of one revision of a model."""

    def __init__(self, signature: Signature, model_name: str, version: str) -> None:
        super().__init__(signature)
        self._inputs = [Input(tensor) for tensor in signature.inputs]
        columns = len(self._inputs) > 1 and all(given.is_column for given in self._inputs) and not self._halves
        self._forms = Forms(self._inputs) if columns else None
        self._answers_of = partial(Answers, signature.outputs, model_name)
        self._answers = self._answers_of(version)
        self._other = ("", self._answers)  # the other revision that answered last, and its answers

    def decode(self, body: bytes | bytearray, client: Client, json_size: int | None = None) -> RestCall:
        """A checked call. Raises Problem 400, or 413 for a body that would take too much memory.

        Args:
            json_size: bytes of the body that are JSON; None for all of them.
        """
        call = RestCall(self, client)
        forms = self._forms
        if forms is not None and json_size is None and type(body) is bytes:
            known = forms.read(body)
            if known is not None:
                call.inputs, call.shapes, call.rows, call.key = known, forms.shapes, 1, None
                return call
        if json_size is None:
            document = parse(body)
        elif json_size == 0:
            return self._decode_raw(body, call)
        elif json_size > len(body):
            raise Problem(400, f"Inference-Header-Content-Length is {json_size}, and the body has {len(body)} bytes")
        else:
            document = parse(body[:json_size])
        items = document.get("inputs")
        if type(items) is not list:
            raise Problem(400, '"inputs" must be a list')
        if json_size is not None:
            attach(items, memoryview(body)[json_size:])
        if len(items) != len(self._inputs):
            self._explain_names(_names(items))
        inputs, shapes = call.inputs, call.shapes
        for expected, item in zip(self._inputs, items):  # noqa: B905 - of one length; to say so costs as much again
            if type(item) is not dict or item.get("name") != expected.name:
                found = self._in_order(items)
                read = [given.read(item) for given, item in zip(self._inputs, found, strict=True)]
                call.inputs, call.shapes = [data for data, _ in read], [shape for _, shape in read]
                break
            data, shape = expected.read(item)
            inputs.append(data)
            shapes.append(shape)
        self._count_rows(call)
        if len(document) > 1:
            self._read_options(document, call)
        elif forms is not None and call.rows == 1 and json_size is None and type(body) is bytes:
            forms.learn(body)
        if self._halves:
            for index in self._halves.intersection(call.wanted or self._all).difference(call.binary, call.classes):
                name = quoted(self._answers.names[index])
                raise Problem(400, f"output {name} is FP16, which JSON cannot carry; ask for it with binary_data")
        return call

    def encode(self, call: RestCall, outputs: Outputs, first: int, last: int) -> tuple[bytes, int]:
        """(the answer's body, bytes of it that are JSON). Raises Problem for values that JSON cannot carry."""
        run: Run | None = outputs.encoded.get(self)
        if run is None:
            answers = self._answers if outputs.revision is None else self._answers_by(outputs.revision)
            run = outputs.encoded[self] = answers.of_run(outputs)
        try:
            if call.wanted is None and call.identifier is None and not call.binary and not call.sealed:
                body = run.answer(first, last)
                return body, len(body)
            if call.binary is self._all and call.identifier is None and not call.sealed:
                return run.binary_answer(first, last)
            said = {"receipt": self.sealer.receipt(outputs, first, last)} if call.sealed else None
            texts = self._classified(call.classes, outputs, first, last)
            return run.chosen_answer(call.identifier, call.wanted or self._all, call.binary, first, last, said, texts)
        except NotANumberError as problem:
            if self._has_missing(call):
                raise Problem(400, f"{problem.message}: the request has missing or infinite values") from None
            raise

    def _decode_raw(self, body: bytes | bytearray, call: RestCall) -> RestCall:
        """A request that is nothing but data."""
        if len(self._inputs) != 1:
            raise Problem(400, f"this model has {len(self._inputs)} inputs: a body needs JSON to tell them apart")
        data, shape = self._inputs[0].read_raw(memoryview(body))
        call.inputs.append(data)
        call.shapes.append(shape)
        call.binary = self._all
        self._count_rows(call)
        return call

    def _answers_by(self, revision: str) -> Answers:
        """Answers that say that another revision than this pod's gave them."""
        if self._other[0] != revision:
            self._other = (revision, self._answers_of(revision))
        return self._other[1]

    def _in_order(self, items: list[Any]) -> list[Any]:
        """Inputs that came in another order than the model's."""
        given = {item.get("name"): item for item in items if type(item) is dict and type(item.get("name")) is str}
        if len(given) != len(items) or any(expected.name not in given for expected in self._inputs):
            self._explain_names(_names(items))
        return [given[expected.name] for expected in self._inputs]

    def _read_options(self, document: dict[str, Any], call: RestCall) -> None:
        identifier = document.get("id")
        if identifier is not None:
            if type(identifier) is not str:
                raise Problem(400, '"id" must be a string')
            call.identifier = identifier
        parameters = document.get("parameters")
        check_parameters(parameters)
        if parameters and parameters.get(ROUTED) is True:
            call.protocol = ROUTER
            call.pinned = call.timed = True
        if switch(parameters, RECEIPT, default=False):
            self.sealer.check(call.rows)
            call.sealed = True
        binary = switch(parameters, "binary_data_output", default=False)
        if document.get("outputs"):
            self._read_outputs(document["outputs"], call, binary=binary)
        elif binary:
            call.binary = self._all

    def _read_outputs(self, items: Any, call: RestCall, *, binary: bool) -> None:
        """`binary`: what the request says of all outputs; each may say otherwise."""
        if type(items) is not list:
            raise Problem(400, '"outputs" must be a list')
        call.wanted, call.binary = wanted, chosen = [], []
        classes = {}
        for item in items:
            name = item.get("name") if type(item) is dict else None
            if type(name) is not str:
                raise Problem(400, 'every item of "outputs" must be an object with a "name"')
            wanted.append(self._output(name))
            parameters = item.get("parameters")
            check_parameters(parameters, of_output=True)
            if switch(parameters, "binary_data", default=binary):
                chosen.append(wanted[-1])
            if parameters and CLASSIFICATION in parameters:
                classes[wanted[-1]] = self._classes(call, wanted[-1], parameters[CLASSIFICATION])
        self._check_wanted(wanted)
        if classes:
            call.classes = classes
            call.pinned = call.pinned or self._are_named(classes)

    def _has_missing(self, call: RestCall) -> bool:
        """Whether a call's inputs hold what is not a finite number."""
        given = zip(self._signature.inputs, call.inputs, call.shapes, strict=True)
        arrays = [to_array(tensor, data, shape) for tensor, data, shape in given if tensor.datatype.startswith("FP")]
        return not all(np.isfinite(array).all() for array in arrays)


def _names(items: list[Any]) -> list[Any]:
    return [item.get("name") if type(item) is dict else None for item in items]
