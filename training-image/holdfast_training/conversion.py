"""From a fitted model to one ONNX graph that answers like the estimator, and the proof on held-out rows.

The graph takes one [N, 1] tensor per column (FP32, or BYTES for categories) and one [N, width] tensor per embedding, or
images. It gives `label` and, where the estimator has them, `probabilities`; or `prediction`; of embeddings and images
also `monitor`. skl2onnx (for XGBoost and LightGBM with
converters of onnxmltools) converts the estimator (networks write their own nodes), `preprocessing` the rest.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, checker, compose, helper, numpy_helper
from skl2onnx import convert_sklearn, update_registered_converter
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from skl2onnx.operator_converters.random_forest import (
    convert_sklearn_random_forest_classifier,
    convert_sklearn_random_forest_regressor_converter,
)
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from holdfast_bundle.manifest import Tensor
from holdfast_training import estimators
from holdfast_training.columns import MONITOR, Columns, Frame
from holdfast_training.errors import TrainingError, count
from holdfast_training.graph import Graph
from holdfast_training.images import rows_at_once
from holdfast_training.model import Answers, Model

OPSET = 21
ML_OPSET = 3
RELATIVE_TOLERANCE = 1e-4
ABSOLUTE_TOLERANCE = 1e-5

_ROWS_AT_ONCE = 8192

_IN_FP64 = {
    *("ElasticNet", "GaussianNB", "KNeighborsClassifier", "KNeighborsRegressor", "Lasso", "LinearRegression"),
    *("LinearSVR", "LogisticRegression", "MLPClassifier", "MLPRegressor", "PoissonRegressor", "Ridge"),
    *("SGDClassifier", "SGDRegressor"),
}
"""Estimators that the graph computes in FP64, as scikit-learn does: a variance near zero, two neighbours at the same
distance or a sum of large terms would differ in FP32. Kernels for the others exist in FP32 only, or they compare
FP32 numbers by nature (trees)."""

_CLASSIFIER_OPTIONS = {"zipmap": [True, False], "raw_scores": [False], "nocl": [False], "output_class_labels": [False]}


@dataclass(frozen=True, slots=True)
class Converted:
    """A serialised ONNX model and its signature."""

    onnx: bytes
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an answer in FP32 may be from the estimator's."""

    relative: float
    absolute: float

    def allows(self, expected: npt.NDArray[np.float64], actual: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Element by element; NaN is never allowed."""
        close: npt.NDArray[np.bool_] = np.abs(actual - expected) <= self.absolute + self.relative * np.abs(expected)
        return close


def tolerance_for(answers: Answers) -> Tolerance:
    """Predictions have a scale of their own, and cancellation makes errors on that scale."""
    if answers.margins is not None:
        return Tolerance(RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE)
    scale = float(np.abs(answers.values).max())
    return Tolerance(RELATIVE_TOLERANCE, float(f"{ABSOLUTE_TOLERANCE * scale:.3g}"))


def convert(model: Model) -> Converted:
    """Make the ONNX model. The same fitted model gives the same bytes.

    Raises:
        TrainingError: `ConversionFailed`.
    """
    name = type(model.estimator).__name__
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # skl2onnx reads attributes of SVC that are to go
            graph = _graph(model)
        checker.check_model(graph, full_check=True)
        serialized = graph.SerializeToString(deterministic=True)
    except Exception as error:  # skl2onnx raises whatever comes to it, with trees and labels in the text
        traceback.print_exc()
        message = f"{name} with these parameters cannot be made an ONNX model; the pod's log has the details"
        raise TrainingError("ConversionFailed", message) from error
    return Converted(serialized, _inputs(model.columns), _outputs(model))


def check_parity(model: Model, converted: Converted, held_out: Frame, expected: Answers, threads: int) -> float:
    """Ask ONNX Runtime about every held-out row; returns the largest difference of a number.

    Raises:
        TrainingError: `ParityFailed`.
    """
    name = type(model.estimator).__name__
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(converted.onnx, options, providers=["CPUExecutionProvider"])
        images = model.columns.images
        step = _ROWS_AT_ONCE if images is None else min(_ROWS_AT_ONCE, rows_at_once(images.shape))
        chunks = np.split(np.arange(len(held_out)), range(step, len(held_out), step))
        parts = [session.run(None, feeds(model.columns, held_out.take(rows))) for rows in chunks]
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        traceback.print_exc()
        message = f"ONNX Runtime cannot run the ONNX model of {name}; the pod's log has the details"
        raise TrainingError("ParityFailed", message) from error
    outputs = [np.concatenate(part) for part in zip(*parts, strict=True)]
    if model.monitored:
        monitored = model.monitor(held_out).astype(np.float64)
        _compare_numbers(name, monitored, outputs[-1], tolerance_for(expected))
    return compare(name, expected, outputs)


def compare(name: str, expected: Answers, outputs: Sequence[npt.NDArray[Any]]) -> float:
    """Hold outputs of the ONNX model (in the order of its signature) against the answers of the estimator `name`.

    A label may differ where the estimator itself sees a tie within the tolerance. Returns the largest difference of a
    number. Raises TrainingError `ParityFailed`.
    """
    rows, tolerance = len(expected.values), tolerance_for(expected)
    numbers = expected.values if expected.margins is None else expected.probabilities
    if expected.margins is not None:
        differ = (outputs[0] != expected.values) & (expected.margins > tolerance.absolute)
        if np.any(differ):
            raise TrainingError(
                "ParityFailed",
                f"the ONNX model of {name} gives another label than {estimators.framework(name)} for {differ.sum():,} "
                f"of {count(rows, 'held-out row')}",
            )
    if numbers is None:
        return 0.0
    return _compare_numbers(name, numbers, outputs[0 if expected.margins is None else 1], tolerance)


def _compare_numbers(
    name: str, expected: npt.NDArray[np.float64], given: npt.NDArray[Any], tolerance: Tolerance
) -> float:
    rows, actual = len(expected), given.astype(np.float64)
    outside = ~tolerance.allows(expected, actual).reshape(rows, -1).all(axis=1)
    worst = float(np.abs(actual - expected).max())
    if np.any(outside):
        raise TrainingError(
            "ParityFailed",
            f"the ONNX model of {name} answers differently from {estimators.framework(name)} for {outside.sum():,} "
            f"of {count(rows, 'held-out row')}; the largest difference is {worst:.3g}",
        )
    return worst


def feeds(columns: Columns, frame: Frame) -> dict[str, npt.NDArray[Any]]:
    """Rows as ONNX Runtime takes them: one [N, 1] array per column, one [N, width] array per embedding, or images."""
    if columns.images is not None and frame.pixels is not None:
        return {columns.images.name: frame.pixels}
    numeric = {name: frame.numeric[:, [index]] for index, name in enumerate(columns.single)}
    vectors = {name: frame.numeric[:, place] for name, place in columns.vectors.items()}
    categorical = {name: frame.categorical[:, [index]] for index, name in enumerate(columns.categorical)}
    return {**numeric, **vectors, **categorical}


def _inputs(columns: Columns) -> tuple[Tensor, ...]:
    if (images := columns.images) is not None:
        return (Tensor(images.name, images.datatype, (-1, *images.shape)),)
    numeric = [Tensor(name, "FP32", (-1, 1)) for name in columns.single]
    numeric += [Tensor(each.name, "FP32", (-1, len(each.columns))) for each in columns.embeddings]
    return (*numeric, *(Tensor(name, "BYTES", (-1, 1)) for name in columns.categorical))


def _outputs(model: Model) -> tuple[Tensor, ...]:
    monitor = (Tensor(MONITOR, "FP32", (-1, len(model.monitored))),) if model.monitored else ()
    if model.task == "Regression":
        return (Tensor("prediction", "FP32", (-1,)), *monitor)
    label = Tensor("label", "INT64" if model.classes.dtype.kind == "i" else "BYTES", (-1,))
    if not model.has_probabilities:
        return (label, *monitor)
    classes = tuple(map(str, model.classes.tolist()))
    return (label, Tensor("probabilities", "FP32", (-1, len(classes)), classes), *monitor)


_ONNX_TYPES = {
    "FP32": TensorProto.FLOAT,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "BYTES": TensorProto.STRING,
}


def _value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    shape = ["N" if size == -1 else size for size in tensor.shape]
    return helper.make_tensor_value_info(tensor.name, _ONNX_TYPES[tensor.datatype], shape)


def _graph(model: Model) -> onnx.ModelProto:
    """Preprocessing, estimator and outputs in one graph, whose inner names cannot be a column's."""
    taken = {tensor.name for tensor in (*_inputs(model.columns), *_outputs(model))}
    inner = "_"
    while any(name.startswith(inner) for name in taken):
        inner += "_"
    matrix = f"{inner}features"
    nodes, constants = model.preprocessor.to_onnx(model.columns, matrix, f"{inner}p")
    outputs = _outputs(model)
    estimator: Any = model.estimator
    if hasattr(estimator, "to_onnx"):
        network = Graph(f"{inner}e")
        answers = [*estimator.to_onnx(network, network.node("Cast", matrix, to=TensorProto.FLOAT))]
        nodes.extend(network.nodes)
        constants.extend(network.constants)
    else:
        converted = compose.add_prefix(_convert_estimator(model), f"{inner}e")
        in_fp64 = type(model.estimator).__name__ in _IN_FP64
        entry = converted.graph.input[0].name
        to = TensorProto.DOUBLE if in_fp64 else TensorProto.FLOAT
        nodes.append(helper.make_node("Cast", [matrix], [entry], name=f"{inner}in", to=to))
        nodes.extend(converted.graph.node)
        constants.extend(converted.graph.initializer)
        answers = [output.name for output in converted.graph.output]
    loss = model.estimator.get_params(deep=False).get("loss")
    if type(model.estimator).__name__ == "HistGradientBoostingRegressor" and loss in ("poisson", "gamma"):
        # skl2onnx 1.20 forgets the link function of these losses.
        nodes.append(helper.make_node("Exp", [answers[0]], [f"{inner}exp"], name=f"{inner}exp"))
        answers = [f"{inner}exp"]
    if model.calibration is not None:
        calibration = Graph(f"{inner}c")
        calibrated = model.calibration.to_onnx(calibration, model.estimator, answers[1], model.classes)
        answers = [*calibrated, *answers[2:]]
        nodes.extend(calibration.nodes)
        constants.extend(calibration.constants)
    if model.directions:
        watching = Graph(f"{inner}m")
        vectors = zip(model.columns.vectors, model.directions, strict=True)
        numbers = [fitted.to_onnx(watching, vector) for vector, fitted in vectors]
        answers = [*answers[: len(outputs) - 1], watching.node("Concat", *numbers, axis=1)]
        nodes.extend(watching.nodes)
        constants.extend(watching.constants)
    for answer, output in zip(answers, outputs, strict=False):
        if output.datatype == "FP32":
            cast = f"{inner}fp32_{output.name}"
            nodes.append(helper.make_node("Cast", [answer], [cast], name=cast, to=TensorProto.FLOAT))
            answer = cast
        shape = f"{inner}shape_{output.name}"
        constants.append(numpy_helper.from_array(np.array(output.shape, np.int64), shape))
        nodes.append(helper.make_node("Reshape", [answer, shape], [output.name], name=f"{inner}out_{output.name}"))
    graph = helper.make_graph(
        nodes,
        "model",
        [_value_info(tensor) for tensor in _inputs(model.columns)],
        [_value_info(tensor) for tensor in outputs],
        constants,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    return helper.make_model(graph, opset_imports=opsets, producer_name="holdfast", ir_version=10)


def _convert_estimator(model: Model) -> onnx.ModelProto:
    estimator: Any = model.estimator
    name = type(estimator).__name__
    if type(estimator).__module__ == "holdfast_training.boosting":
        _register_boosting()
    tensor_type = DoubleTensorType if name in _IN_FP64 else FloatTensorType
    # LinearSVC has no such option; of all others the default is a sequence of maps, which is no tensor.
    plain = model.task == "Regression" or name == "LinearSVC"
    converted: onnx.ModelProto = convert_sklearn(
        estimator,
        "estimator",
        [("features", tensor_type([None, estimator.n_features_in_]))],
        options=None if plain else {id(estimator): {"zipmap": False}},
        target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
    )
    _rename(converted.graph, "", {})
    return converted


def _rename(graph: onnx.GraphProto, prefix: str, outer: Mapping[str, str]) -> None:
    """Name everything by its place: names of skl2onnx hold counts of the process, some even an object's address.

    outer: what names outside of this graph have become; those inside begin with prefix.
    """
    own = [item.name for item in (*graph.input, *graph.initializer)]
    own += [name for node in graph.node for name in node.output if name]
    names = {**outer, **{name: f"{prefix}{place}" for place, name in enumerate(own)}}
    for item in (*graph.input, *graph.initializer, *graph.output):
        item.name = names[item.name]
    for place, node in enumerate(graph.node):
        node.name = f"{prefix}n{place}"
        for part in (node.input, node.output):
            part[:] = [names.get(name, name) for name in part]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(attribute.g, f"{node.name}_", names)
    del graph.value_info[:]
    graph.name = f"{prefix}graph"


def _register_boosting() -> None:
    """Teach skl2onnx the estimators of `boosting`."""
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

    from holdfast_training import boosting

    for kind, converter in (("XGB", convert_xgboost), ("LGBM", convert_lightgbm)):
        classifier, regressor = getattr(boosting, f"{kind}Classifier"), getattr(boosting, f"{kind}Regressor")
        shapes = calculate_linear_classifier_output_shapes
        update_registered_converter(
            classifier, f"Holdfast{kind}Classifier", shapes, converter, options=_CLASSIFIER_OPTIONS
        )
        shapes = calculate_linear_regressor_output_shapes
        update_registered_converter(regressor, f"Holdfast{kind}Regressor", shapes, converter)


def _with_integers(converter: Callable[..., None]) -> Callable[..., None]:
    """A converter of skl2onnx 1.20 gives Python booleans where ONNX from 1.20 on insists on integers."""

    def convert(scope: Any, operator: Any, container: Any) -> None:
        add_node = container.add_node

        def add(*arguments: Any, nodes_missing_value_tracks_true: Sequence[bool], **attributes: Any) -> Any:
            flags = [int(flag) for flag in nodes_missing_value_tracks_true]
            return add_node(*arguments, nodes_missing_value_tracks_true=flags, **attributes)

        container.add_node = add
        try:
            converter(scope, operator, container)
        finally:
            del container.add_node

    return convert


update_registered_converter(
    HistGradientBoostingClassifier,
    "HoldfastHistGradientBoostingClassifier",
    calculate_linear_classifier_output_shapes,
    _with_integers(convert_sklearn_random_forest_classifier),
    options=_CLASSIFIER_OPTIONS,
)
update_registered_converter(
    HistGradientBoostingRegressor,
    "HoldfastHistGradientBoostingRegressor",
    calculate_linear_regressor_output_shapes,
    _with_integers(convert_sklearn_random_forest_regressor_converter),
)
