"""The model of a run: fetched, verified, loaded, and what it says about rows."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa

from holdfast_bundle import manifest
from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import fetch_model
from holdfast_bundle.manifest import Tensor
from holdfast_bundle.onnx_safety import check_external_data
from holdfast_bundle.uris import CLAIMS
from holdfast_bundle.verify import verify
from holdfast_bundle.web import Web
from holdfast_training.batch.inputs import DTYPES, Array
from holdfast_training.data import PRODUCTION
from holdfast_training.errors import Reason, TrainingError, count

PROFILE = "profile.json"
_MAX_PROFILE_BYTES = 4 << 20

_REASONS: dict[str, Reason] = {
    "NotFound": "ModelNotFound",
    "AccessDenied": "ModelAccessDenied",
    "Unreachable": "ModelUnreachable",
    "AddressRefused": "AddressRefused",
    "DigestMismatch": "DigestMismatch",
    "Invalid": "ModelInvalid",
}
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    **{f"tensor({sign}int{bits})": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_ARROW = {"BYTES": pa.string(), "FP16": pa.float32()}
"""Where another type is more widely read than numpy's own."""


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model.

    Attributes:
        inputs, outputs: in its own order; outputs with the labels of the bundle's manifest.
        profile: the bundle's reference statistics; empty where there are none.
    """

    digest: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profile: dict[str, Any]
    _session: Any

    @property
    def takes_one_row(self) -> bool:
        """Whether it was made for one row at a time."""
        return any(tensor.shape[0] == 1 for tensor in self.inputs if tensor.shape)

    def answer(self, feeds: dict[str, Array], batch_rows: int) -> list[Array]:
        """Its outputs for some rows, in the order of `outputs`; `batch_rows` of them in one call.

        Raises:
            TrainingError: `ModelInvalid` when it cannot answer, or not row by row.
        """
        rows = len(next(iter(feeds.values())))
        step = 1 if self.takes_one_row else batch_rows
        answers = [
            self._run({name: array[at : at + step] for name, array in feeds.items()}) for at in range(0, rows, step)
        ]
        return [np.concatenate(parts) for parts in zip(*answers, strict=True)]

    def _run(self, feeds: dict[str, Array]) -> list[Array]:
        rows = len(next(iter(feeds.values())))
        try:
            answers: list[Array] = self._session.run(None, feeds)
        except Exception:  # ONNX Runtime's exceptions have no common base, and their texts may hold values
            traceback.print_exc()
            words = f"the model fails on {count(rows, 'row')}; the pod's log has the details"
            raise TrainingError("ModelInvalid", words) from None
        for tensor, answer in zip(self.outputs, answers, strict=True):
            if answer.ndim == 0 or len(answer) != rows:
                words = f"output {tensor.name!r} does not have one answer for each of {count(rows, 'row')}"
                raise TrainingError("ModelInvalid", words)
        return answers


def load(
    uri: str,
    digest: str | None,
    folder: Path,
    *,
    threads: int,
    claims: Path = CLAIMS,
    web: Web = PRODUCTION,
    credentials: Credentials = NOBODY,
) -> Model:
    """Bring a model into `folder`, and refuse it unless it is the one that was asked for.

    digest: that it must have; None for whatever is there.

    Raises:
        TrainingError: `ModelNotFound`, `ModelAccessDenied`, `ModelUnreachable`, `AddressRefused`, `DigestMismatch`,
            or `ModelInvalid`.
    """
    try:
        path = fetch_model(uri, folder, web=web, claims=claims, credentials=credentials)
        found = verify(path, digest)
        bundle = manifest.read(path) if path.is_dir() else None
        file = path / manifest.MODEL if bundle else path
        check_external_data(file, folder)
    except BundleError as error:
        raise TrainingError(_REASONS.get(error.reason, "ModelInvalid"), error.message) from error
    session = _session(file, threads)
    outputs = _tensors("output", session.get_outputs())
    if bundle:
        listed = {tensor.name: tensor for tensor in bundle.outputs}
        outputs = tuple(_completed(tensor, listed.get(tensor.name)) for tensor in outputs)
    profile = _profile(path / PROFILE) if bundle else {}
    return Model(found, _tensors("input", session.get_inputs()), outputs, profile, session)


def field(tensor: Tensor) -> pa.Field:
    """The column of an output: a value for each row, or a list of values."""
    kind = _ARROW.get(tensor.datatype) or pa.from_numpy_dtype(DTYPES[tensor.datatype])
    return pa.field(tensor.name, kind if _is_single(tensor) else pa.list_(kind))


def column(tensor: Tensor, answers: Array) -> pa.Array:
    """Answers of an output, as `field` says. Raises TrainingError `ModelInvalid`."""
    flat = answers.reshape(-1)
    values = pa.array(flat.tolist() if flat.dtype == object else flat, _ARROW.get(tensor.datatype))
    if not _is_single(tensor):
        width = len(flat) // max(len(answers), 1)
        return pa.ListArray.from_arrays(pa.array(np.arange(len(answers) + 1) * width, pa.int32()), values)
    if len(flat) != len(answers):
        words = f"output {tensor.name!r} has several values for each row, and the model does not say so"
        raise TrainingError("ModelInvalid", words)
    return values


def _is_single(tensor: Tensor) -> bool:
    return all(size == 1 for size in tensor.shape[1:])


def _session(file: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception:
        traceback.print_exc()
        raise TrainingError(
            "ModelInvalid", "ONNX Runtime cannot load the model; the pod's log has the details"
        ) from None


def _tensors(role: str, described: list[Any]) -> tuple[Tensor, ...]:
    if role == "input" and not described:
        raise TrainingError("ModelInvalid", "the model has no inputs, so nothing can be asked of it")
    tensors = []
    for each in described:
        if each.type not in _DATATYPES:
            hint = " (scikit-learn models: convert with zipmap off)" if "map(" in each.type else ""
            words = f"{role} {each.name!r} is a {each.type}, which no column can hold{hint}"
            raise TrainingError("ModelInvalid", words)
        shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in each.shape)
        if role == "input" and shape and shape[0] not in (-1, 1):
            words = (
                f"input {each.name!r} takes exactly {shape[0]} rows at a time; export it with a free first dimension"
            )
            raise TrainingError("ModelInvalid", words)
        tensors.append(Tensor(each.name, _DATATYPES[each.type], shape))
    return tuple(tensors)


def _completed(tensor: Tensor, listed: Tensor | None) -> Tensor:
    """With what only the manifest knows."""
    return tensor if listed is None else replace(tensor, shape=tensor.shape or listed.shape, labels=listed.labels)


def _profile(path: Path) -> dict[str, Any]:
    """The document as it is; empty when it is none. What of it can be used is for `bins` to say."""
    try:
        if path.stat().st_size > _MAX_PROFILE_BYTES:
            return {}
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
