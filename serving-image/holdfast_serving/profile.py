"""The bundle's profile: how held-out rows were spread over bins, for live rows to be compared with.

What is not as it should be is left out, and said: a model is served without its profile, never the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import orjson

from holdfast_bundle.manifest import Tensor
from holdfast_serving.receipts import predicted
from holdfast_serving.signature import Signature

PROFILE = "profile.json"
MAX_FEATURES = 50
MAX_BINS = 100

_MAX_BYTES = 4 << 20
_NUMBERS = {"BOOL", "FP16", "FP32", "FP64", *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))}
_FLOATS = {"FP16", "FP32", "FP64"}
_INTEGERS = {datatype for datatype in _NUMBERS if "INT" in datatype}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranges:
    """Bins of numbers: x is in bin `bisect_left(edges, x)`; NaN is missing.

    Attributes:
        ratios: shares of the held-out rows, per bin.
        missing: their share without a number.
    """

    edges: tuple[float, ...]
    ratios: tuple[float, ...]
    missing: float

    @property
    def names(self) -> list[str]:
        """Of all bins, as counted."""
        return [*map(str, range(len(self.ratios))), "missing"]

    @property
    def shares(self) -> list[float]:
        """Of the held-out rows, by `names`."""
        return [*self.ratios, self.missing]


@dataclass(frozen=True, slots=True)
class Values:
    """Bins of one value each; the empty text is missing.

    Attributes:
        ratios: shares of the held-out rows, per value.
        other, missing: their share with another value, and without one.
    """

    values: tuple[str | int, ...]
    ratios: tuple[float, ...]
    other: float
    missing: float

    @property
    def names(self) -> list[str]:
        """Of all bins, as counted. A value is called by its place: values are nobody's business but the model's."""
        return [*map(str, range(len(self.ratios))), "other", "missing"]

    @property
    def shares(self) -> list[float]:
        """Of the held-out rows, by `names`."""
        return [*self.ratios, self.other, self.missing]


@dataclass(frozen=True, slots=True)
class Feature:
    """A column of an input or of an output: the only one, or one of a matrix.

    Outputs are for what has no columns of its own: an image or a text has an embedding.

    Attributes:
        input: its name; empty where it is an output.
        output: its index; None where it is an input.
        excess: by bin of numbers or of values, how much more often held-out predictions were right there than those of
            the same confidence were; empty where nobody knows.
    """

    name: str
    input: str
    column: int
    bins: Ranges | Values
    output: int | None = None
    excess: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says, by the index of the output that says it."""

    output: int
    bins: Ranges | Values


@dataclass(frozen=True, slots=True)
class Confidence:
    """The largest probability of a row.

    Attributes:
        output: index of the output with the probabilities.
        accuracy: share of right predictions among the held-out rows of each bin; None where there were none.
    """

    output: int
    bins: Ranges
    accuracy: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class AbsoluteError:
    """How far the predicted number of a row is from the true one.

    Attributes:
        means: of the held-out rows of each bin; what an error in it counts.
    """

    bins: Ranges
    means: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """What can be used of a profile.

    Attributes:
        rows: held-out rows that it was made from.
        findings: what cannot be used, in words.
    """

    rows: int
    features: tuple[Feature, ...]
    prediction: Prediction | None
    confidence: Confidence | None
    findings: tuple[str, ...]
    absolute_error: AbsoluteError | None = None

    @property
    def state(self) -> str:
        """`complete`, `partial` or `unusable`."""
        if not self.findings:
            return "complete"
        parts = (self.features, self.prediction, self.confidence, self.absolute_error)
        return "partial" if any(parts) else "unusable"


def read(folder: Path, signature: Signature) -> Profile | None:
    """The profile of a bundle, as far as it fits the model; None in a bundle without one."""
    path = folder / PROFILE
    if not path.exists():
        return None
    findings: list[str] = []
    try:
        return _fitted(_document(path), signature, findings)
    except _UnfitError as error:
        return Profile(0, (), None, None, (str(error),))


class _UnfitError(Exception):
    """A part of the profile cannot be used; the text says why, without values."""


def _document(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_BYTES:
        raise _UnfitError(f"{PROFILE} is larger than {_MAX_BYTES >> 20} MiB")
    try:
        document = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        raise _UnfitError(f"{PROFILE} is not JSON") from None
    if type(document) is not dict:
        raise _UnfitError(f"{PROFILE} is not a JSON object")
    return document


def _fitted(document: dict[str, Any], signature: Signature, findings: list[str]) -> Profile:
    rows = document.get("rows")
    if type(rows) is not int or not 0 < rows < 2**53:
        raise _UnfitError("rows is not a number of rows")
    listed = document.get("features", {})
    if type(listed) is not dict:
        raise _UnfitError("features is not an object")
    features = tuple(_features(listed, signature, findings))
    outputs = {tensor.name: index for index, tensor in enumerate(signature.outputs)}

    def part(name: str, make: Callable[[dict[str, Any], dict[str, int], Sequence[Tensor]], T]) -> T | None:
        return _or_none(findings, name, lambda: make(_object(document[name]), outputs, signature.outputs))

    prediction = part("prediction", _prediction) if "prediction" in document else None
    confidence = part("confidence", _confidence) if "confidence" in document else None
    errors = None
    if (name := "absoluteError") in document:
        errors = _or_none(findings, name, lambda: _absolute_error(_object(document[name]), signature))
    return Profile(rows, features, prediction, confidence, tuple(findings), errors)


def _features(listed: dict[str, Any], signature: Signature, findings: list[str]) -> Iterator[Feature]:
    names = sorted(listed)
    for name in names[:MAX_FEATURES]:
        feature = _or_none(findings, f"feature {name[:64]!r}", partial(_feature, name, listed[name], signature))
        if feature is not None:
            yield feature
    if left_out := names[MAX_FEATURES:]:
        shown = ", ".join(repr(name[:64]) for name in left_out[:20]) + (", …" if len(left_out) > 20 else "")
        findings.append(f"{len(left_out)} features are left out, since {MAX_FEATURES} are counted: {shown}")


def _or_none(findings: list[str], what: str, make: Callable[[], T]) -> T | None:
    try:
        return make()
    except _UnfitError as error:
        findings.append(f"{what} {error}")
    return None


def _feature(name: str, given: Any, signature: Signature) -> Feature:
    given = _object(given)
    what = "output" if "output" in given else "input"
    if what == "output" and "input" in given:
        raise _UnfitError("belongs to an input and to an output")
    tensors = signature.outputs if what == "output" else signature.inputs
    source, column = given.get(what, name), given.get("column", 0)
    index = next((index for index, tensor in enumerate(tensors) if tensor.name == source), None)
    if index is None:
        raise _UnfitError(f"belongs to no {what} of the model")
    tensor = tensors[index]
    width = _width(tensor)
    if width is None:
        raise _UnfitError(f"belongs to an {what} that is no table")
    if type(column) is not int or not 0 <= column < width:
        raise _UnfitError(f"names no column of its {what}")
    if what in given and "column" not in given and width != 1:
        raise _UnfitError(f"does not say which column of its {what} it is")
    bins = _values(given, "categories", tensor) if given.get("kind") == "categorical" else _ranges(given, tensor)
    excess = _excess(given, len(bins.ratios))
    if what == "output":
        return Feature(name, "", column, bins, index, excess)
    return Feature(name, source, column, bins, excess=excess)


def _excess(given: dict[str, Any], bins: int) -> tuple[float, ...]:
    if "excess" not in given:
        return ()
    excess = given["excess"]
    if type(excess) is not list or len(excess) != bins:
        raise _UnfitError("does not have an excess for each bin")
    if not all(_is_number(each) and -1 <= each <= 1 for each in excess):
        raise _UnfitError("has an excess that is none")
    return tuple(map(float, excess))


def _width(tensor: Tensor) -> int | None:
    """Columns of a table; None of what is none."""
    if len(tensor.shape) == 1:
        return 1
    return tensor.shape[1] if len(tensor.shape) == 2 and tensor.shape[1] > 0 else None


def _prediction(given: dict[str, Any], names: dict[str, int], outputs: Sequence[Tensor]) -> Prediction:
    if "labels" in given:
        index = _output(given, names, "label")
        return Prediction(index, _values(given, "labels", outputs[index]))
    index = _output(given, names, "prediction")
    return Prediction(index, _ranges(given, outputs[index]))


def _confidence(given: dict[str, Any], names: dict[str, int], outputs: Sequence[Tensor]) -> Confidence:
    index = _output(given, names, "probabilities")
    bins = _ranges(given, outputs[index])
    accuracy = given.get("accuracy")
    if type(accuracy) is not list or len(accuracy) != len(bins.ratios):
        raise _UnfitError("does not have an accuracy for each bin")
    return Confidence(index, bins, tuple([None if each is None else _ratio(each) for each in accuracy]))


def _absolute_error(given: dict[str, Any], signature: Signature) -> AbsoluteError:
    index = predicted(signature)
    if index is None or signature.outputs[index].datatype not in _FLOATS:
        raise _UnfitError("belongs to a model that does not predict one number per row")
    bins = _ranges(given, signature.outputs[index])
    means = given.get("means")
    if type(means) is not list or len(means) != len(bins.ratios):
        raise _UnfitError("does not have a mean for each bin")
    if not all(_is_number(mean) and mean >= 0 for mean in means):
        raise _UnfitError("has a mean that is none")
    return AbsoluteError(bins, tuple(map(float, means)))


def _output(given: dict[str, Any], names: dict[str, int], usual: str) -> int:
    name = given.get("output", usual)
    if type(name) is not str or name not in names:
        raise _UnfitError("belongs to no output of the model")
    return names[name]


def _ranges(given: dict[str, Any], tensor: Tensor) -> Ranges:
    if tensor.datatype not in _NUMBERS:
        raise _UnfitError(f"has bins of numbers, and the model has {tensor.datatype}")
    edges = given.get("edges")
    if type(edges) is not list or len(edges) >= MAX_BINS or not all(_is_number(edge) for edge in edges):
        raise _UnfitError("has no usable edges")
    if any(one >= other for one, other in pairwise(edges)):
        raise _UnfitError("has edges that do not rise")
    ratios = _ratios(given, len(edges) + 1)
    return Ranges(tuple(map(float, edges)), ratios, _ratio(given.get("missingRatio", 0.0)))


def _values(given: dict[str, Any], member: str, tensor: Tensor) -> Values:
    values = given.get(member)
    wanted = str if tensor.datatype == "BYTES" else int
    if wanted is int and tensor.datatype not in _INTEGERS:
        raise _UnfitError(f"has bins of values, and the model has {tensor.datatype}")
    if type(values) is not list or len(values) > MAX_BINS or {type(value) for value in values} - {wanted}:
        raise _UnfitError(f"has no usable {member}")
    if len(set(values)) != len(values):
        raise _UnfitError(f"has {member} that are there twice")
    ratios = _ratios(given, len(values))
    return Values(tuple(values), ratios, _ratio(given.get("otherRatio", 0.0)), _ratio(given.get("missingRatio", 0.0)))


def _ratios(given: dict[str, Any], count: int) -> tuple[float, ...]:
    ratios = given.get("ratios")
    if type(ratios) is not list or len(ratios) != count:
        raise _UnfitError("does not have a ratio for each bin")
    return tuple(map(_ratio, ratios))


def _ratio(value: Any) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise _UnfitError("has a ratio that is none")
    return float(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _object(given: Any) -> dict[str, Any]:
    if type(given) is not dict:
        raise _UnfitError("is not an object")
    return given
