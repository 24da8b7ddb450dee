"""The bundle's golden requests: the model must answer them as its trainer said it would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from holdfast_bundle.errors import BundleError
from holdfast_serving.codec import RestCodec
from holdfast_serving.inference import Array, Call, Data, feeds
from holdfast_serving.json_body import MAX_DECODED_BYTES, decoded_size
from holdfast_serving.problems import Problem
from holdfast_serving.rows import Row, close
from holdfast_serving.session import Model
from holdfast_serving.signature import NUMPY

GOLDEN = "golden.json"
_MAX_BYTES = 64 << 20

MAX_KEPT, MAX_KEPT_BYTES = 1024, 4 << 20
"""Of golden requests that stay in memory, and of their tensors."""

_TEXT_BYTES = 64  # of a text beside its characters


@dataclass(frozen=True, slots=True)
class Kept:
    """A golden request, to be put to another revision.

    Attributes:
        call: decoded; it has no client.
        answers: this revision's, per output of the signature.
    """

    call: Call
    answers: list[Array]


@dataclass(frozen=True, slots=True)
class Checked:
    """Golden requests that were answered as they should be.

    Attributes:
        rows: of all.
        kept: as many requests as there is room for, in the order of the bundle.
    """

    rows: list[Row] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)


class _Nobody:
    """The client of a golden request."""

    transport = None

    def respond(self, status: int, body: bytes, fields: bytes = b"") -> None: ...

    def respond_problem(self, problem: Problem) -> None: ...


def check(model: Model, codec: RestCodec, folder: Path) -> Checked:
    """Answer all golden requests; there may be none in a bundle.

    Raises:
        BundleError: `Invalid` with the number of the request and the output, never with values.
    """
    path = folder / GOLDEN
    if not path.exists():
        return Checked()
    document = _read(path)
    checked, left = Checked(), MAX_KEPT_BYTES
    try:
        relative, absolute = (float(document["tolerance"][kind]) for kind in ("relative", "absolute"))
        for number, request in enumerate(document["requests"], 1):
            where = f"golden request {number} of {len(document['requests'])}"
            call = _call(codec, request, where)
            given = feeds(model.signature, [call])
            answers = _answers(model, given, request["outputs"], relative, absolute, where)
            rows = _rows(given)
            checked.rows.extend(rows)
            size = sum(map(_size, call.inputs)) + sum(map(_array_size, answers))
            # Where inputs do not have equally many rows, a server whose requests share runs would refuse it.
            if size <= left and len(checked.kept) < MAX_KEPT and (rows or not model.signature.has_rows):
                left -= size
                checked.kept.append(Kept(call, answers))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError("Invalid", f"{GOLDEN} is not of the agreed form ({type(error).__name__})") from error
    return checked


def _read(path: Path) -> Any:
    if path.stat().st_size > _MAX_BYTES:
        raise BundleError("Invalid", f"{GOLDEN} is larger than {_MAX_BYTES >> 20} MiB")
    raw = path.read_bytes()
    if decoded_size(raw) > MAX_DECODED_BYTES:
        raise BundleError("Invalid", f"{GOLDEN} has too many elements: fewer requests, or smaller ones, will do")
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BundleError("Invalid", f"{GOLDEN} is not JSON: {error}") from error


def _call(codec: RestCodec, request: Any, where: str) -> Call:
    try:
        return codec.decode(orjson.dumps({"inputs": request["inputs"]}), _Nobody())
    except Problem as problem:
        raise BundleError("Invalid", f"{where} does not fit the model: {problem.message}") from problem


def _answers(
    model: Model, given: Row, expected: Sequence[Any], relative: float, absolute: float, where: str
) -> list[Array]:
    try:
        answers = model.run(given)
    except Exception as error:
        raise BundleError("Invalid", f"the model fails on {where}") from error
    by_name = {tensor.name: (tensor, answer) for tensor, answer in zip(model.signature.outputs, answers, strict=True)}
    for output in expected:
        name = output["name"]
        if name not in by_name:
            raise BundleError("Invalid", f"{where} expects an output {name!r}, which the model does not have")
        tensor, answer = by_name[name]
        wanted = np.array(output["data"], NUMPY[tensor.datatype]).reshape(output["shape"])
        if answer.shape != wanted.shape or not close(answer, wanted, relative, absolute):
            raise BundleError("Invalid", f"{where} gets another answer in {name!r} than its trainer wrote down")
    return answers


def _rows(given: Row) -> list[Row]:
    """A request cut into rows; nothing for a model without rows."""
    counts = {len(values) if values.ndim else 0 for values in given.values()}
    if len(counts) != 1:
        return []
    return [{name: values[row : row + 1] for name, values in given.items()} for row in range(counts.pop())]


def _size(data: Data) -> int:
    """Bytes that a call's input takes."""
    return _texts_size(data) if isinstance(data, list) else memoryview(data).nbytes


def _array_size(array: Array) -> int:
    return _texts_size(array.ravel().tolist()) if array.dtype.kind == "O" else array.nbytes


def _texts_size(texts: Sequence[str]) -> int:
    return sum(_TEXT_BYTES + len(text.encode()) for text in texts)
