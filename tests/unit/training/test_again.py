"""verify-run: a run is done again from what its bundle seals, and a difference is told in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast_bundle import manifest
from holdfast_training import provenance
from holdfast_training.again import verify_run
from holdfast_training.errors import TrainingError

PROGRAM = """
import sys
from pathlib import Path
from holdfast_training.__main__ import main
sys.exit(main(sys.argv[2:], claims=Path(sys.argv[1]), progress_port=0))
"""


@pytest.fixture
def document(claim: Any, mixed: Any) -> dict[str, Any]:
    header, rows = mixed("wine")
    features = {"numeric": [header[0], header[2], header[4]], "categorical": [header[1]]}
    made: dict[str, Any] = claim.spec(
        claim.rows("data.csv", header, rows),
        "cultivar",
        "Classification",
        "DecisionTreeClassifier",
        parameters={"max_depth": "3"},
        features=features,
        preprocessing={"encodeCategorical": "Ordinal"},
        split={"testPercent": 30},
        calibration="Sigmoid",
        seed=5,
    )
    return made


def again(claim: Any, report: dict[str, Any], tmp_path: Path, **options: Any) -> dict[str, Any]:
    return verify_run(report["model"]["uri"], scratch=tmp_path, claims=claim.claims, **options)


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def refusal(claim: Any, report: dict[str, Any], scratch: Path, *arguments: str) -> TrainingError:
    with pytest.raises(TrainingError) as caught:
        verify_run(report["model"]["uri"], *arguments, scratch=scratch, claims=claim.claims)
    return caught.value


def test_the_program_finds_a_run_the_same_wherever_its_data_are_now(
    claim: Any, document: dict[str, Any], scratch: Path
) -> None:
    document["image"] = "registry.example.com/trainer:1"
    report = claim.train(document)
    (claim.root / "data.csv").rename(claim.root / "moved.csv")
    error = refusal(claim, report, scratch)
    assert (error.exit_code, error.reason) == (3, "DataNotFound")
    command = [sys.executable, "-c", PROGRAM, str(claim.claims), "verify-run", report["model"]["uri"]]
    command += ["--data", "pvc://models/moved.csv"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "Same"
    assert manifest.read(claim.last).lineage["code"]["image"] == "registry.example.com/trainer:1"


def test_a_search_is_repeated_and_its_outcome_compared(claim: Any, document: dict[str, Any], scratch: Path) -> None:
    search = [{"parameter": "max_depth", "low": "1", "high": "4"}]
    document["estimators"] = [{"name": "DecisionTreeClassifier", "search": search}, {"name": "GaussianNB"}]
    document["tuning"] = {"trials": 4, "folds": 3}
    report = claim.train(document)
    log: list[str] = []
    said = again(claim, report, scratch, log=lambda event, **facts: log.append(event))
    assert (said["result"], said["digest"]) == ("Same", report["model"]["digest"])
    assert log.count("trial") == 4


def test_other_packages_another_trainer_and_what_they_led_to_are_told(
    claim: Any, document: dict[str, Any], scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        known = provenance.packages()
        patch.setattr(provenance, "packages", lambda **_: {**known, "numpy": "1.0"})
        patch.setattr(provenance, "_sources", lambda: "0" * 64)
        report = claim.train(document)
    with pytest.raises(TrainingError) as caught:
        again(claim, report, scratch)
    assert (caught.value.reason, caught.value.exit_code) == ("DigestMismatch", 3)
    told = [finding.message for finding in caught.value.findings]
    assert told[:2] == [
        f"package numpy was 1.0 and is {known['numpy']}",
        f"the trainer's source was sha256:{'0' * 64} and is {provenance.code('')['source']}",
    ]
    assert "model.onnx is another file" not in told


def test_a_manifest_that_claims_another_recipe_or_other_data_is_found_out(
    claim: Any, document: dict[str, Any], scratch: Path
) -> None:
    report = claim.train(document)
    path = claim.last / "manifest.json"
    sealed = json.loads(path.read_bytes())
    sealed["lineage"]["parameters"]["max_depth"] = "1"
    path.write_bytes(manifest.canonical_json(sealed))
    told = [finding.message for finding in refusal(claim, report, scratch / "one").findings]
    assert "model.onnx is another file" in told
    assert any(words.startswith("metric ") for words in told)
    with open(claim.root / "data.csv", "a", encoding="utf-8") as file:
        file.write("\n")
    assert refusal(claim, report, scratch / "two").reason == "ChecksumMismatch"


def test_a_bundle_that_does_not_say_how_it_was_made_is_refused(
    claim: Any, document: dict[str, Any], scratch: Path
) -> None:
    report = claim.train(document)
    path = claim.last / "manifest.json"
    sealed = json.loads(path.read_bytes())
    sealed["lineage"] = {"dataDigest": sealed["lineage"]["dataDigest"]}
    path.write_bytes(manifest.canonical_json(sealed))
    error = refusal(claim, report, scratch, "pvc://models/data.csv")
    assert error.reason == "ModelInvalid"
    assert "does not say how it was made" in error.message
