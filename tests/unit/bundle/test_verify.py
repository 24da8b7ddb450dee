from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from holdfast_bundle import manifest
from holdfast_bundle.errors import BundleError
from holdfast_bundle.verify import verify


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, str]:
    """A sealed bundle of three files, and its digest."""
    folder = tmp_path / "wine"
    (folder / "weights").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"model")
    (folder / "golden.json").write_bytes(b"{}")
    (folder / "weights" / "w.bin").write_bytes(b"weights")
    digest = manifest.write(
        folder,
        name="wine",
        framework="scikit-learn",
        opset=21,
        inputs=[manifest.Tensor("x", "FP32", (-1, 4))],
        outputs=[manifest.Tensor("y", "INT64", (-1,))],
        metrics={},
        lineage={},
    )
    return folder, digest


def refusal(path: Path, digest: str | None) -> BundleError:
    with pytest.raises(BundleError) as caught:
        verify(path, digest)
    return caught.value


def test_a_whole_bundle_has_the_digest_that_its_writer_reported(bundle: tuple[Path, str]) -> None:
    folder, digest = bundle
    assert verify(folder, digest) == digest
    assert verify(folder, None) == digest


def test_the_digest_of_a_bare_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"model")
    digest = "sha256:" + hashlib.sha256(b"model").hexdigest()
    assert verify(tmp_path / "model.onnx", None) == digest
    assert verify(tmp_path / "model.onnx", digest) == digest


def test_another_bundle_than_asked_for_is_told_with_both_digests(bundle: tuple[Path, str]) -> None:
    folder, digest = bundle
    asked = "sha256:" + "0" * 64
    error = refusal(folder, asked)
    assert error.reason == "DigestMismatch"
    assert digest in error.message
    assert asked in error.message
    assert refusal(folder / "model.onnx", asked).reason == "DigestMismatch"


@pytest.mark.parametrize("content", [b"MODEL", b"mode", b"model2", b""])
def test_an_altered_file_is_found_wherever_it_differs(bundle: tuple[Path, str], content: bytes) -> None:
    folder, digest = bundle
    (folder / "model.onnx").write_bytes(content)
    error = refusal(folder, digest)
    assert error.reason == "DigestMismatch"
    assert "model.onnx" in error.message


def test_an_altered_manifest_is_found_even_when_no_digest_is_asked_for_the_files(bundle: tuple[Path, str]) -> None:
    folder, digest = bundle
    raw = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(raw.replace(b"wine", b"vine"))
    assert refusal(folder, digest).reason == "DigestMismatch"
    assert verify(folder, None) != digest


def test_a_listed_file_must_be_there_and_be_a_plain_file(bundle: tuple[Path, str]) -> None:
    folder, digest = bundle
    path = folder / "weights" / "w.bin"
    path.rename(folder / "elsewhere")
    assert "weights/w.bin is not there" in refusal(folder, digest).message
    path.symlink_to("../elsewhere")
    assert "not a plain file" in refusal(folder, digest).message
    path.unlink()
    os.mkfifo(path)
    assert refusal(folder, digest).reason == "Invalid"


def test_other_files_beside_a_bundle_do_not_matter(bundle: tuple[Path, str]) -> None:
    folder, digest = bundle
    (folder / "notes.txt").write_text("x")
    assert verify(folder, digest) == digest


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "0" * 32, "sha256:" + "0" * 65])
def test_what_is_not_a_digest_is_said_to_be_none(bundle: tuple[Path, str], digest: str) -> None:
    assert refusal(bundle[0], digest).reason == "Invalid"


def test_what_is_not_there_is_invalid(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none", None).reason == "Invalid"
    assert "manifest.json is not there" in refusal(tmp_path, None).message
