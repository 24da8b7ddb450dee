"""A bundle appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from holdfast_bundle import manifest, verify
from holdfast_bundle.manifest import Tensor
from holdfast_training.errors import TrainingError
from holdfast_training.output import Output, output_at

CONTENTS: dict[str, Any] = {
    "framework": "scikit-learn",
    "opset": 21,
    "inputs": [Tensor("a", "FP32", (-1, 1))],
    "outputs": [Tensor("label", "INT64", (-1,))],
    "metrics": {},
    "lineage": {},
}


def publish(output: Output, model: bytes = b"model") -> str:
    with output.staging():
        return output.publish({"model.onnx": model}, **CONTENTS)[0]


def test_a_published_bundle_is_valid_and_nothing_else_is_left(tmp_path: Path) -> None:
    output = output_at("pvc://models/wine", "run", claims=tmp_path)
    digest = publish(output)
    assert verify.verify(tmp_path / "models/wine/run", digest) == digest
    assert os.listdir(tmp_path / "models/wine") == ["run"]
    finished = output.finished()
    assert finished is not None
    assert finished[0] == digest
    assert finished[1].name == "wine"


def test_the_name_of_a_model_at_the_top_of_a_claim_is_the_claims(tmp_path: Path) -> None:
    assert output_at("pvc://models", "run", claims=tmp_path).model_name == "models"


def test_the_files_can_be_read_by_others(tmp_path: Path) -> None:
    publish(output_at("pvc://models/wine", "run", claims=tmp_path))
    folder = tmp_path / "models/wine/run"
    assert folder.stat().st_mode & 0o755 == 0o755
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in folder.iterdir())


@pytest.mark.parametrize("damage", ["manifest.json", "model.onnx"])
def test_a_wreck_of_the_same_run_is_replaced(tmp_path: Path, damage: str) -> None:
    output = output_at("pvc://models/wine", "run", claims=tmp_path)
    digest = publish(output)
    (tmp_path / "models/wine/run" / damage).unlink()
    assert output.finished() is None
    assert publish(output) == digest
    assert output.finished() is not None


def test_a_bundle_that_another_attempt_finished_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    output = output_at("pvc://models/wine", "run", claims=tmp_path)
    kept = tmp_path / "models/wine/run"
    with output.staging():
        kept.mkdir()
        (kept / "model.onnx").write_bytes(b"model")
        digest = manifest.write(kept, name="wine", **CONTENTS)
        inode = kept.stat().st_ino
        assert output.publish({"model.onnx": b"model"}, **CONTENTS)[0] == digest
    assert kept.stat().st_ino == inode
    assert os.listdir(tmp_path / "models/wine") == ["run"]


def test_leftovers_of_a_killed_run_are_removed_and_those_of_other_runs_are_not(tmp_path: Path) -> None:
    parent = tmp_path / "models/wine"
    (parent / ".run.abc.partial").mkdir(parents=True)
    (parent / ".run-2.abc.partial").mkdir()
    (parent / "other").mkdir()
    publish(output_at("pvc://models/wine", "run", claims=tmp_path))
    assert sorted(os.listdir(parent)) == [".run-2.abc.partial", "other", "run"]


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    output = output_at("pvc://models/wine", "run", claims=tmp_path)
    with pytest.raises(RuntimeError, match="in the middle"), output.staging():
        raise RuntimeError("in the middle")
    assert os.listdir(tmp_path / "models/wine") == []


def test_an_output_that_cannot_be_written_is_said_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the claim should be")
    output = output_at("pvc://models/wine", "run", claims=tmp_path)
    with pytest.raises(TrainingError) as ended, output.staging():
        pytest.fail("the work must not begin")
    assert (ended.value.reason, ended.value.exit_code) == ("OutputNotWritable", 1)
    assert ended.value.message.startswith("pvc://models/wine/run: ")


def test_a_full_disk_is_output_not_writable() -> None:
    # /dev/full is a real device that has no room.
    from holdfast_training import output as module

    with (
        pytest.raises(TrainingError, match="No space left on device"),
        module._in_words(output_at("pvc://models/wine", "run").uri),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"x")


def test_an_output_that_is_not_on_a_claim_is_refused() -> None:
    with pytest.raises(TrainingError) as ended:
        output_at("https://example.com/models", "run")
    assert ended.value.reason == "OutputNotWritable"


@pytest.mark.parametrize("folder", ["", "..", ".hidden", "a/b"])
def test_a_run_cannot_leave_its_parent_folder(folder: str) -> None:
    with pytest.raises(ValueError, match="not a folder's name"):
        output_at("pvc://models/wine", folder)


def test_after_stop_nothing_is_published(tmp_path: Path) -> None:
    output = output_at("pvc://models/wine", "run", claims=tmp_path)

    def publish_in_vain() -> None:
        with pytest.raises((TrainingError, FileNotFoundError)):
            publish(output)

    with output.staging():
        output.stop()
        assert os.listdir(tmp_path / "models/wine") == []
    late = threading.Thread(target=publish_in_vain, daemon=True)  # waits for ever: stop() is followed by exit
    late.start()
    late.join(0.2)
    assert not (tmp_path / "models/wine/run").exists()


def test_a_finished_bundle_is_reported_without_training_again(claim: Any, shipped: Path) -> None:
    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    document = claim.spec(uri, "cultivar", "Classification", "MLPClassifier", parameters={"max_iter": "5"})
    first = claim.train(document)
    (claim.root / "data.csv").unlink()  # so training would fail
    events: list[str] = []
    assert claim.train(document, log=lambda event, **facts: events.append(event)) == first
    assert events == ["found"]
    assert first["findings"] != []


def test_a_damaged_bundle_is_trained_again(claim: Any, shipped: Path) -> None:
    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    document = claim.spec(uri, "cultivar", "Classification", "GaussianNB")
    first = claim.train(document)
    (claim.last / "model.onnx").write_bytes(b"damaged")
    assert claim.train(document) == first
    verify.verify(claim.last, first["model"]["digest"])
    shutil.rmtree(claim.last)
