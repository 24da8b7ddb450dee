"""How a call ends, in the words of gRPC."""

from __future__ import annotations

from enum import IntEnum
from urllib.parse import quote_from_bytes

from holdfast_serving.grpc import hpack
from holdfast_serving.problems import Problem
from holdfast_serving.served import UnavailableProblem


class Code(IntEnum):
    """Those of gRPC's codes that this server answers with."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


_CODES = {
    401: Code.UNAUTHENTICATED, 403: Code.PERMISSION_DENIED, 404: Code.NOT_FOUND, 408: Code.DEADLINE_EXCEEDED,
    412: Code.FAILED_PRECONDITION, 413: Code.RESOURCE_EXHAUSTED, 429: Code.RESOURCE_EXHAUSTED, 500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED, 502: Code.UNAVAILABLE, 503: Code.RESOURCE_EXHAUSTED, 504: Code.DEADLINE_EXCEEDED,
}  # fmt: skip

_MESSAGE_SAFE = bytes(octet for octet in range(0x20, 0x7F) if octet != ord("%"))


def code_of(problem: Problem) -> Code:
    """The code for what is wrong with a call.

    A server that cannot answer yet is UNAVAILABLE: another one may be able to. One that has too much to do is
    RESOURCE_EXHAUSTED, which clients do not send again at once.
    """
    if isinstance(problem, UnavailableProblem):
        return Code.UNAVAILABLE
    return _CODES.get(problem.status, Code.INVALID_ARGUMENT if problem.status < 500 else Code.INTERNAL)


def trailers(code: Code, message: str = "", *more: hpack.Field) -> bytes:
    """The block that ends an answer."""
    fields = [(b"grpc-status", b"%d" % code), *more]
    if message:
        fields.append((b"grpc-message", quote_from_bytes(message.encode(), _MESSAGE_SAFE).encode()))
    return hpack.encode(fields)
