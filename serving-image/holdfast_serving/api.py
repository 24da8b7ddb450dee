"""The REST side of the Open Inference Protocol V2 for one model, which may still be loading."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from holdfast_serving import coding, description
from holdfast_serving.connection import ACCEPTED_CODINGS, JSON_SIZE, JSON_TYPE, TIMEOUT, Connection, Fields, Handler
from holdfast_serving.problems import Problem, quoted
from holdfast_serving.routes import Endpoint, Routes
from holdfast_serving.served import VERSION, Served, loading

if TYPE_CHECKING:  # numpy and the runtime are imported with the model, not before the ports are open
    from holdfast_serving.codec import RestCodec

# Clients of the binary extension, or their HTTP libraries, send JSON under either name.
_TYPES = (JSON_TYPE, b"application/octet-stream")
_EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]


class Api:
    """Health, metadata and inference."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._codec: RestCodec | None = None
        self._server = orjson.dumps({"name": "holdfast-serving", "version": VERSION, "extensions": _EXTENSIONS})
        self.routes = Routes(self._paths(served.name, served.revision), self._missing)

    def open(self, codec: RestCodec) -> None:
        """The model is there: from now on requests for it can be read."""
        self._codec = codec

    def _paths(self, model: str, revision: str) -> dict[str, dict[str, Endpoint]]:
        paths = {
            "/v2": {"GET": Endpoint(self._get_server)},
            "/v2/health/live": {"GET": Endpoint(self._get_live)},
            "/v2/health/ready": {"GET": Endpoint(self._get_ready)},
            "/v2/models": {"GET": Endpoint(self._get_models)},
            "/v2/models/stats": {"GET": Endpoint(self._get_statistics)},
            "/v2/repository/index": {"POST": Endpoint(self._post_index, _TYPES, needs_body=False)},
        }
        for change in ("load", "unload"):
            path = f"/v2/repository/models/{model}/{change}"
            paths[path] = {"POST": Endpoint(_refuse_change, _TYPES, needs_body=False)}
        for base, infer in (
            (f"/v2/models/{model}", self._infer),
            (f"/v2/models/{model}/versions/{revision}", partial(self._infer, pinned=True)),
        ):
            paths[base] = {"GET": Endpoint(self._get_model)}
            paths[f"{base}/config"] = {"GET": Endpoint(self._get_configuration)}
            paths[f"{base}/stats"] = {"GET": Endpoint(self._get_statistics)}
            paths[f"{base}/ready"] = {"GET": Endpoint(self._get_model_ready)}
            paths[f"{base}/infer"] = {"POST": Endpoint(infer, _TYPES, bind=partial(_bind_infer, infer))}
        return paths

    def _missing(self, path: str) -> str:
        """A wrong model or version is told from a wrong path."""
        parts = path.split("/")
        if parts[1:4] == ["v2", "repository", "models"]:
            parts.remove("repository")
        if parts[1:3] != ["v2", "models"] or len(parts) < 4:
            return f"no such path: {quoted(path)}"
        if parts[3] != self._served.name:
            return f"no model {quoted(parts[3])} here"
        if len(parts) > 5 and parts[4] == "versions":
            return f"model {quoted(parts[3])} has no version {quoted(parts[5])} here, or no such path"
        return f"no such path: {quoted(path)}"

    def _get_server(self, connection: Connection, body: bytes | bytearray) -> None:
        connection.respond(200, self._server)

    def _get_live(self, connection: Connection, body: bytes | bytearray) -> None:
        connection.respond(200, b'{"live":true}')

    def _get_ready(self, connection: Connection, body: bytes | bytearray) -> None:
        # The protocol's text calls the member "live" here, its schema "ready"; clients go by the status.
        connection.respond(
            200 if self._served.ready else 503, orjson.dumps({"live": True, "ready": self._served.ready})
        )

    def _get_model(self, connection: Connection, body: bytes | bytearray) -> None:
        if not self._served.metadata:
            raise loading()
        connection.respond(200, orjson.dumps(self._served.metadata))

    def _get_model_ready(self, connection: Connection, body: bytes | bytearray) -> None:
        ready = self._served.ready
        connection.respond(200 if ready else 503, orjson.dumps({"name": self._served.name, "ready": ready}))

    def _get_configuration(self, connection: Connection, body: bytes | bytearray) -> None:
        connection.respond(200, orjson.dumps(description.configuration(self._served)))

    def _get_statistics(self, connection: Connection, body: bytes | bytearray) -> None:
        connection.respond(200, orjson.dumps(description.statistics(self._served)))

    def _get_models(self, connection: Connection, body: bytes | bytearray) -> None:
        connection.respond(200, orjson.dumps({"models": [self._served.name]}))

    def _post_index(self, connection: Connection, body: bytes | bytearray) -> None:
        try:
            ready_only = orjson.loads(body or b"{}")["ready"]
        except KeyError:
            ready_only = False
        except (orjson.JSONDecodeError, TypeError):
            ready_only = None
        if type(ready_only) is not bool:
            raise Problem(400, 'the body must be a JSON object, in which "ready" may be true or false')
        connection.respond(200, orjson.dumps(description.index(self._served, ready_only=ready_only)))

    def _infer(
        self,
        connection: Connection,
        body: bytes | bytearray,
        json_size: int | None = None,
        pinned: bool = False,
        accepted: bytes | None = None,
        seconds: float | None = None,
    ) -> None:
        """`seconds`: that the request may take, where its client has a say."""
        served = self._served
        try:
            seconds = served.timeout if seconds is None else min(seconds, served.timeout)
            served.admit(seconds)
            if self._codec is None:
                raise loading()
            client = connection if accepted is None else coding.Packing(connection, accepted)
            call = self._codec.decode(body, client, json_size)
            call.deadline = call.arrived + seconds
            if pinned:
                call.pinned = True
            served.submit(call)
        except Problem as problem:
            served.count_refused(problem)
            raise


def _bind_infer(infer: Callable[..., None], fields: Fields) -> Handler:
    said: dict[str, Any] = {}
    if (size := fields.get(JSON_SIZE)) is not None:
        said["json_size"] = _number(size, "Inference-Header-Content-Length must be a number of bytes")
    if (timeout := fields.get(TIMEOUT)) is not None:
        said["seconds"] = _number(timeout, "Request-Timeout-Ms must be a number of milliseconds", 1) / 1000
    if (accepted := coding.accepted(fields.get(ACCEPTED_CODINGS))) is not None:
        said["accepted"] = accepted
    return partial(infer, **said) if said else infer


def _number(digits: bytes, what: str, least: int = 0) -> int:
    """The number in a header field. Raises Problem 400."""
    if not digits.isdigit() or len(digits) > 18 or int(digits) < least:
        raise Problem(400, what)
    return int(digits)


def _refuse_change(connection: Connection, body: bytes | bytearray) -> None:
    raise Problem(403, f"a model is neither loaded nor unloaded by request: {description.WHO_DECIDES}")
