"""manifest.json: written last and canonical, read with suspicion."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_bundle import manifest
from holdfast_bundle.errors import BundleError
from holdfast_bundle.manifest import File, Manifest, Tensor

SIGNATURE: dict[str, Any] = {
    "name": "wine",
    "framework": "scikit-learn",
    "opset": 21,
    "inputs": [Tensor("alcohol", "FP32", (-1, 1))],
    "outputs": [Tensor("label", "INT64", (-1,))],
    "metrics": {"Accuracy": "0.972"},
    "lineage": {"seed": 0},
}


def a_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "model.onnx").write_bytes(b"not really a model")
    (path / "golden.json").write_bytes(b"{}\n")
    return path


def a_document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        manifest.serialize(Manifest(**SIGNATURE, files={"model.onnx": File("0" * 64, 3)}))
    )
    return document


def rejected(document: Any) -> str:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(BundleError) as refusal:
        manifest.parse(raw)
    assert refusal.value.reason == "Invalid"
    return refusal.value.message


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "b")
    manifest.write(folder, **SIGNATURE)
    read = manifest.read(folder)
    assert read.name == "wine"
    assert read.inputs == (Tensor("alcohol", "FP32", (-1, 1)),)
    assert read.outputs == (Tensor("label", "INT64", (-1,)),)
    assert read.metrics == {"Accuracy": "0.972"}
    assert read.files == {
        "golden.json": File(hashlib.sha256(b"{}\n").hexdigest(), 3),
        "model.onnx": File(hashlib.sha256(b"not really a model").hexdigest(), 18),
    }


def test_elements_of_an_output_can_have_labels(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "b")
    outputs = [Tensor("label", "INT64", (-1,)), Tensor("probabilities", "FP32", (-1, 2), ("no", ""))]
    manifest.write(folder, **{**SIGNATURE, "outputs": outputs})
    assert list(manifest.read(folder).outputs) == outputs
    document = json.loads((folder / "manifest.json").read_bytes())
    assert [output.get("labels") for output in document["outputs"]] == [None, ["no", ""]]


@pytest.mark.parametrize(
    ("labels", "words"),
    [("no", "no list of texts"), ([1, 2], "no list of texts"), (["no"], "another number of labels")],
)
def test_labels_fit_the_output_that_they_are_of(labels: Any, words: str) -> None:
    document = a_document()
    document["outputs"] = [{"name": "p", "datatype": "FP32", "shape": [-1, 2], "labels": labels}]
    assert words in rejected(document)


def test_the_digest_is_the_sha256_of_the_manifests_bytes(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "b")
    digest = manifest.write(folder, **SIGNATURE)
    raw = (folder / "manifest.json").read_bytes()
    assert digest == f"sha256:{hashlib.sha256(raw).hexdigest()}" == manifest.digest_file(folder / "manifest.json")


def test_the_bytes_are_canonical(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "b")
    manifest.write(folder, **{**SIGNATURE, "lineage": {"ü": 1, "a": {"z": 2, "b": 3}}})
    raw = (folder / "manifest.json").read_bytes()
    document = json.loads(raw)
    assert raw == json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    assert document["schemaVersion"] == 1


def test_the_digest_depends_on_content_and_not_on_place_or_order(tmp_path: Path) -> None:
    first, second = a_folder(tmp_path / "one"), tmp_path / "else" / "two"
    second.mkdir(parents=True)
    for name in ("golden.json", "model.onnx"):
        (second / name).write_bytes((first / name).read_bytes())
    assert manifest.write(first, **SIGNATURE) == manifest.write(second, **SIGNATURE)
    (second / "golden.json").write_bytes(b"[]\n")
    assert manifest.write(first, **SIGNATURE) != manifest.write(second, **SIGNATURE)


def test_files_in_folders_of_the_bundle_are_named_with_slashes(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "b")
    (folder / "weights").mkdir()
    (folder / "weights" / "a.bin").write_bytes(b"123")
    manifest.write(folder, **SIGNATURE)
    assert manifest.read(folder).files["weights/a.bin"].size == 3


def test_a_folder_without_a_model_gets_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"names no model\.onnx"):
        manifest.write(tmp_path, **SIGNATURE)
    assert os.listdir(tmp_path) == []


def test_a_missing_manifest_says_that_the_folder_is_no_bundle(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(BundleError, match=r"manifest\.json is missing: the folder is not a bundle"):
            manifest.read(folder)


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "manifest.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match="larger than 4 MiB"):
        manifest.read(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "../model",
        "/etc/passwd",
        "a/../../b",
        "a//b",
        "",
        ".",
        "a/.",
        "c:\\x",
        "a\x00b",
        "manifest.json",
        "a/",
        "a\nb",
    ],
)
def test_a_file_outside_the_bundle_is_refused(path: str) -> None:
    document = a_document()
    document["files"][path] = document["files"]["model.onnx"]
    assert "in files" in rejected(document)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("schemaVersion", 2, "schemaVersion other than 1"),
        ("schemaVersion", True, "schemaVersion other than 1"),
        ("name", "", "no text at name"),
        ("name", "\ud800", "lone surrogate"),
        ("framework", None, "no text at framework"),
        ("opset", "21", "at opset"),
        ("opset", -1, "at opset"),
        ("inputs", [], "no list at inputs"),
        ("inputs", {}, "no list at inputs"),
        ("inputs", [1], r"inputs[0]"),
        ("inputs", [{"name": "a", "datatype": "FP31", "shape": [1]}], "unknown datatype"),
        ("inputs", [{"name": "a", "datatype": "FP32", "shape": [0]}], "inputs[0].shape"),
        ("inputs", [{"name": "a", "datatype": "FP32", "shape": 1}], "inputs[0].shape"),
        ("outputs", [{"name": "a", "datatype": "FP32", "shape": [1]}] * 2, "a name twice in outputs"),
        ("metrics", {"Accuracy": 0.9}, "metrics.Accuracy"),
        ("metrics", [], "at metrics"),
        ("lineage", 3, "at lineage"),
        ("files", {}, "names no model.onnx"),
        ("files", [], "at files"),
        ("files", {"model.onnx": {"sha256": "A" * 64, "size": 3}}, "64 hex digits"),
        ("files", {"model.onnx": {"sha256": "0" * 63, "size": 3}}, "64 hex digits"),
        ("files", {"model.onnx": {"sha256": "0" * 64, "size": 3.0}}, "size"),
        ("files", {"model.onnx": []}, "no JSON object"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(key: str, value: Any, words: str) -> None:
    document = a_document()
    document[key] = value
    assert words in rejected(document)


@pytest.mark.parametrize("key", ["schemaVersion", "name", "framework", "opset", "inputs", "outputs", "files"])
def test_no_part_may_be_missing(key: str) -> None:
    document = a_document()
    del document[key]
    rejected(document)


def test_a_key_that_appears_twice_is_refused() -> None:
    raw = json.dumps(a_document()).encode()
    assert "a key twice" in rejected(raw.replace(b'"name": "wine"', b'"name": "wine", "name": "beer"', 1))


@pytest.mark.parametrize("raw", [b"", b"\xff", b"{", b"[" * 100_000, b'{"opset": NaN}', b"null", b'"x"'])
def test_bytes_that_are_no_manifest_are_refused(raw: bytes) -> None:
    rejected(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(key=st.sampled_from(sorted(a_document())), value=json_values)
def test_no_value_anywhere_raises_anything_but_a_bundle_error(key: str, value: Any) -> None:
    document = a_document() | {key: value}
    with contextlib.suppress(BundleError):
        manifest.parse(json.dumps(document).encode())


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
tensors = st.lists(
    st.builds(
        Tensor,
        names,
        st.sampled_from(sorted(manifest.DATATYPES)),
        st.lists(st.just(-1) | st.integers(1, 2**40), max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda tensor: tensor.name,
).map(tuple)


@given(name=names, inputs=tensors, outputs=tensors, metrics=st.dictionaries(names, names, max_size=3))
def test_every_manifest_survives_serializing(
    name: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], metrics: dict[str, str]
) -> None:
    whole = Manifest(name, "f", 1, inputs, outputs, metrics, {}, {"model.onnx": File("0" * 64, 0)})
    assert manifest.parse(manifest.serialize(whole)) == whole
