"""Images in the data of a run: how they are read, checked, told apart and held out. Networks are in tests/pytorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from holdfast_bundle.manifest import Tensor
from holdfast_training import contender, data, rowdigests, signature, slices, spec
from holdfast_training.batch import bins, inputs
from holdfast_training.columns import Columns, Examples, Frame
from holdfast_training.errors import TrainingError
from holdfast_training.images import Images, rows_at_once
from holdfast_training.table import examples_of

DIGITS = load_digits()
PIXELS = DIGITS.images[:60].astype(np.uint8)
TARGET = DIGITS.target[:60]


def look(claim: Any, uri: str, estimator: str = "TorchImageClassifier", **more: Any) -> Examples:
    """What a run finds in the data."""
    document = claim.spec(uri, "digit", "Classification", estimator, **more)
    document["data"] |= more.pop("checks", {})
    run = spec.parse(json.dumps(document))
    scratch = claim.claims / "scratch"
    return examples_of(data.locate(run.data_uri, None, None, scratch=scratch, claims=claim.claims), run)


def npz(claim: Any, **arrays: Any) -> str:
    np.savez(claim.root / "data.npz", **arrays)
    return "pvc://models/data.npz"


def parquet(claim: Any, image: pa.Array, **columns: Any) -> str:
    pq.write_table(pa.table({"image": image, **columns}), claim.root / "data.parquet")
    return "pvc://models/data.parquet"


def tensors(pixels: Any) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(pixels))


@pytest.mark.parametrize(
    ("given", "datatype"),
    [
        (PIXELS, "UINT8"),
        (np.asfortranarray(PIXELS), "UINT8"),
        (PIXELS.astype(np.float16), "FP32"),
        (PIXELS.astype(">f8"), "FP32"),
        (np.stack([PIXELS] * 3, axis=3), "UINT8"),
    ],
    ids=["bytes", "columns first", "half", "another byte order", "channels"],
)
def test_an_array_of_more_than_two_dimensions_is_a_column_of_images(claim: Any, given: Any, datatype: str) -> None:
    found = look(claim, npz(claim, image=given, digit=TARGET))
    assert found.columns == Columns((), (), Images("image", given.shape[1:], datatype))
    assert found.features.pixels is not None
    assert found.features.pixels.dtype == {"UINT8": np.uint8, "FP32": np.float32}[datatype]
    assert np.array_equal(found.features.pixels, given)
    assert len(found.features) == 60
    assert np.array_equal(found.features.take(np.array([7, 3])).pixels, given[[7, 3]])


def test_tensors_of_parquet_are_the_same_images_also_of_several_files(claim: Any) -> None:
    (claim.root / "many").mkdir()
    for part, rows in enumerate((slice(0, 20), slice(20, 60))):
        table = pa.table({"image": tensors(PIXELS[rows]), "digit": TARGET[rows]})
        pq.write_table(table, claim.root / "many" / f"{part}.parquet")
    found = look(claim, "pvc://models/many")
    assert found.columns.images == Images("image", (8, 8), "UINT8")
    assert np.array_equal(found.features.pixels, PIXELS)


def spoiled(value: float) -> Any:
    pixels = PIXELS.astype(np.float64)
    pixels[4, 2, 3] = value
    return pixels


@pytest.mark.parametrize(
    ("arrays", "rule", "words"),
    [
        ({"image": PIXELS.astype(np.int64)}, "UnsupportedType", "arrays of int64; the values of an image are uint8"),
        ({"image": PIXELS[..., None, None]}, "NotImages", "arrays of 8 x 8 x 1 x 1; an image has two or three"),
        ({"image": np.zeros((60, 1, 2049, 2048), np.uint8)}, "NotImages", "and at most 4,194,304 values"),
        ({"image": spoiled(np.nan)}, "OutOfRange", "1 row with a value that is no number of FP32, first at row 5"),
        ({"image": spoiled(1e39)}, "OutOfRange", "first at row 5"),
        ({"image": PIXELS, "camera": TARGET}, "BesideImages", "nothing beside the images image; leave it out"),
        ({"image": PIXELS, "mask": PIXELS}, "BesideImages", "nothing beside the images image; leave it out"),
        ({"monitor": PIXELS}, "ReservedName", "rename the array"),
        ({"image": PIXELS.reshape(60, 64)}, "NotImages", "learns from an array of images (rows x height x width"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_no_network_of_images_can_learn_from_is_said(claim: Any, arrays: Any, rule: str, words: str) -> None:
    with pytest.raises(TrainingError) as ended:
        look(claim, npz(claim, **arrays, digit=TARGET))
    assert ended.value.reason == "DataInvalid"
    assert ended.value.findings[-1].rule == rule
    assert words in ended.value.findings[-1].message


def test_a_row_without_an_image_and_permuted_tensors_are_refused(claim: Any) -> None:
    kind = pa.fixed_shape_tensor(pa.uint8(), (8, 8))
    lacking = pa.ExtensionArray.from_storage(kind, pa.array([None, *([[1] * 64] * 59)], kind.storage_type))
    turned = pa.fixed_shape_tensor(pa.uint8(), (8, 8), permutation=[1, 0])
    permuted = pa.ExtensionArray.from_storage(turned, pa.array([[1] * 64] * 60, turned.storage_type))
    for cells, rule in ((lacking, "MissingImage"), (permuted, "NotImages")):
        with pytest.raises(TrainingError) as ended:
            look(claim, parquet(claim, cells, digit=TARGET))
        assert [finding.rule for finding in ended.value.findings] == [rule]


def test_columns_beside_the_images_are_left_out_by_name(claim: Any) -> None:
    uri = npz(claim, image=PIXELS, camera=TARGET, digit=TARGET)
    for features in ({"excluded": ["camera"]}, {"numeric": ["image"]}):
        assert look(claim, uri, features=features).columns.names == ("image",)


def test_estimators_of_tables_refuse_images_and_name_what_learns_from_them(claim: Any) -> None:
    npz(claim, image=PIXELS, digit=TARGET)
    error = claim.failure(claim.spec("pvc://models/data.npz", "digit", "Classification", "GaussianNB"))
    assert error.reason == "DataInvalid"
    assert error.message == (
        "column image: its rows are arrays of 8 x 8, and GaussianNB learns from single values; give it columns, or use "
        "TorchImageClassifier"
    )


def test_an_array_of_images_is_no_target(claim: Any) -> None:
    npz(claim, image=PIXELS, digit=TARGET)
    error = claim.failure(claim.spec("pvc://models/data.npz", "image", "Classification", "GaussianNB"))
    assert "its rows are arrays of 8 x 8, which is neither number nor text" in error.message


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ({"minimum": "0", "maximum": "16", "maxMissingPerMille": 0}, []),
        ({"maximum": "15"}, [("AboveMaximum", int((PIXELS > 15).any(axis=(1, 2)).sum()))]),
        ({"minimum": "1"}, [("BelowMinimum", 60)]),
        ({"allowed": ["1"]}, [("UnsupportedType", 0)]),
    ],
    ids=["within", "above", "below", "values"],
)
def test_the_range_of_all_pixels_can_be_checked(claim: Any, check: Any, expected: Any) -> None:
    document = claim.spec(npz(claim, image=PIXELS, digit=TARGET), "digit", "Classification", "TorchImageClassifier")
    document["data"]["checks"] = {"columns": [{"name": "image", **check}]}
    run = spec.parse(json.dumps(document))
    source = data.locate(run.data_uri, None, None, scratch=claim.claims, claims=claim.claims)
    if not expected:
        assert len(examples_of(source, run).target) == 60
        return
    with pytest.raises(TrainingError) as ended:
        examples_of(source, run)
    assert [(finding.rule, finding.rows) for finding in ended.value.findings] == expected


def test_images_of_one_value_all_over_are_told(claim: Any) -> None:
    pixels = PIXELS.copy()
    pixels[[3, 9]] = 5
    [finding] = look(claim, npz(claim, image=pixels, digit=TARGET)).findings
    assert (finding.rule, finding.column, finding.rows) == ("BlankImages", "image", 2)
    assert finding.message == "2 images of one value all over, first at row 4"


def digests(pixels: Any, target: Any = TARGET, name: str = "image") -> list[int]:
    known = Columns((), (), Images(name, pixels.shape[1:], "UINT8" if pixels.dtype == np.uint8 else "FP32"))
    empty = np.empty((len(pixels), 0))
    frame = Frame(empty.astype(np.float32), empty.astype(object), pixels)
    return [int(digest) for digest in rowdigests.of(known, frame, target)]


def test_an_image_is_known_by_its_pixels_wherever_it_stands() -> None:
    found = digests(PIXELS)
    assert len(set(found)) == 60
    order = np.random.default_rng(0).permutation(60)
    assert digests(PIXELS[order], TARGET[order]) == [found[place] for place in order]
    other = PIXELS.copy()
    other[5, 7, 7] += 1
    assert [place for place in range(60) if digests(other)[place] != found[place]] == [5]
    assert not set(digests(PIXELS.reshape(60, 4, 16))) & set(found)
    assert not set(digests(PIXELS, name="picture")) & set(found)
    zeros = np.zeros((1, 2, 2), np.float32)
    assert digests(zeros, TARGET[:1]) == digests(-zeros, TARGET[:1])


def test_the_digest_holds_out_about_its_share_of_images(claim: Any) -> None:
    every = DIGITS.images.astype(np.uint8)
    out = rowdigests.held_out(np.array(digests(every, DIGITS.target), np.uint64), 20)
    assert 0.17 < out.mean() < 0.23


def test_images_have_no_slices() -> None:
    known = Columns((), (), Images("image", (8, 8), "UINT8"))
    with pytest.raises(TrainingError, match="not among the features: image; there are none beside the images"):
        slices.check(["image"], known)


def test_a_model_is_fed_images_as_it_takes_them_and_no_others() -> None:
    tensor = Tensor("image", "UINT8", (-1, 8, 8))
    known = Columns((), (), Images("image", (8, 8), "UINT8"))
    frame = Frame(np.empty((60, 0), np.float32), np.empty((60, 0), object), PIXELS)
    layout = signature.layout((tensor,), {}, ("image", "digit"), "digit")
    assert layout == {"image": ("image",)}
    for taken in (tensor, Tensor("image", "UINT8", (-1, -1, -1))):
        assert signature.feeds((taken,), layout, known, frame)["image"] is PIXELS
    other = Tensor("image", "FP32", (-1, 16, 16))
    with pytest.raises(TrainingError, match="is FP32 16 x 16, and the data have images of UINT8 8 x 8"):
        signature.feeds((other,), layout, known, frame)
    table = Frame(np.zeros((60, 1), np.float32), np.empty((60, 0), object))
    with pytest.raises(TrainingError, match="is UINT8 8 x 8, and the data have columns of single values"):
        signature.feeds((tensor,), layout, Columns(("image",), ()), table)


def test_large_images_go_through_a_network_few_at_a_time() -> None:
    assert rows_at_once((8, 8)) == 65536
    assert rows_at_once((224, 224, 3)) == 27
    assert rows_at_once((4096, 4096)) == 1


def test_a_batch_takes_tensors_of_parquet(claim: Any) -> None:
    taken = inputs.assigned((Tensor("image", "UINT8", (-1, 8, 8)),), ("image", "digit"), ())
    read = inputs.read(pa.table({"image": tensors(PIXELS), "digit": TARGET}), taken)
    assert read.readable.all()
    assert np.array_equal(read.arrays["image"], PIXELS)
    with pytest.raises(TrainingError) as ended:
        inputs.read(pa.table({"image": tensors(PIXELS.reshape(60, 4, 16))}), taken)
    assert ended.value.reason == "InputInvalid"
    assert ended.value.message == "column image: the model takes 8 x 8, and its rows are 4 x 16"


def test_a_batch_counts_what_a_profile_says_of_outputs() -> None:
    entry = {"kind": "numeric", "edges": [0.0], "ratios": [0.5, 0.5], "output": "monitor", "column": 1}
    tally = bins.Tally({"rows": 10, "features": {"brightness": entry}})
    tally.add({"image": PIXELS[:3]}, {"monitor": np.array([[9, -1], [9, 2], [9, 3]], np.float32)})
    assert tally.counts == {"brightness": [1, 2, 0]}


def test_features_of_outputs_do_not_keep_a_model_from_being_loaded(tmp_path: Path) -> None:
    profile = {"features": {"brightness": {"output": "monitor", "column": 0}, "a": {"input": "x", "column": 0}}}
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    assert contender._matrices(tmp_path / "profile.json") == {"x": ("a",)}
