"""Networks of images, from an array to a bundle that a real server answers from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.datasets import load_digits
from tests.pytorch.test_workers import folder_of, pods, trained
from tests.unit.serving.server import Server, until
from tests.unit.training.conftest import Claim
from tests.unit.training.test_batch import Scoring
from tests.unit.training.test_estimators import replay
from tests.unit.training.test_gate import Bench, results

from holdfast_bundle import manifest
from holdfast_training import datasets
from holdfast_training.again import verify_run
from holdfast_training.batch.bins import Tally, differences

DIGITS = load_digits()
PIXELS = DIGITS.images.astype(np.uint8)
__all__ = ["pods"]

EXAMPLES = Path(__file__).parents[2] / "examples"
FEW = {"filters": "[8]", "hidden_layer_sizes": "[16]", "max_iter": "2", "batch_size": "32"}
MONITORED = ["brightness", *(f"component_{place}" for place in range(1, 9)), "contrast", "distance"]


def npz(claim: Any, pixels: Any, target: Any = DIGITS.target) -> str:
    np.savez_compressed(claim.root / "data.npz", image=pixels, digit=target)
    return "pvc://models/data.npz"


def run(claim: Any, uri: str, parameters: Any = FEW, **more: Any) -> dict[str, Any]:
    document: dict[str, Any] = claim.spec(
        uri, "digit", "Classification", "TorchImageClassifier", parameters=parameters, **more
    )
    return document


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """`short` and `long`, trained on the first 1,200 digits."""
    bench = Bench(Claim(tmp_path_factory.mktemp("claims")), "digit", "Classification")
    bench.claim.root.mkdir()
    uri = npz(bench.claim, PIXELS[:1200], DIGITS.target[:1200])
    for name, parameters in (("short", FEW), ("long", {"max_iter": "12"})):
        bench.train(name, uri, "TorchImageClassifier", parameters=parameters)
    return bench


def session(folder: Path) -> Any:
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def test_a_network_is_trained_converted_and_checked(bench: Bench) -> None:
    folder = bench.folder("long")
    sealed = manifest.read(folder)
    assert float(sealed.metrics["Accuracy"]) > 0.85  # a constant answer reaches 0.1
    assert sealed.inputs == (manifest.Tensor("image", "UINT8", (-1, 8, 8)),)
    assert [(tensor.name, tensor.shape) for tensor in sealed.outputs] == [
        ("label", (-1,)), ("probabilities", (-1, 10)), ("monitor", (-1, 11))
    ]  # fmt: skip
    assert (sealed.framework, sealed.lineage["preprocessing"]) == ("PyTorch", {})
    assert replay(folder) == 8
    assert "A pixel by itself means nothing" in (folder / "card.md").read_text()


@pytest.mark.parametrize(
    ("pixels", "layout", "shape"),
    [
        (np.stack([PIXELS, PIXELS, 16 - PIXELS], axis=3), "auto", (8, 8, 3)),
        (np.stack([PIXELS, PIXELS, 16 - PIXELS], axis=1), "auto", (3, 8, 8)),
        (np.stack([PIXELS] * 6, axis=1).astype(np.float64) / 16, "NCHW", (6, 8, 8)),
        (np.pad(PIXELS, ((0, 0), (40, 49), (30, 61)))[..., None].astype(np.float16), "NHWC", (97, 99, 1)),
    ],
    ids=["NHWC", "NCHW", "many channels", "large"],
)
def test_channels_may_be_at_either_end(claim: Any, pixels: Any, layout: str, shape: Any) -> None:
    rows = slice(0, 100)
    uri = npz(claim, pixels[rows], DIGITS.target[rows])
    claim.train(run(claim, uri, {**FEW, "layout": layout}))
    [tensor] = manifest.read(claim.last).inputs
    assert tensor.shape == (-1, *shape)
    assert tensor.datatype == ("UINT8" if pixels.dtype == np.uint8 else "FP32")
    assert replay(claim.last) == 8


def test_where_the_channels_are_makes_no_other_network(claim: Any) -> None:
    models = []
    for axis in (1, 3):
        claim.train(run(claim, npz(claim, np.stack([PIXELS[:200], 16 - PIXELS[:200]], axis=axis), DIGITS.target[:200])))
        models.append(session(claim.last))
    last, first = (
        model.run(["probabilities"], {"image": np.stack([PIXELS[200:], 16 - PIXELS[200:]], axis=axis)})[0]
        for axis, model in zip((1, 3), models, strict=True)
    )
    assert np.abs(last - first).max() < 1e-3


@pytest.mark.parametrize(
    "parameters",
    [
        {"filters": "4"},
        {"filters": "[8, 8, 8, 8, 8]"},
        {"kernel_size": "5"},
        {"hidden_layer_sizes": "[16, 12]"},
        {"activation": "tanh"},
        {"dropout": "0.5"},
        {"alpha": "1"},
        {"learning_rate_init": "0.01"},
        {"batch_size": "16"},
        {"max_iter": "3"},
        {"validation_fraction": "0.5"},
    ],
    ids=str,
)
def test_every_parameter_reaches_the_network_and_its_model_holds(claim: Any, parameters: Any) -> None:
    uri = npz(claim, PIXELS[:150], DIGITS.target[:150])
    made = set()
    for given in (FEW, FEW | parameters):
        claim.train(run(claim, uri, given))
        made.add((claim.last / "model.onnx").read_bytes())
        assert replay(claim.last) == 8
    assert len(made) == 2


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"filters": "[8, 0]"}, "filters must be whole numbers greater than 0"),
        ({"filters": "[]"}, "filters must be whole numbers greater than 0"),
        ({"kernel_size": "4"}, "kernel_size must be odd"),
        ({"kernel_size": "17"}, "kernel_size"),
        ({"hidden_layer_sizes": "[]"}, "hidden_layer_sizes must have one layer at least"),
        ({"hidden_layer_sizes": "[60000, 60000]"}, "and at most 50,000,000 are possible"),
        ({"layout": "NHWC"}, "images of 8 x 8 have no channels, so they have no layout NHWC"),
        ({"layout": "HWC"}, "layout"),
        ({"random_state": "1"}, "spec.seed sets it"),
    ],
    ids=str,
)
def test_what_no_network_can_be_made_of_is_refused_in_words(claim: Any, parameters: Any, words: str) -> None:
    uri = npz(claim, PIXELS[:100], DIGITS.target[:100])
    error = claim.failure(run(claim, uri, FEW | parameters))
    assert error.reason == "ParametersInvalid"
    assert error.message.startswith("TorchImageClassifier")
    assert words in error.message


@pytest.mark.parametrize(("shape", "words"), [((8, 4, 2, 4), "both ends"), ((8, 5, 2, 5), "neither end has 1 to 4")])
def test_channels_that_nobody_can_tell_are_asked_for(claim: Any, shape: Any, words: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 9, (80, *shape[1:]), np.uint8)
    error = claim.failure(run(claim, npz(claim, pixels, np.arange(80) % 2)))
    assert error.reason == "ParametersInvalid"
    assert words in error.message
    assert "set layout to NHWC or NCHW" in error.message


def test_a_search_finds_its_parameters_and_calibration_holds(claim: Any) -> None:
    uri = npz(claim, PIXELS[:300], DIGITS.target[:300])
    document = run(claim, uri, {**FEW, "max_iter": "6"}, calibration="Sigmoid", tuning={"trials": 2, "folds": 2})
    document["estimators"][0]["parameters"].pop("filters")
    document["estimators"][0]["search"] = [{"parameter": "filters", "values": ["[4]", "[8, 16]"]}]
    document["tuning"]["sampler"] = "Grid"
    report = claim.train(document)
    assert report["model"]["estimator"] == "TorchImageClassifier"
    sealed = manifest.read(claim.last)
    assert sealed.lineage["parameters"]["filters"] in ("[4]", "[8, 16]")
    assert [tensor.name for tensor in sealed.outputs] == ["label", "probabilities", "monitor"]
    assert replay(claim.last) == 8


def test_a_run_gives_the_same_bytes_again_and_another_seed_others(claim: Any, tmp_path_factory: Any) -> None:
    uri = npz(claim, PIXELS[:200], DIGITS.target[:200])
    reports = [claim.train(run(claim, uri, {**FEW, "dropout": "0.2"}, seed=seed)) for seed in (5, 6)]
    assert reports[0]["model"]["digest"] != reports[1]["model"]["digest"]
    again = verify_run(reports[0]["model"]["uri"], scratch=tmp_path_factory.mktemp("again"), claims=claim.claims)
    assert again["result"] == "Same"


def test_two_workers_learn_together_what_one_learns_from_all_images(claim: Any, pods: Any) -> None:
    uri = npz(claim, PIXELS[:300], DIGITS.target[:300])
    claim.train(run(claim, uri))
    together = run(claim, uri, workers=2)
    trained(pods, together)
    probabilities = [
        session(folder).run(["probabilities"], {"image": PIXELS[300:]})[0]
        for folder in (claim.last, folder_of(claim, together))
    ]
    np.testing.assert_allclose(*probabilities, rtol=0, atol=1e-4)


def test_the_example_reaches_what_it_asks_for(claim: Any) -> None:
    datasets.write("digits", claim.root / "digits.npz")
    wanted = yaml.safe_load((EXAMPLES / "digits" / "trainingjob.yaml").read_text())["spec"]
    document = {**wanted, **wanted["evaluation"], "output": {**wanted["output"], "folder": "run-1"}}
    assert document["requirements"]
    report = claim.train(document)
    assert float(report["metrics"][0]["value"]) >= 0.9


def psi(folder: Path, pixels: Any) -> dict[str, int]:
    """By feature, in thousandths."""
    profile = json.loads((folder / "profile.json").read_text())
    names = [output.name for output in manifest.read(folder).outputs]
    tally = Tally(profile)
    tally.add({}, dict(zip(names, session(folder).run(names, {"image": pixels}), strict=True)))
    return {each["name"]: each["psiPerMille"] for each in differences(tally.bins(), tally.rows, tally.counts)}


def test_images_that_are_not_as_they_were_show_in_what_is_watched(bench: Bench) -> None:
    folder, live = bench.folder("long"), PIXELS[1200:]
    profile = json.loads((folder / "profile.json").read_text())
    assert sorted(profile["features"]) == MONITORED
    usual = psi(folder, live)
    assert max(usual.values()) < 400
    turned = psi(folder, np.ascontiguousarray(np.rot90(live, axes=(1, 2))))
    darker = psi(folder, live // 2)
    assert turned["brightness"] == usual["brightness"]  # the pixels are the same
    assert max(turned.values()) > 1500
    assert darker["brightness"] > 1500
    assert darker["contrast"] > 1500


def test_a_server_answers_pixels_in_bytes_and_counts_what_is_watched(bench: Bench, tmp_path: Path) -> None:
    model, folder = bench.models["long"], bench.folder("long")
    (tmp_path / "claims").symlink_to(bench.claim.claims)
    live = PIXELS[1200:1250]
    head = {
        "inputs": [
            {"name": "image", "datatype": "UINT8", "shape": [50, 8, 8], "parameters": {"binary_data_size": 3200}}
        ],
        "parameters": {"binary_data_output": True},
    }
    document = json.dumps(head).encode()
    with Server(tmp_path, model["uri"], model["digest"]) as server:
        until(server.ready, "readiness")
        answer = httpx.post(
            server.url + server.infer_path,
            content=document + live.tobytes(),
            headers={"Inference-Header-Content-Length": str(len(document))},
        )
        assert answer.status_code == 200, answer.text
        length = int(answer.headers["inference-header-content-length"])
        described, rest = json.loads(answer.content[:length])["outputs"], answer.content[length:]
        expected = session(folder).run(None, {"image": live})
        for output, wanted in zip(described, expected, strict=True):
            size = output["parameters"]["binary_data_size"]
            given, rest = np.frombuffer(rest[:size], wanted.dtype).reshape(output["shape"]), rest[size:]
            assert np.allclose(given, wanted, atol=1e-5)
        for name in MONITORED:
            assert server.metric("holdfast_model_feature_bin_total", feature=name) == 50


def test_the_gate_compares_networks_on_images_that_neither_has_learned_from(bench: Bench) -> None:
    report = bench.judge("short", "long")
    assert report["passed"] is True
    assert results(report)["Signature"] == results(report)["OwnGoldenAnswers"] == "Passed"
    assert bench.judge("long", "short")["passed"] is False


def test_a_batch_of_images_is_scored_and_its_drift_told(bench: Bench) -> None:
    scoring = Scoring(bench.claim, bench.models["long"], [])
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(PIXELS[1200:])
    pq.write_table(pa.table({"image": tensors, "id": np.arange(597)}), bench.claim.root / "live.parquet")
    report = scoring.run("pvc://models/live.parquet", keepColumns=["id"])
    answers = scoring.answers()
    assert answers["id"].to_pylist() == list(range(597))
    expected = session(bench.folder("long")).run(["label"], {"image": PIXELS[1200:]})[0]
    assert answers["label"].to_pylist() == expected.tolist()
    assert {feature["name"] for feature in report["drift"]["features"]} <= {*MONITORED, "label"}
    assert report["drift"]["rows"] == 597
