"""The REST side of the Open Inference Protocol V2 for one model, which may still be loading."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from holdfast_serving.connection import Connection
from holdfast_serving.metrics import CLIENT_ERROR, REJECTED, Metrics
from holdfast_serving.problems import Problem, busy, quoted
from holdfast_serving.routes import Endpoint, Routes

if TYPE_CHECKING:  # numpy and the runtime are imported with the model, not before the ports are open
    from holdfast_serving.batching import Batcher
    from holdfast_serving.codec import JsonCodec

VERSION = "0.1.0"


class Api:
    """Health, metadata and inference.

    Attributes:
        ready: whether the pod wants requests. Those that come all the same are answered if that is possible.
    """

    def __init__(self, model: str, revision: str, metrics: Metrics) -> None:
        self.ready = False
        self._model = model
        self._metrics = metrics
        self._codec: JsonCodec | None = None
        self._batcher: Batcher | None = None
        self._metadata = b""
        self._server = orjson.dumps({"name": "holdfast-serving", "version": VERSION, "extensions": []})
        self.routes = Routes(self._paths(model, revision), self._missing)

    def serve(self, codec: JsonCodec, batcher: Batcher, metadata: dict[str, object]) -> None:
        """The model is there: answer requests for it."""
        self._codec, self._batcher = codec, batcher
        self._metadata = orjson.dumps(metadata)
        self.ready = True

    def _paths(self, model: str, revision: str) -> dict[str, dict[str, Endpoint]]:
        paths = {
            "/v2": {"GET": Endpoint(self._get_server)},
            "/v2/health/live": {"GET": Endpoint(self._get_live)},
            "/v2/health/ready": {"GET": Endpoint(self._get_ready)},
        }
        for base in (f"/v2/models/{model}", f"/v2/models/{model}/versions/{revision}"):
            paths[base] = {"GET": Endpoint(self._get_model)}
            paths[f"{base}/ready"] = {"GET": Endpoint(self._get_model_ready)}
            paths[f"{base}/infer"] = {"POST": Endpoint(self._infer, takes_json=True)}
        return paths

    def _missing(self, path: str) -> str:
        """A wrong model or version is told from a wrong path."""
        parts = path.split("/")
        if parts[1:3] != ["v2", "models"] or len(parts) < 4:
            return f"no such path: {quoted(path)}"
        if parts[3] != self._model:
            return f"no model {quoted(parts[3])} here"
        if len(parts) > 5 and parts[4] == "versions":
            return f"model {quoted(self._model)} has no version {quoted(parts[5])} here, or no such path"
        return f"no such path: {quoted(path)}"

    def _get_server(self, connection: Connection, body: bytes | bytearray) -> None:
        connection.respond(200, self._server)

    def _get_live(self, connection: Connection, body: bytes | bytearray) -> None:
        connection.respond(200, b'{"live":true}')

    def _get_ready(self, connection: Connection, body: bytes | bytearray) -> None:
        # The protocol's text calls the member "live" here, its schema "ready"; clients go by the status.
        connection.respond(200 if self.ready else 503, orjson.dumps({"live": True, "ready": self.ready}))

    def _get_model(self, connection: Connection, body: bytes | bytearray) -> None:
        if not self._metadata:
            raise _LOADING
        connection.respond(200, self._metadata)

    def _get_model_ready(self, connection: Connection, body: bytes | bytearray) -> None:
        answer = orjson.dumps({"name": self._model, "ready": self.ready})
        connection.respond(200 if self.ready else 503, answer)

    def _infer(self, connection: Connection, body: bytes | bytearray) -> None:
        try:
            if self._codec is None or self._batcher is None:
                raise _LOADING
            self._batcher.submit(self._codec.decode(body, connection))
        except Problem as problem:
            self._metrics.outcomes[REJECTED if problem.status == 503 else CLIENT_ERROR] += 1
            raise


_LOADING = busy("the model is still being loaded")
