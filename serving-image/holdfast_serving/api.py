"""The REST side of the Open Inference Protocol V2 for one model, which may still be loading."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from holdfast_serving import coding, description
from holdfast_serving.connection import (
    ACCEPTED_CODINGS,
    JSON,
    JSON_SIZE,
    JSON_TYPE,
    TIMEOUT,
    Connection,
    Fields,
    Handler,
)
from holdfast_serving.documents import Document
from holdfast_serving.json_body import parse
from holdfast_serving.metrics import REST
from holdfast_serving.pod import added
from holdfast_serving.problems import Problem, quoted
from holdfast_serving.routes import Endpoint, Operation, Routes
from holdfast_serving.served import VERSION, Served, loading

if TYPE_CHECKING:  # numpy and the runtime are imported with the model, not before the ports are open
    from holdfast_serving.codec import RestCodec

# Clients of the binary extension, or their HTTP libraries, send JSON under either name.
_TYPES = (JSON_TYPE, b"application/octet-stream")
_EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"]

# What the OpenAPI document says. Every request can be malformed HTTP, or too slow.
_ANY = (400, 408)
_BODY = (*_ANY, 413, 415)
_PAGE = Operation("page", "This model for people", media_type="text/html", statuses=(*_ANY, 503))
_OPENAPI = Operation("openapi", "This document", "Document", statuses=(*_ANY, 503))
_SERVER = Operation("server", "Name, version and extensions of the server", "Server", statuses=_ANY)
_LIVE = Operation("live", "Whether the server runs", "Live", statuses=_ANY)
_READY = Operation("ready", "Whether the server wants requests", "Ready", statuses=(*_ANY, 503), is_health=True)
_MODELS = Operation("models", "Names of the models: one", "Models", statuses=_ANY)
_MODEL = Operation("model", "Inputs and outputs of the model", "Model", statuses=(*_ANY, 503))
_MODEL_READY = replace(_READY, name="modelReady", summary="Whether the model wants requests")
_CONFIGURATION = Operation("configuration", "The model's configuration", "Configuration", statuses=(*_ANY, 503))
_STATISTICS = Operation("modelStatistics", "Counts and times since the pod began", "Statistics", statuses=_ANY)
_INDEX = Operation("index", "The model and its state", "Index", "IndexRequest", _BODY)
_INFERENCE = Operation(
    "infer", "Inference", "InferResponse", "InferRequest", (*_BODY, 411, 500, 503, 504), is_inference=True
)

_FEEDBACK = Operation(
    "feedback", "True labels for answers with a receipt", "Feedback", "FeedbackRequest", (*_BODY, 403, 411, 429)
)


class Api:
    """Health, metadata and inference."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._codec: RestCodec | None = None
        self._server = orjson.dumps({"name": "holdfast-serving", "version": VERSION, "extensions": _EXTENSIONS})
        self._example: list[dict[str, Any]] | None = None
        self._page = Document(self._make_page)
        self._openapi = Document(self._make_openapi)
        served.tells["statistics"] = lambda _: description.statistics(served)
        if served.feedback is not None:
            served.tells["feedback"] = served.feedback.take
        self.routes = Routes(self._paths(served.name, served.revision), self._missing)

    def open(self, codec: RestCodec, example: list[dict[str, Any]] | None) -> None:
        """The model is there: from now on requests for it can be read.

        Args:
            example: inputs of a request, for people to start from.
        """
        self._codec = codec
        self._example = example

    def _paths(self, model: str, revision: str) -> dict[str, dict[str, Endpoint]]:
        paths = {
            "/": {"GET": _document(self._page, _PAGE)},
            "/openapi.json": {"GET": _document(self._openapi, _OPENAPI)},
            "/v2": {"GET": Endpoint(self._get_server, about=_SERVER)},
            "/v2/health/live": {"GET": Endpoint(self._get_live, about=_LIVE)},
            "/v2/health/ready": {"GET": Endpoint(self._get_ready, about=_READY)},
            "/v2/models": {"GET": Endpoint(self._get_models, about=_MODELS)},
            "/v2/models/stats": {"GET": Endpoint(self._get_statistics, about=replace(_STATISTICS, name="statistics"))},
            "/v2/repository/index": {"POST": Endpoint(self._post_index, _TYPES, needs_body=False, about=_INDEX)},
        }
        for change in ("load", "unload"):
            about = Operation(f"{change}Model", f"Refused: {description.WHO_DECIDES}", None, "Change", (403, *_BODY))
            path = f"/v2/repository/models/{model}/{change}"
            paths[path] = {"POST": Endpoint(_refuse_change, _TYPES, needs_body=False, about=about)}
        for base, infer in (
            (f"/v2/models/{model}", self._infer),
            (f"/v2/models/{model}/versions/{revision}", partial(self._infer, pinned=True)),
        ):
            paths[base] = {"GET": Endpoint(self._get_model, about=_MODEL)}
            paths[f"{base}/config"] = {"GET": Endpoint(self._get_configuration, about=_CONFIGURATION)}
            paths[f"{base}/stats"] = {"GET": Endpoint(self._get_statistics, about=_STATISTICS)}
            told = _FEEDBACK if self._served.feedback else None
            paths[f"{base}/feedback"] = {"POST": Endpoint(self._post_feedback, (JSON_TYPE,), about=told)}
            paths[f"{base}/ready"] = {"GET": Endpoint(self._get_model_ready, about=_MODEL_READY)}
            paths[f"{base}/infer"] = {
                "POST": Endpoint(infer, _TYPES, bind=partial(_bind_infer, infer), about=_INFERENCE)
            }
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

    def _make_page(self) -> tuple[bytes, bytes]:
        from holdfast_serving import page

        return page.render(self._served, self._example)

    def _make_openapi(self) -> tuple[bytes, bytes]:
        from holdfast_serving import openapi

        return orjson.dumps(openapi.document(self.routes.paths, self._served, self._example)), JSON

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
        def answer(said: list[Any]) -> None:
            connection.respond(200, orjson.dumps(added(said)))

        connection.ask(self._served.gather, "statistics", None, answer)

    def _get_models(self, connection: Connection, body: bytes | bytearray) -> None:
        connection.respond(200, orjson.dumps({"models": [self._served.name]}))

    def _post_index(self, connection: Connection, body: bytes | bytearray) -> None:
        ready_only = parse(body).get("ready", False) if body else False
        if type(ready_only) is not bool:
            raise Problem(400, '"ready" must be true or false')
        connection.respond(200, orjson.dumps(description.index(self._served, ready_only=ready_only)))

    def _post_feedback(self, connection: Connection, body: bytes | bytearray) -> None:
        feedback = self._served.feedback
        if feedback is None:
            raise Problem(404, "feedback is off: this server has no key for receipts")
        if feedback.certified and not connection.has_certificate:
            raise Problem(403, "feedback is for clients that show a certificate")

        def answer(said: tuple[int, list[dict[str, Any]], float]) -> None:
            rows, refused, wait = said
            document: dict[str, Any] = {"rows": rows, "refused": refused}
            if not wait:
                connection.respond(200, orjson.dumps(document))
                return
            document["error"] = "more labels than are taken in a minute; send those again that are refused as capped"
            connection.respond(429, orjson.dumps(document), JSON + b"retry-after: %d\r\n" % math.ceil(wait))

        # Each receipt counts once: one process remembers those that have been here.
        connection.ask(self._served.consult, "feedback", parse(body), answer)

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
            served.count_refused(REST, problem)
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


def _document(document: Document, about: Operation) -> Endpoint:
    return Endpoint(document.respond, bind=document.bind, about=about)
