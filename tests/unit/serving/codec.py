"""The codec and the runtime in this process: a server per datatype would take a minute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from holdfast_serving import rows, session
from holdfast_serving.codec import RestCodec
from holdfast_serving.connection import JSON
from holdfast_serving.inference import Outputs, feeds

EXTREMES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "BYTES": ["", 'quotes " and ],[ marks', "日本\u0000"],
    "FP32": [0.1, -3.4028234663852886e38, 5],
    "FP64": [0.1, 1.7976931348623157e308, -5],
    "INT8": [-128, 0, 127],
    "INT16": [-(2**15), 0, 2**15 - 1],
    "INT32": [-(2**31), 0, 2**31 - 1],
    "INT64": [-(2**63), 0, 2**63 - 1],
    "UINT8": [0, 1, 255],
    "UINT16": [0, 1, 2**16 - 1],
    "UINT32": [0, 1, 2**32 - 1],
    "UINT64": [0, 1, 2**64 - 1],
}


class Client:
    """Keeps its answer."""

    transport = object()

    def __init__(self) -> None:
        self.fields = b""
        self.body = b""

    def respond(self, status: int, body: bytes, fields: bytes = JSON) -> None:
        assert status == 200
        self.body, self.fields = body, fields

    def respond_problem(self, problem: Any) -> None:
        raise problem


class Codec:
    """Decodes, runs and encodes as the server does."""

    def __init__(self, content: bytes, folder: Path) -> None:
        (folder / "model.onnx").write_bytes(content)
        self.model = session.load(folder / "model.onnx", 1)
        self.codec = RestCodec(self.model.signature, "m", "1")
        self.joins = rows.why_apart(self.model, folder / "model.onnx", []) is None

    def ask(self, body: Any) -> dict[str, Any]:
        """The decoded answer to JSON; raises Problem."""
        answer: dict[str, Any] = json.loads(self.send((json.dumps(body).encode(), None))[0].body)
        return answer

    def send(self, *bodies: tuple[bytes, int | None]) -> list[Client]:
        """The answers to requests (body, bytes of it that are JSON) that share a run; raises Problem."""
        clients = [Client() for _ in bodies]
        calls = [self.codec.decode(body, client, size) for (body, size), client in zip(bodies, clients, strict=True)]
        outputs = Outputs(self.model.run(feeds(self.model.signature, calls)), self.joins)
        end = 0
        for call in calls:
            start, end = end, end + (call.rows if self.joins else 1)
            call.answer(outputs, start, end)
        return clients
