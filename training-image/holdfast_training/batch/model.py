"""The model of a run, and what it says about rows."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.manifest import Tensor
from holdfast_bundle.uris import CLAIMS
from holdfast_bundle.web import Web
from holdfast_training import contender
from holdfast_training.contender import Array, Contender
from holdfast_training.data import PRODUCTION
from holdfast_training.errors import TrainingError, count
from holdfast_training.images import rows_at_once
from holdfast_training.signature import NUMPY, Feeds

PROFILE = "profile.json"
_MAX_PROFILE_BYTES = 4 << 20
_ARROW = {"BYTES": pa.string(), "FP16": pa.float32()}
"""Where another type is more widely read than numpy's own."""


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model.

    Attributes:
        profile: the bundle's reference statistics; empty where there are none.
    """

    contender: Contender
    profile: dict[str, Any]

    @property
    def digest(self) -> str:
        return self.contender.digest

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.contender.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self.contender.outputs

    @property
    def takes_one_row(self) -> bool:
        """Whether it was made for one row at a time."""
        return any(tensor.shape[0] == 1 for tensor in self.inputs if tensor.shape)

    def answer(self, feeds: Feeds, batch_rows: int) -> Feeds:
        """Its outputs for some rows, by name; `batch_rows` of them in one call, fewer where they are large images.

        Raises:
            TrainingError: `ModelInvalid` when it cannot answer, or not row by row.
        """
        rows = len(next(iter(feeds.values())))
        images = [rows_at_once(array.shape[1:]) for array in feeds.values() if array.ndim > 2]
        step = 1 if self.takes_one_row else min([batch_rows, *images])
        parts = [
            self._run({name: array[at : at + step] for name, array in feeds.items()}) for at in range(0, rows, step)
        ]
        return {tensor.name: np.concatenate([part[tensor.name] for part in parts]) for tensor in self.outputs}

    def _run(self, feeds: Feeds) -> Feeds:
        rows = len(next(iter(feeds.values())))
        try:
            answers = self.contender.run(feeds)
        except TrainingError:
            traceback.print_exc()  # for the pod's log only: the runtime's words may hold values
            raise
        for name, answer in answers.items():
            if answer.ndim == 0 or len(answer) != rows:
                words = f"output {name!r} does not have one answer for each of {count(rows, 'row')}"
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
    """Bring a model into `folder`; refuse it unless it is the one that was asked for, and answers as its trainer said.

    digest: that it must have; None for whatever is there.

    Raises:
        TrainingError: `ModelNotFound`, `ModelAccessDenied`, `ModelUnreachable`, `AddressRefused`, `DigestMismatch`,
            `ModelInvalid`, `SecretNotFound` or `SecretInvalid`.
    """
    loaded = contender.load(
        "model", uri, digest, folder, threads=threads, claims=claims, web=web, credentials=credentials
    )
    if not loaded.inputs:
        raise TrainingError("ModelInvalid", "the model has no inputs, so nothing can be asked of it")
    for tensor in loaded.inputs:
        if tensor.shape and tensor.shape[0] not in (-1, 1):
            words = f"input {tensor.name!r} takes exactly {tensor.shape[0]} rows at a time"
            raise TrainingError("ModelInvalid", f"{words}; export it with a free first dimension")
    wrong = [golden for golden in loaded.golden if not golden.is_answered_by(loaded.run(golden.asked))]
    if wrong:
        words = (
            f"the model answers {len(wrong)} of its {count(len(loaded.golden), 'golden request')} otherwise than its"
        )
        raise TrainingError("ModelInvalid", f"{words} trainer wrote down")
    return Model(loaded, _profile(folder / PROFILE) if loaded.manifest else {})


def field(tensor: Tensor) -> pa.Field:
    """The column of an output: a value for each row, or a list of values."""
    kind = _ARROW.get(tensor.datatype) or pa.from_numpy_dtype(NUMPY[tensor.datatype])
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


def _profile(path: Path) -> dict[str, Any]:
    """The document as it is; empty when it is none. What of it can be used is for `bins` to say."""
    try:
        if path.stat().st_size > _MAX_PROFILE_BYTES:
            return {}
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
