"""What a model takes and gives, in the words of the Open Inference Protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np

from holdfast_bundle.errors import BundleError
from holdfast_bundle.manifest import Manifest, Tensor

_RUNTIME_TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    **{f"tensor({sign}int{bits})": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}

NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "BYTES": np.dtype(object),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    **{f"{sign}INT{bits}": np.dtype(f"{sign}int{bits}".lower()) for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
"""Array types by datatype; BYTES are objects of type str."""


MAX_DIMENSIONS = 64
"""Of a tensor. numpy has no more."""

MAX_ROW_ELEMENTS = 1 << 28
"""Of an input. No request could carry more."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs in the model's own order; -1 stands for a dimension that varies.

    An empty shape means a scalar, or that the model does not say.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def has_rows(self) -> bool:
        """Whether the first dimension of every input varies, and that of every output may.

        It may where it is said to be 1: LightGBM's converter says so of labels, of which there are as many as rows.
        """
        return all(tensor.shape and tensor.shape[0] == -1 for tensor in self.inputs) and all(
            not tensor.shape or tensor.shape[0] in (-1, 1) for tensor in self.outputs
        )

    @property
    def digest(self) -> str:
        """SHA-256 of names, datatypes and shapes in order: equal for models that take and give the same.

        Whether rows share runs in one of two pods, and not in the other, makes no difference.
        """
        own = self.with_rows() if self.has_rows else self
        described = [
            [[tensor.name, tensor.datatype, *tensor.shape] for tensor in tensors]
            for tensors in (own.inputs, own.outputs)
        ]
        return sha256(json.dumps(described).encode()).hexdigest()

    def with_rows(self) -> Signature:
        """This signature of a model whose outputs have been seen to have a row per row of input."""
        return Signature(
            self.inputs,
            tuple(
                replace(tensor, shape=(-1, *tensor.shape[1:])) if tensor.shape else tensor for tensor in self.outputs
            ),
        )

    def with_manifest(self, manifest: Manifest) -> Signature:
        """This signature with the dimensions that only the manifest knows.

        Raises:
            BundleError: `Invalid` where the two contradict each other.
        """
        return Signature(
            _merged("input", self.inputs, manifest.inputs), _merged("output", self.outputs, manifest.outputs)
        )


def of_runtime(inputs: Sequence[Any], outputs: Sequence[Any]) -> Signature:
    """The signature of a loaded model, from the runtime's descriptions (name, type, shape).

    Raises:
        BundleError: `Invalid` for a model without inputs, or with types that no client could send or read.
    """
    if not inputs:
        raise BundleError("Invalid", "the model has no inputs, so nothing can be asked of it")
    return Signature(
        tuple(_tensor("input", described) for described in inputs),
        tuple(_tensor("output", described) for described in outputs),
    )


def _tensor(role: str, described: Any) -> Tensor:
    datatype = _RUNTIME_TYPES.get(described.type)
    if datatype is None:
        hint = " (scikit-learn models: convert with zipmap off)" if "map(" in described.type else ""
        raise BundleError(
            "Invalid", f"{role} {_cut(described.name)} is a {described.type}, which cannot be served{hint}: tensors can"
        )
    if len(described.shape) > MAX_DIMENSIONS:
        raise BundleError("Invalid", f"{role} {_cut(described.name)} has more than {MAX_DIMENSIONS} dimensions")
    shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in described.shape)
    if role == "input" and math.prod(map(abs, shape)) > MAX_ROW_ELEMENTS:
        raise BundleError("Invalid", f"{role} {_cut(described.name)} has more elements than a request can carry")
    return Tensor(described.name, datatype, shape)


def _cut(name: str) -> str:
    """A name for a message, which must not grow with it."""
    return repr(name if len(name) <= 100 else name[:99] + "…")


def _merged(role: str, ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    listed = {tensor.name: tensor for tensor in theirs}
    if set(listed) != {tensor.name for tensor in ours}:
        raise BundleError("Invalid", f"manifest.json lists other {role}s than the model has")
    return tuple(_merge(role, tensor, listed[tensor.name]) for tensor in ours)


def _merge(role: str, ours: Tensor, theirs: Tensor) -> Tensor:
    if not ours.shape:
        ours = replace(ours, shape=theirs.shape)
    sizes = tuple(zip(ours.shape, theirs.shape, strict=False))
    if (
        ours.datatype != theirs.datatype
        or len(ours.shape) != len(theirs.shape)
        or any(-1 not in pair and pair[0] != pair[1] for pair in sizes)
    ):
        raise BundleError("Invalid", f"manifest.json describes {role} {ours.name!r} in another way than the model does")
    return Tensor(ours.name, ours.datatype, tuple(max(pair) for pair in sizes), theirs.labels)
