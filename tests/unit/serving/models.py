"""Small real models, always the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[Any] | None]],
    outputs: Mapping[str, tuple[int, Sequence[Any] | None]],
    **constants: np.ndarray[Any, Any],
) -> bytes:
    """A model from nodes; inputs and outputs are (element type, shape) by name.

    None stands for a dimension that varies, or for a shape that the model does not say.
    """
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, *described) for name, described in inputs.items()],
        [helper.make_tensor_value_info(name, *described) for name, described in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    content: bytes = made.SerializeToString()
    return content


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


@cache
def iris() -> bytes:
    """Four FP32 columns to an INT64 label and three FP32 probabilities."""
    from skl2onnx import to_onnx
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    rows, labels = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(rows.astype(np.float32), labels)
    options = {id(model): {"zipmap": False}}
    content: bytes = to_onnx(model, rows[:1].astype(np.float32), options=options, target_opset=17).SerializeToString()
    return content


@cache
def iris_with_maps() -> bytes:
    """The same as skl2onnx makes it if nobody says no: probabilities as a sequence of maps."""
    from skl2onnx import to_onnx
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    rows, labels = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(rows.astype(np.float32), labels)
    content: bytes = to_onnx(model, rows[:1].astype(np.float32), target_opset=17).SerializeToString()
    return content


@cache
def colours() -> bytes:
    """A pipeline over a string column `colour` and a numeric one `size`, with an imputer; gives a string label."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder
    from sklearn.tree import DecisionTreeClassifier

    table = np.array([[("red", "green", "blue")[n % 3], float(n % 7)] for n in range(60)], object)
    label = [f"{colour}, {'big' if size > 3 else 'small'}" for colour, size in table]
    encode = ColumnTransformer(
        [("c", OneHotEncoder(handle_unknown="ignore"), [0]), ("s", SimpleImputer(strategy="median"), [1])]
    )
    pipeline = make_pipeline(encode, DecisionTreeClassifier(random_state=0)).fit(table, label)
    types = [("colour", StringTensorType([None, 1])), ("size", FloatTensorType([None, 1]))]
    options = {id(pipeline): {"zipmap": False}}
    content: bytes = to_onnx(pipeline, initial_types=types, options=options, target_opset=17).SerializeToString()
    return content


DATATYPES = {
    "BOOL": TensorProto.BOOL, "BYTES": TensorProto.STRING, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32, "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
}  # fmt: skip


@cache
def echo(datatype: str, *shape: int | None) -> bytes:
    """Gives `x` back as `y`."""
    kind = {**DATATYPES, "FP16": TensorProto.FLOAT16}[datatype]
    return build([node("Identity", "x", "y")], {"x": (kind, shape)}, {"y": (kind, shape)})


def centred() -> bytes:
    """Subtracts the mean over the rows: what a row gets depends on its neighbours."""
    return build(
        [node("ReduceMean", "x axes", "mean", keepdims=1), node("Sub", "x mean", "y")],
        {"x": (FLOAT, [None, 3])},
        {"y": (FLOAT, [None, 3])},
        axes=np.array([0], np.int64),
    )


def clipped_by_largest() -> bytes:
    """Ordinary rows do not see each other; one far away changes all: is x under 1/100 of the largest?"""
    return build(
        [
            node("Abs", "x", "abs"),
            node("ReduceMax", "abs", "largest", keepdims=0),
            node("Mul", "largest hundredth", "edge"),
            node("Max", "edge one", "limit"),
            node("Less", "x limit", "y"),
        ],
        {"x": (FLOAT, [None, 1])},
        {"y": (BOOL, [None, 1])},
        hundredth=np.array(0.01, np.float32),
        one=np.array(0.5, np.float32),
    )


def quantized_label() -> bytes:
    """Quantizes with a scale taken from the whole batch, and shows no more than a label."""
    return build(
        [
            node("DynamicQuantizeLinear", "x", "q scale zero"),
            node("DequantizeLinear", "q scale zero", "d"),
            node("ArgMax", "d", "y", axis=1, keepdims=0),
        ],
        {"x": (FLOAT, [None, 3])},
        {"y": (INT64, [None])},
    )


def total() -> bytes:
    """One number for all rows."""
    return build([node("ReduceSum", "x", "y", keepdims=0)], {"x": (FLOAT, [None, 3])}, {"y": (FLOAT, [])})


def sequence() -> bytes:
    """Gives its input as a sequence of one tensor."""
    made = onnx.load_from_string(
        build([node("SequenceConstruct", "x", "y")], {"x": (FLOAT, [None, 1])}, {"y": (FLOAT, [None, 1])})
    )
    kind = made.graph.output[0].type.tensor_type.SerializeToString()
    made.graph.output[0].type.sequence_type.elem_type.tensor_type.ParseFromString(kind)
    content: bytes = made.SerializeToString()
    return content


def constant() -> bytes:
    """Needs nothing to give its answer."""
    return build([node("Constant", "", "y", value_float=1.0)], {}, {"y": (FLOAT, [])})


def lookup() -> bytes:
    """Row `i` of a table of 8; fails on any other index."""
    return build(
        [node("Gather", "table i", "y", axis=0)],
        {"i": (INT64, [None])},
        {"y": (FLOAT, [None, 2])},
        table=np.arange(16, dtype=np.float32).reshape(8, 2),
    )


def logarithm() -> bytes:
    """NaN for negative numbers, -infinity for 0."""
    return build([node("Log", "x", "y")], {"x": (FLOAT, [None, 1])}, {"y": (FLOAT, [None, 1])})


def row_sums() -> bytes:
    """Rows of any length."""
    return build(
        [node("ReduceSum", "x axes", "y", keepdims=0)],
        {"x": (FLOAT, [None, None])},
        {"y": (FLOAT, [None])},
        axes=np.array([1], np.int64),
    )


@cache
def heavy(layers: int = 24, width: int = 1024) -> bytes:
    """Some milliseconds per run, however few rows; the answer is the mean of the input."""
    nodes = [node("MatMul", f"h{n} w" if n else "x w", f"h{n + 1}") for n in range(layers)]
    nodes.append(node("ReduceMean", f"h{layers} axes", "y", keepdims=0))
    return build(
        nodes,
        {"x": (FLOAT, [None, width])},
        {"y": (FLOAT, [None])},
        w=np.full((width, width), 1 / width, np.float32),
        axes=np.array([1], np.int64),
    )


def patient() -> bytes:
    """Gives numbers back, after some microseconds for each unit of the largest one."""
    body = helper.make_graph(
        [node("Identity", "going", "on"), node("Add", "v one", "w")],
        "body",
        [
            helper.make_tensor_value_info("n", INT64, []),
            helper.make_tensor_value_info("going", BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, []),
        ],
        [helper.make_tensor_value_info("on", BOOL, []), helper.make_tensor_value_info("w", FLOAT, [])],
        [numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    nodes = [
        node("ReduceMax", "x", "largest", keepdims=0),
        node("Cast", "largest", "turns", to=INT64),
        helper.make_node("Loop", ["turns", "", "nothing"], ["turned"], body=body),
        node("Mul", "turned nothing", "zero"),
        node("Add", "x zero", "y"),
    ]
    shape = (FLOAT, [None, 1])
    return build(nodes, {"x": shape}, {"y": shape}, nothing=np.array(0, np.float32))


def endless() -> bytes:
    """A loop that never ends."""
    body = helper.make_graph(
        [node("Identity", "going", "on"), node("Add", "v zero", "w")],
        "body",
        [
            helper.make_tensor_value_info("n", INT64, []),
            helper.make_tensor_value_info("going", BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, [None, 1]),
        ],
        [helper.make_tensor_value_info("on", BOOL, []), helper.make_tensor_value_info("w", FLOAT, [None, 1])],
        [numpy_helper.from_array(np.array(0, np.float32), "zero")],
    )
    loop = helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body)
    return build([loop], {"x": (FLOAT, [None, 1])}, {"y": (FLOAT, [None, 1])}, yes=np.array(True))


def greedy(size: int = 1 << 42) -> bytes:
    """Asks for so many bytes."""
    return build(
        [
            node("ConstantOfShape", "huge", "block"),
            node("ReduceSum", "block", "sum", keepdims=0),
            node("Add", "x sum", "y"),
        ],
        {"x": (FLOAT, [None, 1])},
        {"y": (FLOAT, [None, 1])},
        huge=np.array([size // 4], np.int64),
    )


def with_external_data(folder: Path, location: str) -> bytes:
    """Writes model.onnx into `folder`: x + w, with w in the file `location`."""
    made = onnx.load_from_string(
        build(
            [node("Add", "x w", "y")],
            {"x": (FLOAT, [None, 4])},
            {"y": (FLOAT, [None, 4])},
            w=np.arange(4, dtype=np.float32),
        )
    )
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    content: bytes = made.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    return content


def wide() -> bytes:
    """An input of most kinds of datatypes, each of which is given back."""
    kinds: dict[str, tuple[int, list[int | None]]] = {
        "flag": (BOOL, [None]), "text": (STRING, [None]), "pair": (FLOAT, [None, 2]), "wide": (INT64, [None, 1]),
        "small": (TensorProto.INT8, [None]), "large": (TensorProto.UINT64, [None]),
    }  # fmt: skip
    nodes = [node("Identity", name, f"{name}_out") for name in kinds]
    return build(nodes, kinds, {f"{name}_out": kind for name, kind in kinds.items()})
