"""gRPC's server reflection: clients that have no files of the protocol ask the server for them."""

from __future__ import annotations

from typing import Any

from holdfast_serving.grpc import messages
from holdfast_serving.grpc.exchange import Conversation, Exchange
from holdfast_serving.grpc.frames import Buffer
from holdfast_serving.grpc.status import Code
from holdfast_serving.problems import Problem, quoted


class Reflection(Conversation):
    """A client that asks for files and services. The two versions of the protocol differ in nothing but their names."""

    __slots__ = ("_answer", "_exchange", "_question")

    def __init__(self, exchange: Exchange, package: str) -> None:
        self._exchange = exchange
        self._question = messages.message(f"{package}.ServerReflectionRequest")
        self._answer = messages.message(f"{package}.ServerReflectionResponse")

    def receive(self, message: Buffer) -> None:
        question = messages.parse(self._question, message)
        answer = self._answer(valid_host=question.host, original_request=question)
        kind = question.WhichOneof("message_request")
        if kind == "list_services":
            for name in messages.SERVICES:
                answer.list_services_response.service.add(name=name)
        elif kind == "file_by_filename":
            _give(answer, messages.FILES.get(question.file_by_filename), question.file_by_filename)
        elif kind == "file_containing_symbol":
            _give(answer, messages.file_of(question.file_containing_symbol), question.file_containing_symbol)
        elif kind is None:
            raise Problem(400, "the request asks for nothing")
        else:
            _refuse(answer, "the protocols of this server have no extensions")
        self._exchange.reply((answer.SerializeToString(),))

    def finish(self) -> None:
        self._exchange.close()

    def leave(self) -> None:
        pass


def _give(answer: Any, file: bytes | None, name: str) -> None:
    if file is None:
        _refuse(answer, f"{quoted(name)} is not known here")
    else:
        answer.file_descriptor_response.file_descriptor_proto.append(file)


def _refuse(answer: Any, why: str) -> None:
    answer.error_response.error_code = Code.NOT_FOUND
    answer.error_response.error_message = why
