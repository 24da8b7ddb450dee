"""A plain gRPC client: grpcio, with messages made from the server's own descriptors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from tests.unit.serving.server import Server

from holdfast_serving.grpc import messages
from holdfast_serving.grpc.answers import CONTENTS
from holdfast_serving.grpc.codec import CONTENTS_NAMES

INFERENCE = "inference.GRPCInferenceService"
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Client:
    """A channel to a server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    def call(self, method: str, of: str = INFERENCE, seconds: float = 60, **fields: Any) -> Any:
        """The answer to a unary call; raises grpc.RpcError."""
        return self.unary(method, of)(self.request(method, of, **fields), timeout=seconds)

    def unary(self, method: str, of: str = INFERENCE) -> grpc.UnaryUnaryMultiCallable:
        kind = "HealthCheck" if method == "Check" else "HealthList" if method == "List" else method
        response = messages.message(f"{of.rpartition('.')[0]}.{kind}Response")
        return self.channel.unary_unary(f"/{of}/{method}", lambda m: m.SerializeToString(), response.FromString)

    def request(self, method: str, of: str = INFERENCE, **fields: Any) -> Any:
        kind = "HealthCheck" if method == "Check" else "HealthList" if method == "List" else method
        return messages.message(f"{of.rpartition('.')[0]}.{kind}Request")(**fields)

    def infer(self, seconds: float = 60, **fields: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs by name; fields as of `request`."""
        return outputs(self.call("ModelInfer", seconds=seconds, **request(**fields)))

    def stream(self, requests: Iterable[dict[str, Any]], seconds: float = 60) -> Iterator[Any]:
        """Answers to the fields of requests."""
        method = self.channel.stream_stream(
            f"/{INFERENCE}/ModelStreamInfer",
            lambda fields: messages.inference("ModelInferRequest")(**fields).SerializeToString(),
            messages.inference("ModelStreamInferResponse").FromString,
        )
        answers: Iterator[Any] = method(iter(requests), timeout=seconds)
        return answers


@contextmanager
def client(server: Server) -> Iterator[Client]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", _OPTIONS) as channel:
        yield Client(channel)


def request(raw: bool = False, **fields: Any) -> dict[str, Any]:
    """Fields of a ModelInferRequest. Inputs are (datatype, shape, data) by name, beside fields of the message."""
    known = {name: fields.pop(name) for name in ("id", "model_version", "outputs", "parameters") if name in fields}
    inputs: list[dict[str, Any]] = []
    contents: list[bytes] = []
    for name, (datatype, shape, data) in fields.items():
        inputs.append({"name": name, "datatype": datatype, "shape": shape})
        if raw:
            contents.append(raw_of(datatype, data))
        else:
            elements = [value.encode() for value in data] if datatype == "BYTES" else data
            inputs[-1]["contents"] = {CONTENTS_NAMES[CONTENTS[datatype]]: elements}
    return {"model_name": "wine", "inputs": inputs, "raw_input_contents": contents, **known}


def raw_of(datatype: str, data: Any) -> bytes:
    """Elements as raw contents have them."""
    if datatype == "BYTES":
        return b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in data)
    made: bytes = np.array(data, numpy_type(datatype)).tobytes()
    return made


def numpy_type(datatype: str) -> str:
    if datatype == "BOOL":
        return "bool"
    return datatype.lower().replace("fp", "float")


def outputs(response: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays by name, from either form; BYTES as arrays of str."""
    made = {}
    raw = list(response.raw_output_contents)
    assert len(raw) in (0, len(response.outputs))
    for index, output in enumerate(response.outputs):
        if output.datatype == "BYTES":
            data: Any = np.array([text.decode() for text in _texts(output, raw, index)], object)
        elif raw:
            data = np.frombuffer(raw[index], numpy_type(output.datatype))
        else:
            contents = getattr(output.contents, CONTENTS_NAMES[CONTENTS[output.datatype]])
            assert len(output.contents.ListFields()) == bool(contents)
            data = np.array(contents, numpy_type(output.datatype))
        made[output.name] = data.reshape(list(output.shape))
    return made


def _texts(output: Any, raw: list[bytes], index: int) -> list[bytes]:
    if not raw:
        return list(output.contents.bytes_contents)
    texts, data = [], raw[index]
    while data:
        size = int.from_bytes(data[:4], "little")
        texts.append(data[4 : 4 + size])
        data = data[4 + size :]
    return texts
