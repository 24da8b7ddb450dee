"""A published model as ONNX Runtime answers: fetched, verified and loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from holdfast_bundle import manifest
from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import fetch_model
from holdfast_bundle.manifest import Manifest, Tensor
from holdfast_bundle.onnx_safety import check_external_data
from holdfast_bundle.uris import CLAIMS
from holdfast_bundle.verify import verify
from holdfast_bundle.web import Web
from holdfast_training import signature
from holdfast_training.errors import Reason, TrainingError
from holdfast_training.images import rows_at_once
from holdfast_training.signature import NUMPY, Feeds, Layout
from holdfast_training.spec import Task

Array = npt.NDArray[Any]

GOLDEN = "golden.json"
PROFILE = "profile.json"

_PRODUCTION = Web()
_ROWS_AT_ONCE = 8192
_MAX_BYTES = 64 << 20
_REASONS: dict[str, Reason] = {
    "NotFound": "ModelNotFound",
    "AccessDenied": "ModelAccessDenied",
    "Unreachable": "ModelUnreachable",
    "Invalid": "ModelInvalid",
    "AddressRefused": "AddressRefused",
    "DigestMismatch": "DigestMismatch",
    "SecretNotFound": "SecretNotFound",
    "SecretInvalid": "SecretInvalid",
}


@dataclass(frozen=True, slots=True)
class Golden:
    """A golden request: what the model was asked, and what its trainer wrote down as the answer, by output.

    A number may differ by `absolute` and by `relative` of what is written down.
    """

    asked: Feeds
    answers: Feeds
    relative: float
    absolute: float

    def is_answered_by(self, outputs: Feeds) -> bool:
        """Whether these outputs are what is written down."""
        return all(
            name in outputs and _close(outputs[name], expected, self.relative, self.absolute)
            for name, expected in self.answers.items()
        )


@dataclass(frozen=True, slots=True)
class Said:
    """What a model says about some rows.

    Attributes:
        values: labels (whole numbers or texts), or predictions (float64).
        probabilities: rows x classes; None where there are none.
        classes: of the probabilities, in their order.
    """

    values: Array
    probabilities: npt.NDArray[np.float64] | None = None
    classes: Array | None = None

    def as_texts(self) -> Said:
        """With labels as texts."""
        classes = None if self.classes is None else self.classes.astype(str)
        return Said(self.values.astype(str), self.probabilities, classes)


@dataclass(frozen=True, slots=True)
class Contender:
    """A model ready to be asked.

    Attributes:
        role: `champion`, `challenger` or `model`, for messages.
        digest: of the bundle or the bare file.
        manifest: None for a bare ONNX file.
        inputs, outputs: in the model's own order; -1 stands for a dimension that varies.
        size: bytes of all its files.
        golden: none for a bare file.
        matrices: columns of inputs that take several, by the bundle's profile.
    """

    role: str
    digest: str
    session: onnxruntime.InferenceSession
    manifest: Manifest | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    size: int
    golden: tuple[Golden, ...]
    matrices: Layout

    def says(self, task: Task, feeds: Feeds) -> Said:
        """Its label or prediction for each row, and its probabilities.

        Raises:
            TrainingError: `ModelInvalid` when it cannot answer, or not with numbers.
        """
        rows = len(next(iter(feeds.values())))
        step = min([_ROWS_AT_ONCE, *(rows_at_once(values.shape[1:]) for values in feeds.values())])
        parts = [
            self.run({name: values[start : start + step] for name, values in feeds.items()})
            for start in range(0, rows, step)
        ]
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        values = outputs[self.answer_name(task)]
        if values.size != rows:
            raise TrainingError("ModelInvalid", f"the {self.role} does not give one answer for each row")
        if task == "Regression":
            predictions = values.ravel().astype(np.float64)
            if not np.isfinite(predictions).all():
                raise TrainingError("ModelInvalid", f"the {self.role} gives predictions that are not finite numbers")
            return Said(predictions)
        probabilities = next((tensor for tensor in self.outputs if tensor.labels and tensor.datatype == "FP32"), None)
        if probabilities is None or not np.isfinite(outputs[probabilities.name]).all():
            return Said(values.ravel())
        names = np.array(probabilities.labels, object)
        classes = names.astype(np.int64) if values.dtype.kind == "i" else names
        return Said(values.ravel(), outputs[probabilities.name].astype(np.float64), classes)

    def answer_name(self, task: Task) -> str:
        """The output that holds the label or prediction: of the name that Holdfast gives it, else the only one of a
        type that can hold it.

        Raises:
            TrainingError: `ModelInvalid` where there is none.
        """
        name, types = ("prediction", ("FP32", "FP64")) if task == "Regression" else ("label", ("INT64", "BYTES"))
        able = [tensor.name for tensor in self.outputs if tensor.datatype in types]
        if name in able or len(able) == 1:
            return name if name in able else able[0]
        message = f"the {self.role} has no output {name}, nor a single one of {' or '.join(types)}"
        raise TrainingError("ModelInvalid", message)

    def run(self, feeds: Feeds) -> Feeds:
        """Its outputs by name. Raises TrainingError `ModelInvalid` when it cannot answer."""
        try:
            outputs = self.session.run(None, feeds)
        except Exception as error:  # the runtime's exceptions have no common base, and hold values
            raise TrainingError("ModelInvalid", f"the {self.role} fails on rows of the data") from error
        return dict(zip((tensor.name for tensor in self.outputs), outputs, strict=True))


def load(
    role: str,
    uri: str,
    digest: str | None,
    folder: Path,
    *,
    threads: int = 1,
    claims: Path = CLAIMS,
    web: Web = _PRODUCTION,
    credentials: Credentials = NOBODY,
) -> Contender:
    """Bring a model into `folder`, hold it to its digest and load it.

    digest: that it must have; None for whatever is there.

    Raises:
        TrainingError: the reasons of fetching with `Model` in front, `DigestMismatch`, `ModelInvalid`.
    """
    try:
        path = fetch_model(uri, folder, claims=claims, web=web, credentials=credentials)
        found = verify(path, digest)
        bundle = manifest.read(path) if path.is_dir() else None
        return opened(role, path / manifest.MODEL if bundle else path, folder, bundle, digest=found, threads=threads)
    except BundleError as error:
        raise TrainingError(_REASONS[error.reason], f"{role}: {error.message}") from error


def opened(
    role: str, model: Path, folder: Path, bundle: Manifest | None, *, digest: str = "", threads: int = 1
) -> Contender:
    """A model of a folder, loaded. Its golden requests are those beside it.

    Raises:
        BundleError: `Invalid`.
    """
    check_external_data(model, folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    session = _session(model, threads)
    inputs = signature.tensors(session.get_inputs(), bundle.inputs if bundle else ())
    outputs = signature.tensors(session.get_outputs(), bundle.outputs if bundle else ())
    golden, matrices = _golden(model.with_name(GOLDEN)), _matrices(model.with_name(PROFILE))
    return Contender(role, digest, session, bundle, inputs, outputs, size, golden, matrices)


def _session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the server has it
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BundleError("Invalid", "ONNX Runtime cannot load the model") from error


def _golden(path: Path) -> tuple[Golden, ...]:
    """The golden requests of a bundle, of which there may be none."""
    if not path.exists():
        return ()
    try:
        document = _json(path)
        relative, absolute = (float(document["tolerance"][kind]) for kind in ("relative", "absolute"))
        return tuple(
            Golden(_arrays(request["inputs"]), _arrays(request["outputs"]), relative, absolute)
            for request in document["requests"]
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BundleError("Invalid", f"{GOLDEN} is not of the agreed form ({type(error).__name__})") from error


def _matrices(path: Path) -> Layout:
    """Features of the profile that are columns of a matrix; empty where it names none, or there is none."""
    if not path.exists():
        return {}
    found: dict[str, dict[int, str]] = {}
    try:
        for name, feature in _json(path)["features"].items():
            if "column" in feature and "output" not in feature:
                found.setdefault(str(feature["input"]), {})[int(feature["column"])] = name
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BundleError("Invalid", f"{PROFILE} is not of the agreed form ({type(error).__name__})") from error
    whole = {name: columns for name, columns in found.items() if sorted(columns) == list(range(len(columns)))}
    return {name: tuple(columns[index] for index in sorted(columns)) for name, columns in whole.items()}


def _json(path: Path) -> Any:
    """Raises BundleError, or ValueError and RecursionError as json does."""
    if path.stat().st_size > _MAX_BYTES:
        raise BundleError("Invalid", f"{path.name} is larger than {_MAX_BYTES >> 20} MiB")
    return json.loads(path.read_bytes())


def _arrays(tensors: list[Mapping[str, Any]]) -> Feeds:
    return {
        tensor["name"]: np.array(tensor["data"], NUMPY[tensor["datatype"]]).reshape(tensor["shape"])
        for tensor in tensors
    }


def _close(actual: Array, expected: Array, relative: float, absolute: float) -> bool:
    if actual.shape != expected.shape:
        return False
    if expected.dtype.kind != "f" or actual.dtype.kind != "f":
        return bool(np.all(actual == expected))
    with np.errstate(invalid="ignore"):
        near = np.abs(actual - expected) <= absolute + relative * np.abs(expected)
    return bool(np.all(near | (actual == expected)))
