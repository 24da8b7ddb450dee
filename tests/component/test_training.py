"""TrainingJobs, and what pods say. The pods find no node here, and the tests speak in their name."""

from __future__ import annotations

import json
from typing import Any

from tests.component.world import DIGEST, UNPLAYED, Json, Operator, Place, until

NOWHERE = {"disk": "none-has-it"}
REPORT = {
    "result": "Completed",
    "model": {
        "uri": "pvc://models/wine/wine-0",
        "digest": DIGEST,
        "estimator": "RandomForestClassifier",
        "sizeBytes": 1000,
    },
    "metrics": [{"name": "Accuracy", "value": "0.972"}],
    "data": {"digest": DIGEST, "rows": 178, "testRows": 36, "columns": 14},
    "findings": [],
    "packages": [{"name": "scikit-learn", "version": "1.9.1"}],
}


def pod_of(place: Place, job: str) -> Json:
    return until(f"Job {job} has a pod", lambda: place.all("Pod", f"batch.kubernetes.io/job-name={job}"))[0]


def bind(place: Place, pod: Json) -> None:
    """Give the pod a node of which nobody plays the kubelet.

    There has to be one: pods of a node that does not exist are garbage within a minute, and pods of this one stay five.
    """
    name = pod["metadata"]["name"]
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}}
    target = {"target": {"kind": "Node", "name": UNPLAYED}}
    place.plane.api.request("POST", place.path("Pod", name, "binding"), {**binding, **target})


def end(place: Place, pod: Json, exit_code: int, message: Any) -> None:
    """Let the pod end, as a kubelet would report it."""
    bind(place, pod)
    name = pod["spec"]["containers"][0]["name"]
    moment = "2026-11-24T01:00:00Z"
    terminated = {
        "exitCode": exit_code,
        "reason": "Completed" if exit_code == 0 else "Error",
        "message": json.dumps(message),
        "startedAt": moment,
        "finishedAt": moment,
    }
    container = {
        "name": name,
        "image": "x",
        "imageID": "registry.example.com/holdfast@sha256:aa",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": terminated},
    }
    phase = "Succeeded" if exit_code == 0 else "Failed"
    status = {"status": {"phase": phase, "containerStatuses": [container]}}
    place.patch("Pod", pod["metadata"]["name"], status, "status")


def test_a_run_becomes_one_job_and_its_report_becomes_the_status_and_a_model(leader: Operator, place: Place) -> None:
    place.model("served", model={"trainingJobRef": {"name": "wine"}})
    place.until_reason("ModelDeployment", "served", "Ready", "TrainingJobNotFound")
    run = place.run("wine", nodeSelector=NOWHERE)
    place.until_reason("ModelDeployment", "served", "Ready", "WaitingForTrainingJob")
    (job,) = until("there is a Job", lambda: place.all("Job"))
    assert job["metadata"]["ownerReferences"][0]["uid"] == run["metadata"]["uid"]
    end(place, pod_of(place, job["metadata"]["name"]), 0, REPORT)
    place.until_reason("TrainingJob", "wine", "Succeeded", "Completed")
    environment = place.deployment("served")["spec"]["template"]["spec"]["containers"][0]["env"]
    found = place.get("TrainingJob", "wine")
    assert found is not None
    assert found["status"]["model"] == REPORT["model"]
    assert found["status"]["metrics"] == REPORT["metrics"]
    assert {"name": "HOLDFAST_MODEL_URI", "value": "pvc://models/wine/wine-0"} in environment
    assert {"name": "HOLDFAST_MODEL_DIGEST", "value": DIGEST} in environment


def test_a_run_that_fails_for_good_says_why_and_is_not_tried_again(leader: Operator, place: Place) -> None:
    place.run("wine", nodeSelector=NOWHERE)
    (job,) = until("there is a Job", lambda: place.all("Job"))
    message = {"reason": "ColumnNotFound", "message": "there is no column quality", "findings": []}
    end(place, pod_of(place, job["metadata"]["name"]), 3, message)
    failed = place.until_reason("TrainingJob", "wine", "Succeeded", "ColumnNotFound")
    assert failed["status"] == "False"
    assert "there is no column quality" in failed["message"]
    assert len(place.all("Job")) == 1


def test_a_suspended_run_has_no_pods_and_goes_on_with_the_same_job(leader: Operator, place: Place) -> None:
    place.run("wine", nodeSelector=NOWHERE)
    (job,) = until("there is a Job", lambda: place.all("Job"))
    pod_of(place, job["metadata"]["name"])
    place.patch("TrainingJob", "wine", {"spec": {"suspend": True}})
    place.until_reason("TrainingJob", "wine", "Succeeded", "Suspended")
    until("its pod is gone", lambda: not place.all("Pod"))
    place.patch("TrainingJob", "wine", {"spec": {"suspend": False}})
    end(place, pod_of(place, job["metadata"]["name"]), 0, REPORT)
    place.until_reason("TrainingJob", "wine", "Succeeded", "Completed")
    (same,) = place.all("Job")
    assert same["metadata"]["uid"] == job["metadata"]["uid"]


def test_a_helper_finds_out_what_a_uri_without_a_digest_is(leader: Operator, place: Place) -> None:
    place.model("wine", model={"uri": "https://models.example.com/wine.onnx"}, serving={"nodeSelector": NOWHERE})
    (job,) = until("there is a helper", lambda: place.all("Job", "holdfast.dev/purpose=resolve"))
    report = {"result": "Resolved", "digest": DIGEST, "sizeBytes": 1, "format": "ONNX"}
    end(place, pod_of(place, job["metadata"]["name"]), 0, report)
    environment = place.deployment("wine")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "HOLDFAST_MODEL_DIGEST", "value": DIGEST} in environment


def test_a_volume_that_cannot_be_mounted_is_told_in_the_kubelets_words(leader: Operator, place: Place) -> None:
    place.model("wine", serving={"nodeSelector": NOWHERE})
    pod = until("there is a pod", lambda: place.all("Pod"))[0]
    bind(place, pod)
    about = {
        "kind": "Pod",
        "namespace": place.namespace,
        "name": pod["metadata"]["name"],
        "uid": pod["metadata"]["uid"],
    }
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "hangs"}, "involvedObject": about}
    words = {"type": "Warning", "reason": "FailedMount", "message": "volume is in use elsewhere"}
    place.create({**event, **words, "lastTimestamp": "2026-11-24T01:00:00Z"})
    told = place.until_reason("ModelDeployment", "wine", "Ready", "Unschedulable")
    assert "volume is in use elsewhere" in told["message"]


def test_a_claim_that_is_not_there_is_named(leader: Operator, place: Place) -> None:
    place.model("wine", model={"uri": "pvc://missing/wine", "digest": DIGEST})
    told = place.until_reason("ModelDeployment", "wine", "Ready", "ClaimNotFound")
    assert "PersistentVolumeClaim missing does not exist" in told["message"]
