"""Preprocessing in scikit-learn and in ONNX: the same numbers, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper

from holdfast_training import preprocessing
from holdfast_training.columns import Columns, Frame
from holdfast_training.conversion import ML_OPSET, OPSET, feeds
from holdfast_training.spec import Preprocessing

cells = st.one_of(
    st.just(np.float32(np.nan)),
    st.integers(-3, 3).map(np.float32),
    st.floats(2.0**-20, 2.0**20, width=32),
    st.floats(-(2.0**80), -(2.0**-20), width=32),
)
matrices = arrays.arrays(np.float32, st.tuples(st.integers(4, 20), st.integers(1, 4)), elements=cells)
categories = st.sampled_from(["", "a", "b", "ü,\n", "A", " a"])


def in_onnx(fitted: preprocessing.Preprocessor, names: Columns, frame: Frame) -> npt.NDArray[Any]:
    nodes, constants = fitted.to_onnx(names, "out", "_")
    graph = helper.make_graph(
        nodes,
        "g",
        [
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in names.numeric),
            *(helper.make_tensor_value_info(name, TensorProto.STRING, ["N", 1]) for name in names.categorical),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        constants,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: npt.NDArray[Any] = session.run(["out"], feeds(names, frame))[0]
    return result


def frame_of(numeric: Any, texts: list[list[str]] | None = None) -> tuple[Columns, Frame]:
    matrix = np.asarray(numeric, np.float32)
    objects = np.empty((len(matrix), 0 if texts is None else len(texts[0])), object)
    if texts is not None:
        objects[:] = texts
    names = Columns(tuple(f"n{i}" for i in range(matrix.shape[1])), tuple(f"c{i}" for i in range(objects.shape[1])))
    return names, Frame(matrix, objects)


@settings(deadline=None, max_examples=120)
@given(
    matrix=matrices,
    impute=st.sampled_from(["Median", "Mean", "Zero"]),
    scale=st.sampled_from(["Standard", "MinMax", "Robust", "None"]),
    encode=st.sampled_from(["OneHot", "Ordinal"]),
    data=st.data(),
)
def test_onnx_computes_what_scikit_learn_computes_to_the_bit(
    matrix: npt.NDArray[np.float32], impute: Any, scale: Any, encode: Any, data: st.DataObject
) -> None:
    texts = [[data.draw(categories)] for _ in matrix]
    names, frame = frame_of(matrix, texts)
    half = frame.take(np.arange(len(frame) // 2))
    fitted = preprocessing.fit(half, Preprocessing(impute, scale, encode))
    expected = fitted.transform(frame)
    actual = in_onnx(fitted, names, frame).astype(np.float64)
    # scikit-learn turns -0.0 into 0.0 in places; no comparison tells them apart.
    np.testing.assert_array_equal(actual + 0.0, expected + 0.0)


def test_a_column_whose_training_rows_are_all_missing_is_filled_with_zero() -> None:
    names, frame = frame_of([[np.nan, 1], [np.nan, 2], [np.nan, 3], [7, 4]])
    fitted = preprocessing.fit(frame.take(np.arange(3)), Preprocessing(scale_numeric="None"))
    assert fitted.transform(frame)[:, 0].tolist() == [0, 0, 0, 7]
    assert in_onnx(fitted, names, frame)[:, 0].tolist() == [0, 0, 0, 7]


def test_a_category_that_training_did_not_see_is_zeros_or_minus_one() -> None:
    names, frame = frame_of(np.empty((4, 0)), [["a"], ["b"], [""], ["new"]])
    seen = frame.take(np.arange(3))
    one_hot = preprocessing.fit(seen, Preprocessing(encode_categorical="OneHot"))
    assert in_onnx(one_hot, names, frame).tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]]
    ordinal = preprocessing.fit(seen, Preprocessing(encode_categorical="Ordinal"))
    assert in_onnx(ordinal, names, frame).tolist() == [[1], [2], [0], [-1]]


def test_a_spread_too_small_for_fp32_does_not_divide_by_zero() -> None:
    _, frame = frame_of([[1e-45], [0.0], [0.0], [0.0]])
    fitted = preprocessing.fit(frame, Preprocessing())
    assert np.isfinite(fitted.transform(frame)).all()


@pytest.mark.parametrize(("impute", "filled"), [("Median", 2), ("Mean", 4), ("Zero", 0)])
def test_missing_numbers_are_imputed_as_asked(impute: Any, filled: float) -> None:
    _, frame = frame_of([[1], [2], [9], [np.nan]])
    fitted = preprocessing.fit(frame, Preprocessing(impute, "None"))
    assert fitted.transform(frame)[3, 0] == filled
    assert fitted.impute(frame).numeric[:, 0].tolist() == [1, 2, 9, filled]


@pytest.mark.parametrize(
    ("scale", "scaled"), [("Standard", [-1, 1]), ("MinMax", [0, 1]), ("Robust", [-1, 1]), ("None", [2, 6])]
)
def test_numbers_are_scaled_as_asked(scale: Any, scaled: list[float]) -> None:
    _, frame = frame_of([[2], [6]] * 8)
    fitted = preprocessing.fit(frame, Preprocessing(scale_numeric=scale))
    expected = [number / 2 for number in scaled] if scale == "Robust" else scaled
    assert fitted.transform(frame)[:2, 0].tolist() == expected
