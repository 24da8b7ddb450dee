"""gRPC's health checking protocol."""

from __future__ import annotations

from typing import Any

from holdfast_serving.grpc.exchange import Conversation, Exchange, Method, Streaming, Unary
from holdfast_serving.grpc.frames import Buffer
from holdfast_serving.problems import Problem, quoted
from holdfast_serving.served import Served, going

_PACKAGE = "grpc.health.v1"
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
_SERVICES = ("", "inference.GRPCInferenceService")
"""Whose state can be asked for: the server's, and that of the only service that can be out of order."""


class Health:
    """Tells whether the pod wants requests, at once or whenever that changes.

    Attributes:
        watches: those who want to know.
    """

    def __init__(self, served: Served) -> None:
        self._served = served
        self.watches: set[Watch] = set()

    def methods(self) -> dict[str, Method]:
        """By path."""
        base = f"/{_PACKAGE}.Health"
        return {
            f"{base}/Check": Unary(self._check),
            f"{base}/List": Unary(self._list),
            f"{base}/Watch": Streaming(lambda exchange: Watch(self, exchange)),
        }

    def status(self, service: str) -> int:
        """One of ServingStatus."""
        if service not in _SERVICES:
            return _SERVICE_UNKNOWN
        return _SERVING if self._served.ready else _NOT_SERVING

    def look(self) -> None:
        """Tell those who watch if something has changed, and send them away when the pod goes."""
        gone = self._served.signature is not None and not self._served.reachable
        for watch in list(self.watches):
            watch.look()
            if gone:
                watch.end()

    def _check(self, exchange: Exchange, message: Buffer) -> None:
        service = _read("HealthCheckRequest", message).service
        status = self.status(service)
        if status == _SERVICE_UNKNOWN:
            raise Problem(404, f"no service {quoted(service)} here")
        exchange.reply((_made("HealthCheckResponse", status=status),))

    def _list(self, exchange: Exchange, message: Buffer) -> None:
        exchange.reply(
            (_made("HealthListResponse", statuses={name: {"status": self.status(name)} for name in _SERVICES}),)
        )


class Watch(Conversation):
    """Somebody who wants to know whenever the state of a service changes."""

    __slots__ = ("_exchange", "_health", "_service", "_told")

    def __init__(self, health: Health, exchange: Exchange) -> None:
        self._health = health
        self._exchange = exchange
        self._service: str | None = None
        self._told = 0

    def receive(self, message: Buffer) -> None:
        if self._service is not None:
            raise Problem(400, "the call takes one message")
        self._service = _read("HealthCheckRequest", message).service
        self._health.watches.add(self)
        self.look()

    def look(self) -> None:
        """Say what the state is, if that was not said."""
        status = self._health.status(self._service or "")
        if status != self._told:
            self._told = status
            self._exchange.reply((_made("HealthCheckResponse", status=status),))

    def end(self) -> None:
        """There will be nothing more to see here."""
        self._health.watches.discard(self)
        self._exchange.fail(going())

    def finish(self) -> None:
        if self._service is None:
            raise Problem(400, "the call has no whole message")

    def leave(self) -> None:
        self._health.watches.discard(self)


def _read(name: str, message: Buffer) -> Any:
    from holdfast_serving.grpc import messages

    return messages.parse(messages.message(f"{_PACKAGE}.{name}"), message)


def _made(name: str, **fields: Any) -> bytes:
    from holdfast_serving.grpc import messages

    made: bytes = messages.message(f"{_PACKAGE}.{name}")(**fields).SerializeToString()
    return made
