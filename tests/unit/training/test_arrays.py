"""Tables of arrays."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from holdfast_training import arrays
from holdfast_training.errors import TrainingError


def run(claim: Any, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = claim.spec("pvc://models/data.npz", "y", "Classification", "GaussianNB", **more)
    return made


def test_arrays_and_a_table_of_the_same_numbers_give_the_same_model(claim: Any) -> None:
    x, y = load_digits(return_X_y=True)
    x, y = x[:200, :5], y[:200]
    np.savez_compressed(claim.root / "data.npz", x=x, y=y)
    report = claim.train(run(claim))
    model = (claim.last / "model.onnx").read_bytes()
    assert (report["data"]["rows"], report["data"]["columns"]) == (200, 6)
    rows = [[*row, label] for row, label in zip(x, y, strict=True)]
    uri = claim.rows("data.csv", [*(f"x_{i}" for i in range(5)), "y"], rows)
    claim.train(claim.spec(uri, "y", "Classification", "GaussianNB"))
    assert (claim.last / "model.onnx").read_bytes() == model


def test_kinds_of_cells(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(
        file,
        big=np.array([1, 2], ">i4"),
        half=np.array([0.5, np.nan], np.float16),
        text=np.array(["red", "höher"]),
        flag=np.array([True, False]),
        day=np.array(["2026-01-01", "2026-01-02"], "M8[D]"),
        raw=np.array([b"a", b"b"]),
        wide=np.asfortranarray(np.arange(4).reshape(2, 2)),
    )
    assert arrays.columns(file) == ("big", "half", "text", "flag", "day", "raw", "wide_0", "wide_1")
    table = arrays.read(file, ["wide_1", "big", "text", "flag"])
    assert table.to_pydict() == {
        "wide_1": [1, 3], "big": [1, 2], "text": ["red", "höher"], "flag": [True, False]
    }  # fmt: skip
    assert str(arrays.read(file, ["half"]).schema.field("half").type) == "float"


@pytest.mark.parametrize(
    ("made", "rule"),
    [
        ({"x": np.array([[["a"]]] * 40), "y": np.arange(40)}, "UnsupportedType"),
        ({"x": np.zeros((40, 0, 2)), "y": np.arange(40)}, "Empty"),
        ({"x": np.array(1.0), "y": np.arange(40)}, "UnsupportedType"),
        ({"x": np.zeros(39), "y": np.arange(40)}, "RowsDiffer"),
        ({"x": np.zeros((2, 2001)), "y": np.arange(2)}, "TooManyColumns"),
        ({"x": np.array([object()] * 40, object), "y": np.arange(40)}, "UnsupportedType"),
        ({"x_0": np.zeros(40), "x": np.zeros((40, 1)), "y": np.arange(40) % 2}, "DuplicateColumn"),
        ({"x": np.array([b"a"] * 40), "y": np.arange(40) % 2}, "UnsupportedType"),
    ],
)
def test_arrays_that_are_no_table_are_refused(claim: Any, made: dict[str, Any], rule: str) -> None:
    np.savez(claim.root / "data.npz", **made)
    error = claim.failure(run(claim))
    assert (error.reason, error.findings[0].rule) == ("DataInvalid", rule)


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def test_nothing_is_unpickled(claim: Any) -> None:
    trap = claim.root / "unpickled"
    np.savez(claim.root / "data.npz", x=np.array([Evil(str(trap))] * 40, object), y=np.arange(40) % 2)
    assert claim.failure(run(claim)).findings[0].rule == "UnsupportedType"
    assert not trap.exists()


def damaged(kind: str) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, x=np.zeros(40), y=np.arange(40) % 2)
    raw = sink.getvalue()
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        x = archive.read("x.npy")
    match kind:
        case "cut":
            return raw[: len(raw) // 2]
        case "text":
            return b"a,y\n1,2\n"
        case "another file":
            members = {"readme.txt": b"words", "x.npy": x}
        case "no array":
            members = {"x.npy": b"words"}
        case "a header that promises more":
            members = {"x.npy": x.replace(b"(40,)", b"(99999999,)").replace(b" " * 8 + b"\n", b" " * 2 + b"\n")}
        case "a later version":
            members = {"x.npy": x[:6] + b"\x09" + x[7:]}
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return sink.getvalue()


@pytest.mark.parametrize(
    "kind", ["cut", "text", "another file", "no array", "a header that promises more", "a later version"]
)
def test_a_damaged_file_is_not_readable(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.npz"
    file.write_bytes(damaged(kind))
    with pytest.raises(TrainingError) as caught:
        arrays.columns(file)
    assert caught.value.findings[0].rule == "NotReadable"
