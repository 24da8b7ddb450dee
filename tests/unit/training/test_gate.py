"""Champions and challengers that the trainer made of real data, and what the gate says of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from tests.unit.training.conftest import Claim

from holdfast_bundle import manifest
from holdfast_bundle.manifest import Tensor, digest_file
from holdfast_training import gate
from holdfast_training.errors import TrainingError

ROW_DIGEST = {"method": "RowDigest", "testPercent": 30}


class Bench:
    """Trains models on a claim and holds them against each other."""

    def __init__(self, claim: Claim, target: str, task: str) -> None:
        self.claim, self.target, self.task = claim, target, task
        self.documents: dict[str, dict[str, Any]] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.compared = 0

    def train(self, name: str, uri: str, estimator: str, **more: Any) -> None:
        document = self.claim.spec(uri, self.target, self.task, estimator, split=ROW_DIGEST, **more)
        done = self.claim.train(document)
        self.documents[name] = document
        self.models[name] = {key: done["model"][key] for key in ("uri", "digest")}

    def folder(self, name: str) -> Path:
        path: Path = self.claim.root / self.models[name]["uri"].removeprefix("pvc://models/")
        return path

    def ask(self, champion: str, challenger: str, **more: Any) -> dict[str, Any]:
        """A HOLDFAST_GATE document."""
        limits = {"comparison": "NonInferior", "maxLossPerMille": 10, "maxSliceLossPerMille": 30}
        return {
            "champion": self.models[champion],
            "challenger": self.models[challenger],
            "training": self.documents[challenger],
            **limits,
            "maxLatencyPercent": 1000,
            **more,
        }

    def judge(self, champion: str, challenger: str, **more: Any) -> dict[str, Any]:
        self.compared += 1
        scratch = self.claim.claims / f"scratch-{self.compared}"
        scratch.mkdir()
        asked = gate.parse(json.dumps(self.ask(champion, challenger, **more)))
        return gate.judge(asked, scratch=scratch, claims=self.claim.claims)


def line(report: dict[str, Any], name: str) -> dict[str, str]:
    return next(row for row in report["gate"] if row["name"] == name)


def results(report: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["result"] for row in report["gate"]}


def digits(shipped: Path) -> tuple[str, list[str]]:
    header, *lines = (shipped / "digits.csv").read_text().splitlines(keepends=True)
    return header, lines


@pytest.fixture
def bench(claim: Claim) -> Bench:
    return Bench(claim, "digit", "Classification")


@pytest.fixture(scope="module")
def contenders(tmp_path_factory: pytest.TempPathFactory, shipped: Path) -> Bench:
    """`good`, `better` and `poor`, all of the same data."""
    bench = Bench(Claim(tmp_path_factory.mktemp("claims")), "digit", "Classification")
    uri = bench.claim.text("digits.csv", (shipped / "digits.csv").read_bytes())
    bench.train("good", uri, "GaussianNB")
    bench.train("better", uri, "LogisticRegression", parameters={"C": "0.1"})
    bench.train("poor", uri, "DecisionTreeClassifier", parameters={"max_depth": "4"})
    return bench


@pytest.fixture
def trained(contenders: Bench, tmp_path: Path) -> Bench:
    """These on a claim of this test's own."""
    shutil.copytree(contenders.claim.root, tmp_path / "models")
    own = Bench(Claim(tmp_path, contenders.claim.made), contenders.target, contenders.task)
    own.documents, own.models = deepcopy(contenders.documents), deepcopy(contenders.models)
    return own


def test_a_better_challenger_passes_with_a_table_of_what_was_compared(trained: Bench) -> None:
    report = trained.judge("good", "better")
    assert report["passed"] is True
    assert report["result"] == "Completed"
    accuracy = line(report, "Accuracy")
    assert float(accuracy["challenger"]) > float(accuracy["champion"])
    assert float(accuracy["limit"]) == pytest.approx(float(accuracy["champion"]) - 0.01, abs=1e-3)
    assert report["message"] == (
        f"Accuracy {accuracy['challenger']} against {accuracy['champion']} on {report['rows']} rows that neither has "
        "learned from"
    )
    assert results(report) == {
        "Signature": "Passed",
        "Accuracy": "Passed",
        "AccuracyBound": "Passed",
        "OwnGoldenAnswers": "Passed",
        "GoldenAnswers": "Skipped",
        "LatencyP95Milliseconds": "Passed",
        **dict.fromkeys(["BalancedAccuracy", "F1", "ROCAUC", "LogLoss", "SizeBytes"], "Skipped"),
        **{row["name"]: "Skipped" for row in report["gate"][11:]},
    }
    assert len(report["gate"]) == 16
    assert len(json.dumps(report).encode()) < 4096


def test_the_rows_are_those_that_the_challenger_held_out(trained: Bench) -> None:
    lineage = manifest.read(trained.folder("better")).lineage
    assert trained.judge("good", "better")["rows"] == lineage["testRows"]


def test_a_worse_challenger_does_not_pass_and_the_message_says_by_how_much(trained: Bench) -> None:
    report = trained.judge("better", "poor")
    assert report["passed"] is False
    accuracy = line(report, "Accuracy")
    assert accuracy["result"] == "Failed"
    assert report["message"].startswith(
        f"Accuracy is {accuracy['challenger']}, worse than {accuracy['limit']} (champion {accuracy['champion']})"
    )


def test_the_same_model_passes_and_is_not_superior(trained: Bench) -> None:
    assert trained.judge("better", "better")["passed"] is True
    report = trained.judge("better", "better", comparison="Superior")
    assert report["passed"] is False
    assert line(report, "AccuracyPValue") == {
        "name": "AccuracyPValue", "challenger": "1", "limit": "0.05", "result": "Failed",
    }  # fmt: skip
    assert trained.judge("good", "better", comparison="Superior")["passed"] is True


def test_a_loss_that_is_tolerated_passes(trained: Bench) -> None:
    tolerant = {"maxLossPerMille": 500, "maxSliceLossPerMille": 500}
    assert trained.judge("better", "good", **tolerant)["passed"] is True
    assert trained.judge("better", "good", **{**tolerant, "maxLossPerMille": 10})["passed"] is False


def test_what_a_challenger_forgets_of_a_class_is_shown_and_decides_nothing_by_itself(
    bench: Bench, shipped: Path
) -> None:
    header, lines = digits(shipped)
    uri = bench.claim.text("digits.csv", "".join([header, *lines]))
    bench.train("champion", uri, "LogisticRegression")
    weights = json.dumps({"3": 0.001})
    bench.train("challenger", uri, "LogisticRegression", parameters={"class_weight": weights})
    report = bench.judge("champion", "challenger", maxLossPerMille=500)
    (row,) = [row for row in report["gate"] if row["name"] == "Recall digit=3"]
    assert float(row["challenger"]) < float(row["champion"])
    assert row["result"] == "Skipped"
    assert report["passed"] is True
    assert bench.judge("champion", "challenger")["passed"] is False  # by all rows


def test_a_slow_challenger_fails_by_its_latency_alone(trained: Bench) -> None:
    uri = trained.documents["better"]["data"]["uri"]
    trained.train("slow", uri, "KNeighborsClassifier")
    report = trained.judge("better", "slow", maxLatencyPercent=120)
    slow = line(report, "LatencyP95Milliseconds")
    assert float(slow["challenger"]) > float(slow["limit"]) >= 1.2 * float(slow["champion"]) * 0.999
    assert {name for name, result in results(report).items() if result == "Failed"} == {"LatencyP95Milliseconds"}


def test_a_challenger_that_takes_other_columns_fails_before_anything_is_read(trained: Bench) -> None:
    uri = trained.documents["better"]["data"]["uri"]
    trained.train("other", uri, "GaussianNB", features={"excluded": ["pixel_0_0"]})
    (trained.claim.root / "digits.csv").unlink()
    report = trained.judge("better", "other")
    assert report["passed"] is False
    assert report["gate"] == [{"name": "Signature", "result": "Failed"}]
    assert report["message"] == "the challenger lacks inputs of the champion: pixel_0_0"


def test_few_rows_are_no_evidence(bench: Bench, shipped: Path) -> None:
    header, lines = digits(shipped)
    uri = bench.claim.text("digits.csv", "".join([header, *lines[:140]]))
    bench.train("champion", uri, "GaussianNB")
    report = bench.judge("champion", "champion")
    assert (report["passed"], report["gate"][1]) == (False, {"name": "Accuracy", "result": "Failed"})
    assert report["message"] == (
        f"of 140 rows there are {report['rows']} that the challenger has not learned from, and at least 50 are needed; "
        "give more labelled rows"
    )


def test_data_that_have_changed_are_no_evidence_unless_rows_are_held_out_by_digest(bench: Bench, shipped: Path) -> None:
    header, lines = digits(shipped)
    uri = bench.claim.text("digits.csv", "".join([header, *lines[:1200]]))
    bench.train("digest", uri, "GaussianNB")
    document = bench.claim.spec(uri, "digit", "Classification", "GaussianNB")
    done = bench.claim.train(document)
    bench.documents["random"] = document
    bench.models["random"] = {key: done["model"][key] for key in ("uri", "digest")}
    report = bench.judge("random", "random")
    assert (report["passed"], report["rows"]) == (True, 240)

    bench.claim.text("digits.csv", "".join([header, *lines]))
    report = bench.judge("random", "random")
    assert (report["passed"], report["rows"]) == (False, 0)
    assert report["message"].startswith("nobody can tell which rows the challenger has not learned from")
    report = bench.judge("random", "digest")
    assert report["passed"] is True
    assert report["message"].endswith("that the challenger has not learned from (of the champion nobody knows)")


def test_rows_of_their_own_count_without_those_that_the_challenger_has_learned(bench: Bench, shipped: Path) -> None:
    header, lines = digits(shipped)
    uri = bench.claim.text("digits.csv", "".join([header, *lines[:1200]]))
    bench.train("champion", uri, "GaussianNB")
    held_out = bench.judge("champion", "champion")["rows"]
    recent = bench.claim.text("recent.csv", "".join([header, *lines[1000:]]))
    report = bench.judge("champion", "champion", data={"uri": recent})
    all_new = bench.claim.text("new.csv", "".join([header, *lines[1200:]]))
    new = bench.judge("champion", "champion", data={"uri": all_new})["rows"]
    assert new == len(lines) - 1200
    assert new < report["rows"] < new + held_out
    learned = bench.claim.text("learned.csv", (bench.claim.root / "digits.csv").read_bytes())
    assert bench.judge("champion", "champion", data={"uri": learned})["rows"] == held_out


def test_where_the_world_has_changed_recent_rows_decide_for_the_challenger(bench: Bench, shipped: Path) -> None:
    header, lines = digits(shipped)
    before = bench.claim.text("before.csv", "".join([header, *lines]))
    turned = []
    for text in lines:
        *pixels, label = text.strip().split(",")
        turned.append(",".join([*np.array(pixels).reshape(8, 8).T.ravel().tolist(), label]) + "\n")
    now = bench.claim.text("now.csv", "".join([header, *turned]))
    bench.train("champion", before, "LogisticRegression", parameters={"C": "0.1"})
    bench.train("challenger", now, "LogisticRegression", parameters={"C": "0.1"})
    report = bench.judge("champion", "challenger", comparison="Superior")
    assert report["passed"] is True
    accuracy = line(report, "Accuracy")
    assert float(accuracy["champion"]) < 0.6 < 0.9 < float(accuracy["challenger"])


def test_numbers_are_compared_by_their_squared_errors(claim: Any, shipped: Path) -> None:
    bench = Bench(claim, "progression", "Regression")
    uri = claim.text("diabetes.csv", (shipped / "diabetes.csv").read_bytes())
    bench.train("ridge", uri, "Ridge")
    bench.train("tree", uri, "DecisionTreeRegressor")
    better = bench.judge("tree", "ridge")
    assert better["passed"] is True
    assert list(results(better)) == [
        "Signature", "RMSE", "RMSEBound", "OwnGoldenAnswers", "LatencyP95Milliseconds", "MAE", "R2", "SizeBytes",
    ]  # fmt: skip
    rmse = line(better, "RMSE")
    assert float(rmse["limit"]) == pytest.approx(1.01 * float(rmse["champion"]), rel=1e-3)
    worse = bench.judge("ridge", "tree")
    assert worse["passed"] is False
    assert {"RMSE", "RMSEBound"} <= {name for name, result in results(worse).items() if result == "Failed"}


def test_a_bare_file_can_be_champion(trained: Bench) -> None:
    path = trained.claim.root / "bare.onnx"
    shutil.copy(trained.folder("good") / "model.onnx", path)
    trained.models["bare"] = {"uri": "pvc://models/bare.onnx", "digest": digest_file(path)}
    report = trained.judge("bare", "better")
    assert report["passed"] is True
    assert report["message"].endswith("that the challenger has not learned from (of the champion nobody knows)")
    assert "GoldenAnswers" not in results(report)


def test_what_is_not_the_model_that_was_trained_is_not_compared(trained: Bench) -> None:
    folder = trained.folder("better")
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b" ")
    with pytest.raises(TrainingError, match=r"challenger: .* model\.onnx has more") as failed:
        trained.judge("good", "better")
    assert (failed.value.reason, failed.value.exit_code) == ("DigestMismatch", 3)
    (folder / "manifest.json").unlink()
    with pytest.raises(TrainingError, match=r"manifest\.json") as failed:
        trained.judge("good", "better")
    assert (failed.value.reason, failed.value.exit_code) == ("ModelNotFound", 1)


def test_golden_answers_that_the_challenger_does_not_give_fail_it(trained: Bench) -> None:
    folder = trained.folder("better")
    golden = json.loads((folder / "golden.json").read_bytes())
    label = golden["requests"][0]["outputs"][0]["data"]
    label[0] = (label[0] + 1) % 10
    (folder / "golden.json").write_bytes(manifest.canonical_json(golden))
    sealed = manifest.read(folder)
    (folder / "manifest.json").unlink()
    again = {
        key: getattr(sealed, key) for key in ("name", "framework", "opset", "inputs", "outputs", "metrics", "lineage")
    }
    trained.models["better"]["digest"] = manifest.write(folder, **again)
    report = trained.judge("good", "better")
    assert {name for name, result in results(report).items() if result == "Failed"} == {"OwnGoldenAnswers"}
    assert line(report, "OwnGoldenAnswers")["challenger"] == "0.875"
    assert float(line(trained.judge("better", "good"), "GoldenAnswers")["champion"]) == 0.875


PROGRAM = """
import sys
from copy import deepcopy
from pathlib import Path
from holdfast_training.__main__ import main
sys.exit(main(["gate"], claims=Path(sys.argv[1]), termination_log=Path(sys.argv[2])))
"""


def program(bench: Bench, asked: dict[str, Any]) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    """Exit code, last word and log of the process that a pod runs."""
    word = bench.claim.claims / "last-word"
    word.touch()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(bench.claim.claims), str(word)],
        env={**os.environ, "HOLDFAST_GATE": json.dumps(asked)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    log = [json.loads(text) for text in done.stdout.splitlines()]
    return done.returncode, json.loads(word.read_bytes()), log


def test_the_program_leaves_the_table_as_its_last_word(trained: Bench) -> None:
    code, said, log = program(trained, trained.ask("better", "poor"))
    assert (code, said["result"], said["passed"]) == (0, "Completed", False)
    assert line(said, "Accuracy")["result"] == "Failed"
    assert [entry["event"] for entry in log] == ["loaded", "read", "compared", "Completed"]


def test_the_program_says_why_two_models_could_not_be_compared(trained: Bench) -> None:
    asked = trained.ask("better", "good")
    asked["champion"] = {**asked["champion"], "digest": "sha256:" + "0" * 64}
    code, said, _ = program(trained, asked)
    assert (code, said["reason"]) == (3, "DigestMismatch")
    assert said["message"].startswith("champion: manifest.json is sha256:")
    with pytest.raises(TrainingError) as failed:
        trained.judge("better", "good", data={"uri": "pvc://models/none.csv"})
    assert (failed.value.reason, failed.value.exit_code) == ("DataNotFound", 3)


def test_rows_that_were_held_out_by_their_order_are_found_again(bench: Bench, shipped: Path) -> None:
    header, lines = digits(shipped)
    ordered = [f"{text.strip()},{number}\n" for number, text in enumerate(lines)]
    uri = bench.claim.text("digits.csv", "".join([header.strip() + ",week\n", *reversed(ordered)]))
    document = bench.claim.spec(uri, "digit", "Classification", "GaussianNB", split={"orderColumn": "week"})
    done = bench.claim.train(document)
    bench.documents["late"] = document
    bench.models["late"] = {key: done["model"][key] for key in ("uri", "digest")}
    report = bench.judge("late", "late")
    assert (report["passed"], report["rows"]) == (True, done["data"]["testRows"])
    learned = bench.claim.text("learned.csv", "".join([header, *lines[: -report["rows"]]]))
    assert bench.judge("late", "late", data={"uri": learned})["rows"] == 0
    bench.claim.text("digits.csv", "".join([header.strip() + ",week\n", *ordered[100:]]))
    assert bench.judge("late", "late")["passed"] is False


def own_model(bench: Bench, name: str, uri: str, lines: list[str], **parts: Any) -> None:
    """A bundle as the trainer of somebody's own leaves it: one matrix, no word about rows that were held out."""
    table = np.array([text.strip().split(",") for text in lines], np.float32)
    model = LogisticRegression(C=0.1, max_iter=1000).fit(table[:, :-1], table[:, -1].astype(int))
    folder = bench.claim.root / "own" / name
    folder.mkdir(parents=True)
    made = to_onnx(model, table[:1, :-1], options={"zipmap": False}, target_opset=21)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    for file, content in parts.items():
        (folder / f"{file}.json").write_bytes(manifest.canonical_json(content))
    digest = manifest.write(
        folder,
        name="own",
        framework="own",
        opset=21,
        inputs=[Tensor("X", "FP32", (-1, 64))],
        outputs=[Tensor("label", "INT64", (-1,)), Tensor("probabilities", "FP32", (-1, 10))],
        metrics={"Accuracy": "0.9"},
        lineage={"dataDigest": digest_file(bench.claim.root / uri.removeprefix("pvc://models/")), "target": "digit"}
        | {"task": "Classification", "image": "registry.example.com/trainer@sha256:00", "seed": 0},
    )
    document = {"data": {"uri": uri}, "container": {"image": "registry.example.com/trainer@sha256:00"}, "seed": 0}
    output = {"output": {"uri": "pvc://models/own", "folder": "gate"}, "requirements": []}
    bench.documents[name] = {**document, **output, "target": "digit", "task": "Classification"}
    bench.models[name] = {"uri": f"pvc://models/own/{name}", "digest": digest}


def test_models_of_trainers_of_ones_own_are_compared_on_rows_that_were_not_in_their_data(
    bench: Bench, shipped: Path
) -> None:
    header, lines = digits(shipped)
    uri = bench.claim.text("digits.csv", "".join([header, *lines[:1200]]))
    own_model(bench, "weak", uri, lines[:60])
    own_model(bench, "strong", uri, lines[:1200])
    report = bench.judge("weak", "strong")
    assert (report["passed"], report["rows"]) == (False, 0)
    recent = bench.claim.text("recent.csv", "".join([header, *lines[1100:]]))
    report = bench.judge("weak", "strong", data={"uri": recent})
    assert (report["passed"], report["rows"]) == (True, len(lines) - 1200)
    assert bench.judge("strong", "weak", data={"uri": recent})["passed"] is False
    del bench.documents["strong"]["target"]
    report = bench.judge("weak", "strong", data={"uri": recent})
    assert report["message"].startswith("the template says no target and task")


def test_columns_of_a_matrix_are_those_that_the_profile_names(bench: Bench, shipped: Path) -> None:
    header, lines = digits(shipped)
    uri = bench.claim.text("digits.csv", "".join([header, *lines[:1200]]))
    names = header.strip().split(",")[:-1]
    features = {name: {"kind": "numeric", "input": "X", "column": column} for column, name in enumerate(names)}
    own_model(bench, "named", uri, lines[:1200], profile={"features": features})
    own_model(bench, "unnamed", uri, lines[:1200])
    turned = [",".join([str(number), *reversed(text.strip().split(","))]) + "\n" for number, text in enumerate(lines)]
    columns = ",".join(["id", *reversed(header.strip().split(","))]) + "\n"
    recent = bench.claim.text("recent.csv", "".join([columns, *turned[1200:]]))
    report = bench.judge("named", "named", data={"uri": recent})
    assert (report["passed"], float(line(report, "Accuracy")["champion"]) > 0.8) == (True, True)
    bench.claim.text("digits.csv", "".join([columns, *turned[:1200]]))
    with pytest.raises(TrainingError, match="which columns the input X takes") as failed:
        bench.judge("unnamed", "unnamed", data={"uri": recent})
    assert failed.value.reason == "ModelInvalid"
