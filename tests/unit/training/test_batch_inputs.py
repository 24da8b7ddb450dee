"""What a table's cells become for each type that a model can take, and which rows that makes bad."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from holdfast_bundle.manifest import Tensor
from holdfast_training.batch import bins, inputs
from holdfast_training.errors import TrainingError

NAN = float("nan")


def read(datatype: str, cells: pa.Array, *shape: int) -> inputs.Feeds:
    tensor = Tensor("x", datatype, (-1, *(shape or (1,))))
    return inputs.read(pa.table({"x": cells}), inputs.assigned([tensor], ["x"], ()))


@pytest.mark.parametrize(
    ("datatype", "cells", "values", "bad"),
    [
        ("FP32", pa.array(["1.5", " 2 ", "-3e2", "", "NA", "nan", ".5"]), [1.5, 2, -300, NAN, NAN, NAN, 0.5], ""),
        ("FP32", pa.array(["1", "inf", "NAN", "0x10", "1,5", "one"]), [1], "text in place of a number"),
        ("FP32", pa.array([1.5, None, NAN]), [1.5, NAN, NAN], ""),
        ("FP32", pa.array([1, None, 3]), [1, NAN, 3], ""),
        ("FP32", pa.array([True, False, None]), [1, 0, NAN], ""),
        ("FP32", pa.array(["1", "2"]).dictionary_encode(), [1, 2], ""),
        ("FP32", pa.array([1.0, 1e39, -1e39]), [1], "a number too large for float32"),
        ("FP16", pa.array(["1", "70000"]), [1], "a number too large for float16"),
        ("FP64", pa.array(["0.1", "1e300"]), [0.1, 1e300], ""),
        ("INT64", pa.array(["1", "2.0", "-3"]), [1, 2, -3], ""),
        ("INT64", pa.array([1, 2**62 + 1]), [1, 2**62 + 1], ""),
        ("INT64", pa.array(["1", "", None]), [1], "no value"),
        ("INT64", pa.array([1.0, NAN, 2.5]), [1], "no value"),
        ("INT64", pa.array(["1", "2.5"]), [1], "a fraction"),
        ("INT8", pa.array([1, 128, -129]), [1], "a number outside int8"),
        ("UINT8", pa.array(["255", "256", "-1"]), [255], "a number outside uint8"),
        ("UINT64", pa.array([2**63, 0], pa.uint64()), [2**63, 0], ""),
        ("BOOL", pa.array(["true", "False", "1", "0"]), [True, False, True, False], ""),
        ("BOOL", pa.array([True, None]), [True], "no value"),
        ("BOOL", pa.array(["true", "perhaps", ""]), [True], "neither true nor false"),
        ("BYTES", pa.array(["red", "", "NA", None, " x "]), ["red", "", "", "", " x "], ""),
        ("BYTES", pa.array([1, None, 3]), ["1", "", "3"], ""),
        ("BYTES", pa.array([1.0, 2.5, NAN]), ["1", "2.5", ""], ""),
        ("BYTES", pa.array([True, False]), ["1", "0"], ""),
    ],
)
def test_cells_become_what_the_model_takes(datatype: str, cells: pa.Array, values: list[Any], bad: str) -> None:
    feeds = read(datatype, cells)
    array = feeds.arrays["x"]
    assert array.shape == (len(values), 1)
    assert array.dtype == inputs.NUMPY[datatype]
    if datatype.startswith("FP"):
        np.testing.assert_array_equal(array.ravel().astype(float), np.array(values, float))
    else:
        assert array.ravel().tolist() == values
    assert len(values) == feeds.readable.sum()
    assert ("x", bad) in feeds.faults if bad else not feeds.faults


def test_a_row_with_several_faults_is_one_bad_row_and_each_fault_is_told() -> None:
    table = pa.table({"a": ["1", "x", "3"], "b": ["1", "y", "z"], "c": ["1", "2", "3"]})
    tensors = [Tensor(name, "FP32", (-1, 1)) for name in "abc"]
    feeds = inputs.read(table, inputs.assigned(tensors, ["a", "b", "c"], ()))
    assert feeds.readable.tolist() == [True, False, False]
    assert [len(array) for array in feeds.arrays.values()] == [1, 1, 1]
    assert inputs.in_words(feeds.faults) == (
        "column b: text in place of a number in 2 rows; column a: text in place of a number in 1 row"
    )


def test_lists_are_reshaped_to_what_the_model_takes() -> None:
    cells = pa.array([[1, 2, 3, 4], [5, 6, 7, 8], [9], None, [1, None, 3, 4]])
    feeds = read("FP32", cells, 2, 2)
    assert feeds.arrays["x"].shape == (3, 2, 2)
    np.testing.assert_array_equal(feeds.arrays["x"][2], [[1, NAN], [3, 4]])
    assert feeds.readable.tolist() == [True, True, False, False, True]
    assert dict(feeds.faults) == {("x", "a list of another length than 4"): 2}
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(range(8)), 4)
    assert read("INT64", fixed, 4).arrays["x"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("datatype", "cells"),
    [
        ("FP32", pa.array([b"1"])),
        ("INT64", pa.array([{"a": 1}])),
        ("FP32", pa.array([0], pa.date32())),
    ],
)
def test_a_column_of_a_type_that_no_value_can_be_made_of_is_refused(datatype: str, cells: pa.Array) -> None:
    with pytest.raises(TrainingError) as ended:
        read(datatype, cells)
    assert ended.value.reason == "InputInvalid"
    assert "column x" in ended.value.message


@pytest.mark.parametrize(
    ("shapes", "words"), [([(-1, -1)], "no fixed size"), ([()], "a single value"), ([(-1, 3)], "matrix of 3 columns")]
)
def test_inputs_that_no_row_can_be_made_into_are_refused(shapes: list[tuple[int, ...]], words: str) -> None:
    with pytest.raises(TrainingError) as ended:
        inputs.assigned([Tensor("x", "FP32", shape) for shape in shapes], ["id", "a", "b"], ["id"])
    assert words in ended.value.message


def test_bins_are_counted_as_the_profile_has_them() -> None:
    profile = {
        "rows": 100,
        "features": {
            "n": {"kind": "numeric", "edges": [1.0, 2.0], "ratios": [0.2, 0.3, 0.5], "missingRatio": 0.0},
            "c": {"kind": "categorical", "categories": ["red", "blue"], "ratios": [0.5, 0.4], "otherRatio": 0.1},
            "odd": {"kind": "numeric", "edges": [2.0, 1.0], "ratios": [1, 0, 0]},
        },
        "prediction": {"labels": [0, 1], "ratios": [0.5, 0.5]},
    }
    tally = bins.Tally(profile)
    fed = {
        "n": np.array([[0.5], [1.0], [1.5], [9.0], [NAN]], np.float32),
        "c": np.array([["red"], ["blue"], ["red"], ["green"], [""]], object),
    }
    for _ in range(2):
        tally.add(fed, {"label": np.array([0, 1, 1, 7, 0])})
    assert tally.counts == {"n": [4, 2, 2, 2], "c": [4, 2, 2, 2], "label": [4, 4, 2, 0]}
    worst = bins.differences(tally.bins(), 100, tally.counts)
    assert {entry["name"]: entry["bins"] for entry in worst} == {"n": 4, "c": 4, "label": 4}
    assert [entry["psiPerMille"] for entry in worst] == sorted((e["psiPerMille"] for e in worst), reverse=True)


@pytest.mark.parametrize("profile", [{}, {"rows": 0}, {"rows": "x", "features": []}, {"rows": 5, "features": {"a": 1}}])
def test_a_profile_that_cannot_be_used_counts_nothing(profile: dict[str, Any]) -> None:
    tally = bins.Tally(profile)
    tally.add({"a": np.zeros((2, 1))}, {})
    assert tally.counts == {}
