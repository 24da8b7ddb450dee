"""The loop on a real API server. The pods of runs and helpers find no node, and the tests speak in their name."""

from __future__ import annotations

from typing import Any

from tests.component.test_training import NOWHERE, REPORT, end, pod_of
from tests.component.world import DIGEST, Json, Operator, Place, until

from holdfast.build import labels, names

CHALLENGER = "sha256:" + "c" * 64
ROW = {"name": "Accuracy", "champion": "0.941", "challenger": "0.968", "limit": "0.931", "result": "Passed"}
PASSED = {"result": "Completed", "passed": True, "message": "Accuracy 0.968 against 0.941", "rows": 400, "gate": [ROW]}
TEMPLATE = {
    "data": {"uri": "https://data.example.com/wine.csv"},
    "target": "quality",
    "task": "Classification",
    "estimators": [{"name": "RandomForestClassifier"}],
    "output": {"uri": "pvc://models/wine"},
    "nodeSelector": NOWHERE,
}


def reported(name: str, digest: str, version: str) -> Json:
    model = {**REPORT["model"], "uri": f"https://models.example.com/{name}", "digest": digest}
    return {**REPORT, "model": model, "data": {**REPORT["data"], "version": "sha256:" + version * 64}}


def make(place: Place, **retraining: Any) -> Json:
    return place.create(
        {
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "wine"},
            "spec": {"retraining": {"template": {"spec": TEMPLATE}, **retraining}},
        }
    )


def trained(place: Place, trigger: str, digest: str, version: str) -> Json:
    """The run for that trigger, once its pod has ended well."""
    (run,) = until(f"a run is there ({trigger})", lambda: place.all("TrainingJob", f"holdfast.dev/trigger={trigger}"))
    name = run["metadata"]["name"]
    (job,) = until("it has a Job", lambda: place.all("Job", f"holdfast.dev/training-job={name}"))
    end(place, pod_of(place, job["metadata"]["name"]), 0, reported(name, digest, version))
    place.until_reason("TrainingJob", name, "Succeeded", "Completed")
    return run


def helper(place: Place, purpose: str) -> Json:
    (job,) = until(f"there is a helper ({purpose})", lambda: place.all("Job", f"holdfast.dev/purpose={purpose}"))
    return job


def retrain(place: Place, text: str) -> None:
    place.patch("ModelDeployment", "wine", {"metadata": {"annotations": {labels.RETRAIN: text}}})


def serving(place: Place) -> None:
    make(place)
    place.until_reason("ModelDeployment", "wine", "Ready", "Training")
    trained(place, "Initial", DIGEST, "1")
    place.until_ready("wine")


def test_one_object_trains_serves_compares_and_takes_over(leader: Operator, place: Place) -> None:
    serving(place)
    retrain(place, "monday")
    run = trained(place, "Manual", CHALLENGER, "1")
    assert run["metadata"]["ownerReferences"][0]["kind"] == "ModelDeployment"
    assert run["spec"]["split"]["method"] == "RowDigest"
    job = helper(place, "gate")
    spec = job["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    end(place, pod_of(place, job["metadata"]["name"]), 0, PASSED)

    def takes_over() -> Json | None:
        status = (place.get("ModelDeployment", "wine") or {})["status"]
        assert next(c for c in status["conditions"] if c["type"] == "Ready")["status"] == "True"
        return status if status["model"]["digest"] == CHALLENGER else None

    status = until("the challenger serves", takes_over)
    assert status["model"]["source"] == "Retraining"
    assert status["retraining"]["gate"] == [ROW]
    assert status["lastHandledRetrain"] == "monday"
    place.until_reason("ModelDeployment", "wine", "Retraining", "Idle")
    assert len(place.all("TrainingJob")) == 2
    told = [(each["action"], each["reason"]) for each in status["decisions"]]
    assert ("TrainingStarted", "Manual") in told
    assert ("GatePassed", "GatePassed") in told


def test_data_of_another_version_than_the_last_run_learned_from_start_a_run(leader: Operator, place: Place) -> None:
    serving(place)
    triggers = {"newData": {"pollSeconds": 60}}
    place.patch("ModelDeployment", "wine", {"spec": {"retraining": {"triggers": triggers}}})
    job = helper(place, "poll")
    report = {"result": "Completed", "version": "sha256:" + "2" * 64, "files": 1}
    end(place, pod_of(place, job["metadata"]["name"]), 0, report)
    (run,) = until("new data start a run", lambda: place.all("TrainingJob", "holdfast.dev/trigger=NewData"))
    condition = place.until_reason("ModelDeployment", "wine", "Retraining", "Training")
    assert run["metadata"]["name"] in condition["message"]


def test_a_run_whose_name_is_taken_is_said_and_nobody_elses_is_touched(leader: Operator, place: Place) -> None:
    serving(place)
    uid = (place.get("ModelDeployment", "wine") or {})["metadata"]["uid"]
    taken = names.made_training("wine", uid, "Manual", "monday", 0)
    before = place.run(taken, nodeSelector=NOWHERE)
    retrain(place, "monday")
    place.until_reason("ModelDeployment", "wine", "Retraining", "NameConflict")
    after = place.get("TrainingJob", taken)
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    place.delete("TrainingJob", taken)
    until("the run is there", lambda: place.all("TrainingJob", "holdfast.dev/trigger=Manual"))


def test_what_a_model_deployment_made_goes_with_it(leader: Operator, place: Place) -> None:
    serving(place)
    place.delete("ModelDeployment", "wine")
    until("its runs are gone", lambda: not place.all("TrainingJob"))
