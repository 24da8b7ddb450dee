"""What can be used of a bundle's profile, and what is said of the rest."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from holdfast_bundle.manifest import Tensor
from holdfast_serving.profile import MAX_FEATURES, PROFILE, Profile, read
from holdfast_serving.signature import Signature

SIGNATURE = Signature(
    (
        Tensor("size", "FP32", (-1, 1)),
        Tensor("colour", "BYTES", (-1, 1)),
        Tensor("X", "FP64", (-1, 3)),
        Tensor("picture", "FP32", (-1, 3, 8, 8)),
    ),
    (Tensor("kind", "INT64", (-1,)), Tensor("probabilities", "FP32", (-1, 2)), Tensor("prediction", "FP32", (-1,))),
)
WHOLE: dict[str, Any] = {
    "rows": 36,
    "features": {
        "size": {"kind": "numeric", "edges": [1.0, 2.5], "ratios": [0.4, 0.5, 0.0], "missingRatio": 0.1},
        "colour": {
            "kind": "categorical", "categories": ["red", "blue"], "ratios": [0.5, 0.3], "otherRatio": 0.1,
            "missingRatio": 0.1, "excess": [0.02, -0.1],
        },
        "width": {"kind": "numeric", "edges": [], "ratios": [1.0], "missingRatio": 0, "input": "X", "column": 2},
    },
    "prediction": {"output": "kind", "labels": [0, 1], "ratios": [0.5, 0.5]},
    "confidence": {"edges": [0.5], "ratios": [0.1, 0.9], "accuracy": [None, 0.97]},
    "absoluteError": {"edges": [0.5, 2.0], "ratios": [0.5, 0.5, 0.0], "means": [0.25, 1.5, 2.0]},
}  # fmt: skip


def profile(folder: Path, document: Any) -> Profile:
    (folder / PROFILE).write_text(document if isinstance(document, str) else json.dumps(document))
    found = read(folder, SIGNATURE)
    assert found is not None
    return found


def changed(path: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(WHOLE)
    *parents, last = path.split("/")
    inner = document
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return document


def test_a_profile_is_read_as_its_trainer_wrote_it(tmp_path: Path) -> None:
    found = profile(tmp_path, WHOLE)
    assert (found.state, found.findings, found.rows) == ("complete", (), 36)
    assert [(each.name, each.input, each.column) for each in found.features] == [
        ("colour", "colour", 0), ("size", "size", 0), ("width", "X", 2)
    ]  # fmt: skip
    colour, size, _ = (each.bins for each in found.features)
    assert (size.names, size.shares) == (["0", "1", "2", "missing"], [0.4, 0.5, 0.0, 0.1])
    assert [each.excess for each in found.features] == [(0.02, -0.1), (), ()]
    assert (colour.names, colour.shares) == (["0", "1", "other", "missing"], [0.5, 0.3, 0.1, 0.1])
    assert found.prediction is not None
    assert found.confidence is not None
    assert (found.prediction.output, found.confidence.output) == (0, 1)
    assert found.confidence.accuracy == (None, 0.97)
    assert found.absolute_error is not None
    assert (found.absolute_error.bins.edges, found.absolute_error.means) == ((0.5, 2.0), (0.25, 1.5, 2.0))


def test_a_bundle_without_a_profile_has_none(tmp_path: Path) -> None:
    assert read(tmp_path, SIGNATURE) is None


def test_a_regression_has_bins_of_its_predictions(tmp_path: Path) -> None:
    found = profile(tmp_path, {"rows": 9, "features": {}, "prediction": {"edges": [1, 2], "ratios": [0.3, 0.3, 0.4]}})
    assert found.prediction is not None
    assert (found.prediction.output, found.confidence, found.state) == (2, None, "complete")


@pytest.mark.parametrize(
    ("document", "finding"),
    [
        ("{", "profile.json is not JSON"),
        ("[1]", "profile.json is not a JSON object"),
        ('{"rows": 1, "x": NaN}', "profile.json is not JSON"),
        (f'["{"x" * (4 << 20)}"]', "profile.json is larger than 4 MiB"),
        (changed("rows", 0), "rows is not a number of rows"),
        (changed("rows", True), "rows is not a number of rows"),
        (changed("features", []), "features is not an object"),
    ],
)
def test_a_profile_of_another_form_is_not_used_at_all(tmp_path: Path, document: Any, finding: str) -> None:
    found = profile(tmp_path, document)
    assert (found.state, found.findings) == ("unusable", (finding,))
    assert (found.features, found.prediction, found.confidence) == ((), None, None)


@pytest.mark.parametrize(
    ("path", "value", "finding"),
    [
        ("features/size", 1, "feature 'size' is not an object"),
        ("features/size/edges", [2.5, 1.0], "feature 'size' has edges that do not rise"),
        ("features/size/edges", [1.0, 1.0], "feature 'size' has edges that do not rise"),
        ("features/size/edges", [1.0, "2"], "feature 'size' has no usable edges"),
        ("features/size/edges", [1.0, 1e305], "feature 'size' has no usable edges"),
        ("features/size/edges", [float(n) for n in range(100)], "feature 'size' has no usable edges"),
        ("features/size/ratios", [0.5, 0.5], "feature 'size' does not have a ratio for each bin"),
        ("features/size/ratios", [0.5, 0.5, -0.1], "feature 'size' has a ratio that is none"),
        ("features/size/ratios", [0.5, 0.5, None], "feature 'size' has a ratio that is none"),
        ("features/size/missingRatio", 2, "feature 'size' has a ratio that is none"),
        ("features/size/input", "weight", "feature 'size' belongs to no input of the model"),
        ("features/size/input", ["X"], "feature 'size' belongs to no input of the model"),
        ("features/size/input", "colour", "feature 'size' has bins of numbers, and the model has BYTES"),
        ("features/size/input", "picture", "feature 'size' belongs to an input that is no table"),
        ("features/size/input", "X", "feature 'size' does not say which column of its input it is"),
        ("features/size/output", "weight", "feature 'size' belongs to no output of the model"),
        ("features/width/output", "probabilities", "feature 'width' belongs to an input and to an output"),
        ("features/size/output", "probabilities", "feature 'size' does not say which column of its output it is"),
        ("features/size/column", 1, "feature 'size' names no column of its input"),
        ("features/size/column", -1, "feature 'size' names no column of its input"),
        ("features/colour/input", "size", "feature 'colour' has bins of values, and the model has FP32"),
        ("features/colour/categories", ["red", "red"], "feature 'colour' has categories that are there twice"),
        ("features/colour/categories", ["red", 1], "feature 'colour' has no usable categories"),
        ("features/colour/categories", [["red"], "blue"], "feature 'colour' has no usable categories"),
        ("features/colour/excess", [0.1], "feature 'colour' does not have an excess for each bin"),
        ("features/colour/excess", [0.1, None], "feature 'colour' has an excess that is none"),
        ("features/colour/excess", [0.1, -1.5], "feature 'colour' has an excess that is none"),
        ("prediction", [], "prediction is not an object"),
        ("prediction/labels", ["a", "b"], "prediction has no usable labels"),
        ("prediction/output", "nothing", "prediction belongs to no output of the model"),
        ("prediction/output", "probabilities", "prediction has bins of values, and the model has FP32"),
        ("confidence/accuracy", [0.5], "confidence does not have an accuracy for each bin"),
        ("confidence/accuracy", [0.5, 1.5], "confidence has a ratio that is none"),
        ("absoluteError", None, "absoluteError is not an object"),
        ("absoluteError/ratios", [1.0], "absoluteError does not have a ratio for each bin"),
        ("absoluteError/means", [0.25, 1.5], "absoluteError does not have a mean for each bin"),
        ("absoluteError/means", [0.25, 1.5, -1.0], "absoluteError has a mean that is none"),
        ("absoluteError/means", [0.25, 1.5, None], "absoluteError has a mean that is none"),
    ],
)
def test_a_part_that_does_not_fit_is_left_out_alone(tmp_path: Path, path: str, value: Any, finding: str) -> None:
    found = profile(tmp_path, changed(path, value))
    assert (found.state, found.findings) == ("partial", (finding,))
    parts = [*(each.name for each in found.features)]
    attributes = {"prediction": "prediction", "confidence": "confidence", "absoluteError": "absolute_error"}
    parts += [name for name, attribute in attributes.items() if getattr(found, attribute)]
    whole = {"size", "colour", "width", *attributes}
    assert whole - set(parts) == {path.split("/")[1] if path.startswith("features") else path.split("/")[0]}


@pytest.mark.parametrize(
    "outputs",
    [(Tensor("label", "INT64", (-1,)),), (Tensor("y", "FP32", (-1, 2)),), (Tensor("y", "FP32", (-1,)),) * 2],
    ids=["labels", "two numbers per row", "two outputs"],
)
def test_errors_are_those_of_models_that_predict_one_number_per_row(
    tmp_path: Path, outputs: tuple[Tensor, ...]
) -> None:
    (tmp_path / PROFILE).write_text(json.dumps({"rows": 36, "absoluteError": WHOLE["absoluteError"]}))
    found = read(tmp_path, Signature(SIGNATURE.inputs, outputs))
    assert found is not None
    finding = "absoluteError belongs to a model that does not predict one number per row"
    assert (found.state, found.findings) == ("unusable", (finding,))


def test_a_feature_can_be_a_column_of_an_output(tmp_path: Path) -> None:
    found = profile(
        tmp_path, changed("features/size", WHOLE["features"]["size"] | {"output": "probabilities", "column": 1})
    )
    assert found.state == "complete"
    size = next(each for each in found.features if each.name == "size")
    assert (size.input, size.output, size.column) == ("", 1, 1)


def test_features_beyond_the_most_are_left_out_and_named(tmp_path: Path) -> None:
    size = WHOLE["features"]["size"]
    names = [f"f{number:02}" for number in range(MAX_FEATURES + 2)]
    found = profile(tmp_path, {"rows": 9, "features": {name: size | {"input": "size", "column": 0} for name in names}})
    assert [each.name for each in found.features] == names[:MAX_FEATURES]
    assert found.findings == ("2 features are left out, since 50 are counted: 'f50', 'f51'",)
