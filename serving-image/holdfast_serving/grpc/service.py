"""The gRPC side of the Open Inference Protocol V2 for one model, which may still be loading."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast_serving import description
from holdfast_serving.grpc.exchange import Conversation, Exchange, Method, Streaming, Unary
from holdfast_serving.grpc.frames import Buffer
from holdfast_serving.grpc.health import Health
from holdfast_serving.metrics import GRPC
from holdfast_serving.pod import added
from holdfast_serving.problems import Problem, quoted
from holdfast_serving.served import VERSION, Served, loading

if TYPE_CHECKING:  # numpy, the runtime and protobuf are imported with the model, not before the ports are open
    from holdfast_serving.grpc.codec import Client, GrpcCodec

EXTENSIONS = ("classification", "model_configuration", "model_repository", "statistics")

_REFLECTION = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


class Service:
    """All methods of the port.

    Attributes:
        health: has to be told to look around now and then.
        methods: by path.
    """

    def __init__(self, served: Served) -> None:
        self._served = served
        served.tells["statistics"] = lambda _: description.statistics(served)
        self._codec: GrpcCodec | None = None
        self.health = Health(served)
        inference: dict[str, Method] = {
            "ServerLive": self._unary("ServerLive", lambda request: {"live": True}),
            "ServerReady": self._unary("ServerReady", lambda request: {"ready": served.ready}),
            "ModelReady": self._unary("ModelReady", self._model_ready),
            "ServerMetadata": self._unary("ServerMetadata", self._server_metadata),
            "ModelMetadata": self._unary("ModelMetadata", self._model_metadata),
            "ModelInfer": Unary(self.infer),
            "ModelStreamInfer": Streaming(partial(ModelStream, self)),
            "ModelConfig": self._unary("ModelConfig", self._model_config),
            "ModelStatistics": Unary(self._model_statistics),
            "RepositoryIndex": self._unary("RepositoryIndex", self._repository_index),
            "RepositoryModelLoad": self._unary("RepositoryModelLoad", _refuse_change),
            "RepositoryModelUnload": self._unary("RepositoryModelUnload", _refuse_change),
        }
        self.methods: dict[str, Method] = {
            **{f"/inference.GRPCInferenceService/{name}": method for name, method in inference.items()},
            **self.health.methods(),
            **{
                f"/{package}.ServerReflection/ServerReflectionInfo": Streaming(partial(_reflection, package))
                for package in _REFLECTION
            },
        }

    def open(self, codec: GrpcCodec) -> None:
        """The model is there: from now on requests for it can be read."""
        self._codec = codec

    def infer(self, client: Client, message: Buffer) -> None:
        """Answer a ModelInferRequest. Raises Problem."""
        served = self._served
        try:
            now = time.perf_counter()
            deadline = min(client.deadline, now + served.timeout)
            served.admit(deadline - now)
            if self._codec is None:
                raise loading()
            call = self._codec.decode(message, client)
            call.deadline = deadline
            served.submit(call)
        except Problem as problem:
            served.count_refused(GRPC, problem)
            raise

    def _unary(self, name: str, answer: Callable[[Any], dict[str, Any]]) -> Unary:
        """A method that answers at once, with the fields of its response."""

        def call(exchange: Exchange, message: Buffer) -> None:
            from holdfast_serving.grpc import messages

            request = messages.parse(messages.inference(f"{name}Request"), message)
            exchange.reply(_response(name, answer(request)))

        return Unary(call)

    def _check_model(self, name: str, version: str) -> None:
        """Raises Problem 404 for another model or version than is served."""
        if name != self._served.name:
            raise Problem(404, f"no model {quoted(name)} here")
        if version not in ("", self._served.revision):
            raise Problem(404, f"model {quoted(name)} has no version {quoted(version)} here")

    def _model_ready(self, request: Any) -> dict[str, Any]:
        self._check_model(request.name, request.version)
        return {"ready": self._served.ready}

    def _server_metadata(self, request: Any) -> dict[str, Any]:
        return {"name": "holdfast-serving", "version": VERSION, "extensions": EXTENSIONS}

    def _model_metadata(self, request: Any) -> dict[str, Any]:
        self._check_model(request.name, request.version)
        if not self._served.metadata:
            raise loading()
        return {name: value for name, value in self._served.metadata.items() if name != "parameters"}

    def _model_config(self, request: Any) -> dict[str, Any]:
        self._check_model(request.name, request.version)
        return {"config": description.configuration(self._served)}

    def _model_statistics(self, exchange: Exchange, message: Buffer) -> None:
        from holdfast_serving.grpc import messages

        request = messages.parse(messages.inference("ModelStatisticsRequest"), message)
        if request.name or request.version:
            self._check_model(request.name, request.version)

        def answer(said: list[Any]) -> None:
            if not exchange.gone:
                exchange.reply(_response("ModelStatistics", added(said)))

        self._served.gather("statistics", None, answer, exchange.fail)

    def _repository_index(self, request: Any) -> dict[str, Any]:
        models = [] if request.repository_name else description.index(self._served, ready_only=request.ready)
        return {"models": models}


def _response(name: str, fields: dict[str, Any]) -> tuple[bytes]:
    from holdfast_serving.grpc import messages

    return (messages.inference(f"{name}Response")(**fields).SerializeToString(),)


def _refuse_change(request: Any) -> dict[str, Any]:
    raise Problem(412, f"{description.WHO_DECIDES}; no model can be loaded or unloaded by a request")


class ModelStream(Conversation):
    """A stream of requests: each is answered in its turn, those that fail with words."""

    __slots__ = ("_exchange", "_finished", "_places", "_service")

    def __init__(self, service: Service, exchange: Exchange) -> None:
        self._service = service
        self._exchange = exchange
        self._places: deque[_Place] = deque()
        self._finished = False

    def receive(self, message: Buffer) -> None:
        place = _Place(self._exchange, self._settle)
        self._places.append(place)
        try:
            self._service.infer(place, message)
        except Problem as problem:
            place.fail(problem)

    def finish(self) -> None:
        self._finished = True
        self._settle()

    def leave(self) -> None:
        self._places.clear()

    def _settle(self) -> None:
        """Send the answers that are there, up to the first that is not."""
        while self._places and self._places[0].answer is not None:
            self._exchange.reply(self._places.popleft().answer or ())
        if self._finished and not self._places:
            self._exchange.close()


class _Place:
    """One request's place in a stream.

    Attributes:
        answer: None as long as there is none.
    """

    __slots__ = ("_exchange", "_settle", "answer")

    def __init__(self, exchange: Exchange, settle: Callable[[], None]) -> None:
        self._exchange = exchange
        self._settle = settle
        self.answer: Sequence[Buffer] | None = None

    @property
    def deadline(self) -> float:
        return self._exchange.deadline

    @property
    def gone(self) -> bool:
        return self._exchange.gone

    def reply(self, parts: Sequence[Buffer]) -> None:
        from holdfast_serving.grpc.wire import begin

        self.answer = (begin(2, sum([len(part) for part in parts])), *parts)
        self._settle()

    def fail(self, problem: Problem) -> None:
        from holdfast_serving.grpc.wire import field

        self.answer = (field(1, problem.message.encode()),)
        self._settle()


def _reflection(package: str, exchange: Exchange) -> Conversation:
    from holdfast_serving.grpc.reflection import Reflection

    return Reflection(exchange, package)
