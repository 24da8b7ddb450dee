"""Runs that a real MLflow server is told of, and what becomes of a run when it cannot be told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.unit.bundle import loopback
from tests.unit.bundle.loopback import LOOPBACK
from tests.unit.stores import servers
from tests.unit.training.mlflow_server import WEB, asked, mlflow

from holdfast_bundle import manifest, verify
from holdfast_bundle.credentials import NOBODY as NO_CREDENTIALS
from holdfast_bundle.credentials import Credentials
from holdfast_serving.resolve import resolve
from holdfast_serving.settings import Settings
from holdfast_training import own, spec, tracking
from holdfast_training.access import NOBODY, Access
from holdfast_training.output import output_at

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


@pytest.fixture
def document(claim: Any, shipped: Path) -> dict[str, Any]:
    uri = claim.text("wine.csv", (shipped / "wine.csv").read_bytes())
    made: dict[str, Any] = claim.spec(
        uri, "cultivar", "Classification", "DecisionTreeClassifier", parameters={"max_depth": "3"}, seed=7
    )
    return made


def pairs(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {entry["key"]: entry["value"] for entry in entries}


def test_a_server_gets_run_parameters_metrics_lineage_card_and_a_version_with_an_alias(
    claim: Any, document: dict[str, Any], server: str
) -> None:
    document["tracking"] = {"uri": server, "experiment": "wines", "registeredModel": "wine", "alias": "champion"}
    report = claim.train(document, web=WEB)
    assert [finding["rule"] for finding in report["findings"]] == []
    uri, digest = report["model"]["uri"], report["model"]["digest"]

    run = asked(server, "runs/get", run_id=report["tracking"]["runId"])["run"]
    assert (run["info"]["status"], run["info"]["run_name"]) == ("FINISHED", document["output"]["folder"])
    experiment = asked(server, "experiments/get", experiment_id=run["info"]["experiment_id"])["experiment"]
    assert experiment["name"] == "wines"
    told = pairs(run["data"]["params"])
    assert (told["estimator"], told["parameters.max_depth"], told["seed"]) == ("DecisionTreeClassifier", "3", "7")
    assert pairs(run["data"]["metrics"]) == {m["name"]: float(m["value"]) for m in report["metrics"]}
    tags = pairs(run["data"]["tags"])
    assert (tags["holdfast.bundle.uri"], tags["holdfast.bundle.digest"]) == (uri, digest)
    assert (tags["holdfast.data.uri"], tags["holdfast.data.digest"]) == (
        document["data"]["uri"],
        report["data"]["digest"],
    )
    assert json.loads(tags["holdfast.packages"]) == {p["name"]: p["version"] for p in report["packages"]}
    assert "# out" in tags["mlflow.note.content"]
    data = run["inputs"]["dataset_inputs"][0]["dataset"]
    assert report["data"]["digest"].removeprefix("sha256:").startswith(data["digest"])

    kept = httpx.get(f"{server}/get-artifact", params={"run_id": report["tracking"]["runId"], "path": "manifest.json"})
    assert kept.content == (claim.last / manifest.MANIFEST).read_bytes()
    found = asked(server, "registered-models/alias", name="wine", alias="champion")["model_version"]
    assert (found["version"], found["source"]) == (report["tracking"]["modelVersion"], uri)
    assert pairs(found["tags"])["holdfast.bundle.digest"] == digest
    assert "DecisionTreeClassifier" in found["description"]


def test_a_run_that_is_reported_again_is_the_same_run_and_version(
    claim: Any, document: dict[str, Any], server: str
) -> None:
    document["tracking"] = {"uri": server, "registeredModel": "again"}
    first = claim.train(document, web=WEB)
    assert claim.train(document, web=WEB)["tracking"] == first["tracking"]
    document["output"]["folder"] = "another"
    other = claim.train(document, web=WEB)["tracking"]
    assert other["runId"] != first["tracking"]["runId"]
    assert (first["tracking"]["modelVersion"], other["modelVersion"]) == ("1", "2")


def test_what_a_trainer_of_ones_own_made_is_told_too(
    claim: Any, document: dict[str, Any], server: str, tmp_path: Path
) -> None:
    claim.train(document)
    left, read = tmp_path / "left", tmp_path / "read"
    left.mkdir()
    read.mkdir()
    (left / "model.onnx").write_bytes((claim.last / "model.onnx").read_bytes())
    (left / "metrics.json").write_text('{"Accuracy": 0.9, "recall@5": 0.5}')
    told = {
        "data": {"uri": document["data"]["uri"]},
        "container": {"image": "registry.example.com/trainer:1"},
        "seed": 7,
        "requirements": [],
        "output": {"uri": "pvc://models/out", "folder": "own"},
        "tracking": {"uri": server, "registeredModel": "own"},
    }
    run = own.parse(json.dumps(told))
    own.fetch(run, read, claims=claim.claims)
    output = output_at(run.output_uri, run.output_folder, claims=claim.claims)
    report = own.publish(run, output, input_folder=read, folder=left, claims=claim.claims, web=WEB)
    made = asked(server, "runs/get", run_id=report["tracking"]["runId"])["run"]["data"]
    assert pairs(made["metrics"]) == {"Accuracy": 0.9, "recall_5": 0.5}
    assert pairs(made["tags"])["holdfast.image"] == "registry.example.com/trainer:1"


def test_the_alias_points_to_a_challenger_once_it_has_passed_its_gate(
    claim: Any, document: dict[str, Any], server: str
) -> None:
    told = {"uri": server, "registeredModel": "gated"}
    document["tracking"] = told
    version = claim.train(document, web=WEB)["tracking"]["modelVersion"]
    gate = spec.tracking_of({"tracking": {**told, "alias": "champion", "modelVersion": version}})

    def aliases() -> list[dict[str, Any]]:
        model = asked(server, "registered-models/get", name="gated")["registered_model"]
        return list(model.get("aliases", ()))

    failed = {"passed": False, "message": "worse"}
    assert tracking.named(gate, failed, access=NOBODY, web=WEB) == failed
    assert aliases() == []
    passed = {"passed": True, "message": "as good"}
    assert tracking.named(gate, passed, access=NOBODY, web=WEB) == passed
    assert aliases() == [{"alias": "champion", "version": version}]
    assert gate is not None
    said = tracking.named(replace(gate, model_version="99"), passed, access=NOBODY, web=WEB)
    assert said["passed"]
    assert "could not be told that alias champion" in said["message"]


def test_a_registered_model_is_found_by_alias_and_version_for_a_server(
    claim: Any, document: dict[str, Any], server: str, tmp_path: Path
) -> None:
    document["tracking"] = {"uri": server, "registeredModel": "served", "alias": "champion"}
    report = claim.train(document, web=WEB)
    servers.secret(tmp_path / "secret", MLFLOW_TRACKING_URI=server)
    mlflow = Credentials("mlflow", tmp_path / "secret")
    (tmp_path / "work").mkdir()

    def resolved(uri: str, credentials: Credentials = mlflow) -> tuple[int, dict[str, Any]]:
        return resolve(Settings(model_uri=uri, credentials=credentials, scratch=tmp_path / "work"), WEB)

    found = {name: report["model"][name] for name in ("uri", "digest")}
    for uri in ("models:/served@champion", "models:/served/1"):
        assert resolved(uri) == (0, {"result": "Resolved", **found})
    code, said = resolved("models:/served@nobody")
    assert (code, said["reason"]) == (1, "ModelNotFound")
    assert resolved("models:/served@champion", NO_CREDENTIALS)[1]["reason"] == "SecretNotFound"

    made = {"name": "served", "source": "pvc://models/untold"}
    assert httpx.post(f"{server}/api/2.0/mlflow/model-versions/create", json=made, timeout=120).status_code == 200
    code, said = resolved("models:/served/2")
    assert (code, said["reason"]) == (3, "ModelInvalid")
    assert "no tag holdfast.bundle.digest" in said["message"]


def test_a_registered_model_on_a_web_server_is_refused_before_that_is_asked(tmp_path: Path) -> None:
    with loopback.serve() as origin:
        servers.secret(tmp_path / "secret", MLFLOW_TRACKING_URI=origin.url("/below"), token="canary")
        version = {"model_version": {"name": "wine", "version": "3", "source": origin.url("/wine")}}
        page = "/below/api/2.0/mlflow/model-versions/get?name=wine&version=3"
        origin.pages[page] = loopback.answer(json.dumps(version).encode())
        settings = Settings(
            model_uri="models:/wine/3", credentials=Credentials("mlflow", tmp_path / "secret"), scratch=tmp_path
        )
        code, said = resolve(settings, LOOPBACK)
    assert (code, said["reason"]) == (3, "ModelInvalid")
    assert "is on a web server" in said["message"]
    assert [request.split()[1].decode() for request in origin.seen] == [page]
    assert b"Authorization: Bearer canary" in origin.seen[0]


def test_a_refusal_of_the_server_is_a_finding_and_the_model_is_published(claim: Any, document: dict[str, Any]) -> None:
    with loopback.serve() as origin:
        document["tracking"] = {"uri": origin.url(""), "secretRef": {"name": "mlflow"}}
        servers.secret(claim.claims / "secrets/tracking", username="canary", password="hidden")
        code = b'{"error_code": "RESOURCE_EXHAUSTED", "message": "words of a stranger"}'
        origin.pages["/api/2.0/mlflow/experiments/get-by-name?experiment_name=out"] = loopback.answer(
            code, "400 Bad Request"
        )
        report = claim.train(document, web=LOOPBACK, access=Access(secrets=claim.claims / "secrets"))
        assert b"Authorization: Basic" in origin.seen[0]
    assert verify.verify(claim.last, report["model"]["digest"])
    assert "tracking" not in report
    (finding,) = report["findings"]
    assert finding["rule"] == "NotTracked"
    assert "RESOURCE_EXHAUSTED" in finding["message"]
    assert "stranger" not in finding["message"]


def test_a_server_that_is_away_or_a_secret_that_is_missing_loses_no_model(
    claim: Any, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast_training.tracking._PAUSES_SECONDS", (0.0,))
    document["tracking"] = {"uri": f"http://127.0.0.1:{servers.free_port()}"}
    report = claim.train(document, web=LOOPBACK)
    assert verify.verify(claim.last, report["model"]["digest"])
    assert [finding["rule"] for finding in report["findings"]] == ["NotTracked"]
    assert "cannot connect" in report["findings"][0]["message"]
    document["tracking"]["secretRef"] = {"name": "mlflow"}
    found = claim.train(document, web=LOOPBACK, access=Access(secrets=claim.claims / "none"))
    assert "Secret mlflow does not exist" in found["findings"][0]["message"]
    assert found["model"] == report["model"]
