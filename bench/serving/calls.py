"""gRPC calls in V2 with typed contents, and what must come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import grpc
import numpy as np
from bench.serving.questions import DATATYPES, NUMPY, Array, WrongAnswerError, compare

from holdfast_serving.grpc.messages import inference

INFER = "/inference.GRPCInferenceService/ModelInfer"
_CONTENTS = {"FP32": "fp32_contents", "INT64": "int64_contents"}


@dataclass(frozen=True, slots=True)
class Call:
    """A ModelInferRequest, and the outputs that must come back."""

    message: bytes
    expected: dict[str, Array]

    def check(self, answer: bytes) -> None:
        """Raises WrongAnswerError."""
        given = {}
        response = inference("ModelInferResponse").FromString(answer)
        for index, output in enumerate(response.outputs):
            if response.raw_output_contents:
                values = np.frombuffer(response.raw_output_contents[index], NUMPY[output.datatype])
            else:
                values = np.array(getattr(output.contents, _CONTENTS[output.datatype]), NUMPY[output.datatype])
            given[output.name] = values
        compare(given, self.expected)

    def answer(self, model: str, version: str) -> bytes:
        """The right answer."""
        return _message("ModelInferResponse", "outputs", model, self.expected, model_version=version)


def call(model: str, rows: dict[str, Array], expected: dict[str, Array]) -> Call:
    return Call(_message("ModelInferRequest", "inputs", model, rows), expected)


class Caller:
    """A client on a connection of its own."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._infer = self._channel.unary_unary(INFER)

    def ask(self, call: Call) -> int:
        """Call and check the answer; its bytes. Raises WrongAnswerError."""
        try:
            answer: bytes = self._infer(call.message, timeout=30)
        except grpc.RpcError as error:
            raise WrongAnswerError(str(error)) from error
        call.check(answer)
        return len(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._channel.close()


def _message(kind: str, role: str, model: str, tensors: dict[str, Array], **fields: str) -> bytes:
    message = inference(kind)(model_name=model, **fields)
    for name, values in tensors.items():
        datatype = DATATYPES[values.dtype.name]
        tensor = getattr(message, role).add(name=name, datatype=datatype, shape=values.shape)
        getattr(tensor.contents, _CONTENTS[datatype]).extend(values.ravel().tolist())
    content: bytes = message.SerializeToString()
    return content
