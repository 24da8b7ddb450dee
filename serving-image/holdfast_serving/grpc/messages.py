"""The protocols' messages, made from the descriptors that `make protos` writes.

The classes live in a pool of their own, so that they get along with any other classes of the same names. Importing
this imports protobuf.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from holdfast_serving.problems import Problem

_SET = descriptor_pb2.FileDescriptorSet.FromString(
    resources.files(__package__).joinpath("descriptors.binpb").read_bytes()
)
_POOL = descriptor_pool.DescriptorPool()
for _file in _SET.file:
    _POOL.Add(_file)

FILES: dict[str, bytes] = {file.name: file.SerializeToString() for file in _SET.file}
"""Serialised descriptors by name of the file. No file needs another one."""

SERVICES = tuple(f"{file.package}.{service.name}" for file in _SET.file for service in file.service)
"""Full names."""


@cache
def message(name: str) -> Any:
    """The class of a message, by its full name."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def inference(name: str) -> Any:
    """The class of a message of the Open Inference Protocol."""
    return message(f"inference.{name}")


def file_of(symbol: str) -> bytes | None:
    """The descriptor of the file that declares a service, method or message; None: there is none."""
    try:
        return FILES[_POOL.FindFileContainingSymbol(symbol).name]
    except KeyError:  # methods are not found so
        service, _, method = symbol.rpartition(".")
        if service not in SERVICES or method not in _POOL.FindServiceByName(service).methods_by_name:
            return None
        return file_of(service)


def parse(kind: Any, data: bytes | memoryview) -> Any:
    """A message of a class. Raises Problem 400."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise Problem(400, "the message is not of its type") from None
