"""A trainer of one's own: the program of the reference page between our two steps, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast_bundle import manifest, verify
from holdfast_training import contender, own
from holdfast_training.errors import TrainingError
from holdfast_training.output import output_at

PAGE = Path(__file__).parents[3] / "docs/own-trainer.md"
PROGRAM = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[0]
PARAMETERS = {"name": "wine-own", "seed": 7, "target": "cultivar", "task": "Classification"}


class Pod:
    """The folders of a pod, and its steps."""

    def __init__(self, claims: Path, document: dict[str, Any]) -> None:
        self.claims, self.document = claims, document
        self.input, self.output = claims / "pod-input", claims / "pod-output"
        self.input.mkdir()
        self.output.mkdir()

    @property
    def run(self) -> own.OwnRun:
        return own.parse(json.dumps(self.document))

    @property
    def bundle(self) -> Path:
        return self.claims / "models/out" / self.document["output"]["folder"]

    def fetch(self) -> dict[str, Any]:
        return own.fetch(self.run, self.input, claims=self.claims)

    def train(self) -> None:
        told = {
            "HOLDFAST_INPUT": str(self.input),
            "HOLDFAST_OUTPUT": str(self.output),
            "HOLDFAST_PARAMETERS": json.dumps(PARAMETERS),
        }
        subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, **told}, check=True, timeout=120)

    def publish(self) -> dict[str, Any]:
        run = self.run
        output = output_at(run.output_uri, run.output_folder, claims=self.claims)
        return own.publish(run, output, input_folder=self.input, folder=self.output, claims=self.claims)

    def refusal(self) -> TrainingError:
        with pytest.raises(TrainingError) as caught:
            self.publish()
        assert not self.bundle.exists()
        return caught.value


@pytest.fixture
def pod(claim: Any, shipped: Path) -> Pod:
    uri = claim.text("wine.csv", (shipped / "wine.csv").read_bytes())
    document = {
        "data": {"uri": uri},
        "container": {"image": "registry.example.com/trainer:1"},
        "seed": 7,
        "target": "cultivar",
        "task": "Classification",
        "requirements": [{"metric": "Accuracy", "minimum": "0.8"}],
        "output": {"uri": "pvc://models/out", "folder": "wine-own-1"},
    }
    return Pod(claim.claims, document)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shipped: Path) -> Path:
    """The output folder of the page's program."""
    root = tmp_path_factory.mktemp("own")
    (root / "models").mkdir()
    shutil.copyfile(shipped / "wine.csv", root / "models/wine.csv")
    output = {"uri": "pvc://models/out", "folder": "x"}
    document = {"data": {"uri": "pvc://models/wine.csv"}, "container": {"image": "x"}, "seed": 7, "requirements": []}
    made = Pod(root, {**document, "output": output})
    made.fetch()
    made.train()
    return made.output


@pytest.fixture
def done(pod: Pod, trained: Path) -> Pod:
    pod.fetch()
    shutil.copytree(trained, pod.output, dirs_exist_ok=True)
    return pod


def test_what_the_pages_program_leaves_becomes_a_bundle(done: Pod) -> None:
    report = done.publish()
    digest = report["model"]["digest"]
    assert verify.verify(done.bundle, digest) == digest
    bundle = manifest.read(done.bundle)
    assert [metric["name"] for metric in report["metrics"]] == ["Accuracy"]
    assert 0.8 < float(bundle.metrics["Accuracy"]) <= 1
    assert bundle.lineage == {
        "dataDigest": manifest.digest_file(done.claims / "models/wine.csv"),
        "image": "registry.example.com/trainer:1",
        "seed": 7,
        "target": "cultivar",
        "task": "Classification",
    }
    assert report["data"]["digest"] == bundle.lineage["dataDigest"]
    assert [tensor.datatype for tensor in bundle.outputs] == ["INT64", "FP32"]
    assert bundle.inputs[0].shape == (-1, 13)
    assert set(bundle.files) == {"model.onnx"}
    assert bundle.opset > 10


def test_the_same_files_give_the_same_digest_and_are_reported_again(done: Pod) -> None:
    first = done.publish()
    (done.output / "model.onnx").unlink()
    assert done.publish() == first


def test_a_bundle_that_was_sealed_by_the_trainer_keeps_what_it_says(done: Pod) -> None:
    (done.output / "metrics.json").unlink()
    (done.output / "notes").mkdir()
    (done.output / "notes/why.txt").write_text("because")
    model = contender.opened("x", done.output / "model.onnx", done.output, None)
    manifest.write(
        done.output,
        name="theirs",
        framework="ours",
        opset=15,
        inputs=model.inputs,
        outputs=model.outputs,
        metrics={"Accuracy": "0.95", "zeta": "1", "beta": "2"},
        lineage={"commit": "c0ffee", "dataDigest": "forged"},
    )
    report = done.publish()
    bundle = manifest.read(done.bundle)
    assert (bundle.name, bundle.framework, bundle.opset) == ("out", "ours", 15)
    assert bundle.lineage["commit"] == "c0ffee"
    assert bundle.lineage["dataDigest"] == report["data"]["digest"] != "forged"
    assert [metric["name"] for metric in report["metrics"]] == ["Accuracy", "beta", "zeta"]
    assert set(bundle.files) == {"model.onnx", "notes/why.txt"}


def spoil(name: str, content: str | bytes) -> Callable[[Pod], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda pod: (pod.output / name).write_bytes(data) and None


def golden(label: int) -> Callable[[Pod], Any]:
    """A golden request whose answer is the label."""
    asked = {"name": "X", "datatype": "FP32", "shape": [1, 13], "data": [13.0] * 13}
    answer = {"name": "label", "datatype": "INT64", "shape": [1], "data": [label]}
    tolerance = {"relative": 1e-4, "absolute": 1e-5}
    document = {"requests": [{"inputs": [asked], "outputs": [answer]}], "tolerance": tolerance}
    return spoil("golden.json", json.dumps(document))


def link(name: str, target: str) -> Callable[[Pod], None]:
    def make(pod: Pod) -> None:
        (pod.output / name).unlink(missing_ok=True)
        (pod.output / name).symlink_to(target)

    return make


SPOILED: dict[str, tuple[Callable[[Pod], Any], str]] = {
    "nothing": (lambda pod: [path.unlink() for path in pod.output.iterdir()], "left nothing there"),
    "no model": (lambda pod: (pod.output / "model.onnx").unlink(), "metrics.json"),
    "no metrics": (lambda pod: (pod.output / "metrics.json").unlink(), "metrics.json is not in"),
    "empty metrics": (spoil("metrics.json", "{}"), "no metrics"),
    "a list": (spoil("metrics.json", "[1]"), "not a JSON object"),
    "no JSON": (spoil("metrics.json", "Accuracy: 1"), "not JSON"),
    "deep JSON": (spoil("metrics.json", "[" * 100_000), "not JSON"),
    "NaN": (spoil("metrics.json", '{"Accuracy": NaN}'), "Accuracy is not a number"),
    "huge": (spoil("metrics.json", '{"Accuracy": 1e400}'), "Accuracy is not a number"),
    "a truth": (spoil("metrics.json", '{"Accuracy": true}'), "Accuracy is not a number"),
    "odd name": (spoil("metrics.json", '{"a\\u0000b": 1}'), "the name of a metric"),
    "many": (spoil("metrics.json", json.dumps({f"m{n}": n for n in range(33)})), "33 metrics"),
    "long": (spoil("metrics.json", b" " * ((1 << 20) + 1)), "larger than 1 MiB"),
    "no ONNX": (spoil("model.onnx", b"x" * 100), "no model"),
    "a linked model": (link("model.onnx", "/etc/passwd"), "model.onnx is not a plain file"),
    "a linked folder": (link("weights", "/etc"), "weights is not a plain file"),
    "a wrong golden answer": (golden(77), "otherwise than that says"),
    "no golden set": (spoil("golden.json", "{}"), "golden.json is not of the agreed form"),
    "a false manifest": (spoil("manifest.json", "{}"), "no model"),
    "a pipe": (lambda pod: os.mkfifo(pod.output / "pipe"), "pipe is not a plain file"),
}


def test_a_golden_set_that_the_model_answers_becomes_part_of_the_bundle(done: Pod) -> None:
    model = contender.opened("x", done.output / "model.onnx", done.output, None)
    labels = model.run({model.inputs[0].name: np.full((1, 13), 13.0, np.float32)})
    golden(int(labels["label"][0]))(done)
    done.publish()
    assert set(manifest.read(done.bundle).files) == {"model.onnx", "golden.json"}


@pytest.mark.parametrize("what", SPOILED)
def test_what_breaks_the_contract_is_not_published_and_named(done: Pod, what: str) -> None:
    make, words = SPOILED[what]
    make(done)
    error = done.refusal()
    assert (error.reason, error.exit_code) == ("ContractViolated", 3)
    assert words in error.message
    assert str(done.claims) not in error.message


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        ({"metric": "Accuracy", "minimum": "0.9999999"}, "below the minimum of 0.9999999"),
        ({"metric": "Accuracy", "maximum": "0.1"}, "above the maximum of 0.1"),
        ({"metric": "F1", "minimum": "0.1"}, "reports no such metric"),
    ],
)
def test_a_model_that_misses_a_requirement_is_not_published(done: Pod, requirement: Any, words: str) -> None:
    (done.output / "metrics.json").write_text('{"Accuracy": "0.95"}')
    done.document["requirements"] = [requirement]
    error = done.refusal()
    assert error.reason == "RequirementNotMet"
    assert words in error.message


SLICED = [
    {"column": "region", "index": 0, "of": "north", "rows": 40, "metrics": {"Accuracy": 0.97}},
    {"column": "region", "index": 1, "of": "south", "rows": 50, "metrics": {"Accuracy": "0.61"}},
    {"column": "region", "index": 2, "rows": 12, "metrics": {}},
]


def sliced(pod: Pod, document: Any, minimum: str) -> None:
    (pod.output / "slices.json").write_text(document if isinstance(document, str) else json.dumps(document))
    pod.document["slices"] = ["region"]
    pod.document["sliceRequirements"] = [{"metric": "Accuracy", "minimum": minimum}]


def test_slices_that_the_trainer_reports_are_held_to_what_is_required_of_them(done: Pod) -> None:
    sliced(done, SLICED, "0.7")
    error = done.refusal()
    assert error.reason == "RequirementNotMet"
    assert error.message == (
        "Accuracy of slice region=1 (50 rows) is 0.61, below the minimum of 0.7. Nothing was published"
    )
    assert [(finding.column, finding.rows) for finding in error.findings] == [("region", 50)]


def test_slices_that_hold_what_is_required_are_in_the_status_and_in_the_bundle(done: Pod) -> None:
    sliced(done, SLICED, "0.6")
    report = done.publish()
    told = [(item["slice"], item["name"], item["value"]) for item in report["metrics"] if "slice" in item]
    assert told == [("region=0", "Accuracy", "0.97"), ("region=1", "Accuracy", "0.61")]
    assert [(finding["rule"], finding["rows"]) for finding in report["findings"]] == [("SliceNotJudged", 12)]
    assert "slices.json" in manifest.read(done.bundle).files
    assert done.publish() == report


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "not a list"),
        ("[", "slices.json is not JSON"),
        ([1], "item 0 of slices.json is not of the form"),
        ([{**SLICED[0], "rows": -1}], "item 0 of slices.json is not of the form"),
        ([{**SLICED[0], "rows": 1.5}], "item 0 of slices.json is not of the form"),
        ([SLICED[0], {**SLICED[1], "column": ""}], "item 1 of slices.json is not of the form"),
        ([{**SLICED[0], "metrics": {"Accuracy": "?"}}], "the metric Accuracy is not a number"),
        ([SLICED[0], SLICED[0]], "two slices of the same column and index"),
    ],
)
def test_slices_of_another_form_break_the_contract(done: Pod, document: Any, words: str) -> None:
    sliced(done, document, "0.6")
    error = done.refusal()
    assert error.reason == "ContractViolated"
    assert words in error.message


def test_slices_that_are_required_and_not_reported_break_the_contract(done: Pod) -> None:
    sliced(done, SLICED, "0.6")
    (done.output / "slices.json").unlink()
    error = done.refusal()
    assert (error.reason, error.message) == ("ContractViolated", "slices.json is not in HOLDFAST_OUTPUT")


def test_data_of_any_kind_are_brought_with_their_names(pod: Pod, claim: Any) -> None:
    for name in ("a.jsonl", "deep/b.png", "_hidden"):
        claim.text(f"lake/{name}", name)
    pod.document["data"] = {"uri": "pvc://models/lake"}
    assert pod.fetch() == {"result": "Fetched"}
    facts = json.loads((pod.input / "_data.json").read_bytes())
    assert facts["files"] == ["a.jsonl", "deep/b.png"]
    assert (pod.input / "deep/b.png").read_text() == "deep/b.png"
    assert not (pod.input / "_hidden").exists()


def test_other_data_than_asked_for_are_not_handed_over(pod: Pod) -> None:
    pod.document["data"]["digest"] = "sha256:" + "0" * 64
    with pytest.raises(TrainingError) as caught:
        pod.fetch()
    assert caught.value.reason == "ChecksumMismatch"
