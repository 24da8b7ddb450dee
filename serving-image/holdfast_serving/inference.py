"""What lies between a wire format and the model.

A wire format (V2 over REST, gRPC) makes a `Call` of a request. The batcher runs calls,
several as one where that is right, and hands every call its rows of the result. So the batcher knows nothing of
wire formats, and they know nothing of batches.
"""

from __future__ import annotations

import array
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from holdfast_bundle.manifest import Tensor
from holdfast_serving.problems import Problem
from holdfast_serving.signature import NUMPY, Signature

Array = npt.NDArray[Any]

Data: TypeAlias = "bytes | bytearray | memoryview | array.array[Any] | list[str]"
"""A tensor's elements in row-major order: their bytes (native, little-endian), or str for BYTES."""


class Call(ABC):
    """One request for an inference, fully checked.

    Attributes:
        inputs: data per input of the signature, in its order.
        shapes: their shapes.
        rows: first dimension of the first input, 1 for a scalar.
        key: calls with equal keys may share a run; always equal where only the first dimension varies.
        protocol: that it came over, by index in `metrics.PROTOCOLS`, or `OWN`.
        arrived: time.perf_counter() of the request's last byte.
        pinned: whether it must be run in this pod: it names this revision, or another pod has sent it on.
        deadline: on the same clock; an answer after it is of no use.
    """

    __slots__ = ("arrived", "deadline", "inputs", "key", "rows", "shapes")

    pinned = False

    protocol: int
    inputs: list[Data]
    shapes: list[Sequence[int]]
    rows: int
    key: object
    arrived: float
    deadline: float

    @property
    @abstractmethod
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""

    @abstractmethod
    def answer(self, outputs: Outputs, first: int, last: int) -> None:
        """Send rows `first` to `last` (not included) of `outputs`; raises Problem before anything was sent."""

    @abstractmethod
    def fail(self, problem: Problem) -> None:
        """Send an error."""


class Proxy(Call):
    """Stands before a call on its way to the model and back. What it does not change is the call's own."""

    __slots__ = ("call", "protocol")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.protocol = call.protocol
        self.inputs = call.inputs
        self.shapes = call.shapes
        self.rows = call.rows
        self.key = call.key
        self.arrived = call.arrived
        self.deadline = call.deadline

    @property
    def gone(self) -> bool:
        return self.call.gone

    def answer(self, outputs: Outputs, first: int, last: int) -> None:
        self.call.answer(outputs, first, last)

    def fail(self, problem: Problem) -> None:
        self.call.fail(problem)


class Outputs:
    """The result of one run.

    Attributes:
        arrays: per output of the signature, in its order.
        has_rows: whether the first dimension of all is that of the calls, one after the other.
        inputs: what the run was fed with, by name; empty where the rows did not run here.
        revision: of the model that gave it; None for the one that this pod serves.
        encoded: for each wire format to keep what it needs for all calls of the run, by its codec.
    """

    __slots__ = ("arrays", "encoded", "has_rows", "inputs", "revision")

    def __init__(self, arrays: list[Array], has_rows: bool, revision: str | None = None) -> None:
        self.arrays = arrays
        self.has_rows = has_rows
        self.revision = revision
        self.inputs: dict[str, Array] = {}
        self.encoded: dict[Any, Any] = {}


def to_array(tensor: Tensor, data: Data, shape: Sequence[int]) -> Array:
    """The array of one call's input."""
    if isinstance(data, list):
        made = np.empty(len(data), object)
        made[:] = data
    else:
        made = np.frombuffer(data, NUMPY[tensor.datatype])
        if not made.flags.aligned:  # cut out of a larger body; the runtime's kernels want it aligned
            made = made.copy()
    return made.reshape(shape)


def feeds(signature: Signature, calls: Sequence[Call]) -> dict[str, Array]:
    """Arrays by input name; of several calls, their rows one after the other."""
    if len(calls) == 1:
        (call,) = calls
        return {
            tensor.name: to_array(tensor, data, shape)
            for tensor, data, shape in zip(signature.inputs, call.inputs, call.shapes, strict=True)
        }
    made = {}
    for index, tensor in enumerate(signature.inputs):
        parts = [call.inputs[index] for call in calls]
        joined = _join_texts(parts) if tensor.datatype == "BYTES" else b"".join(cast(list[bytes], parts))
        made[tensor.name] = to_array(tensor, joined, (-1, *calls[0].shapes[index][1:]))
    return made


def _join_texts(parts: Sequence[Data]) -> list[str]:
    return [text for part in cast(Sequence[list[str]], parts) for text in part]
