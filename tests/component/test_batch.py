"""BatchInferences on a real API server with a real Job controller. The tests speak in the name of the pods."""

from __future__ import annotations

import json
from typing import Any

from tests.component.test_training import NOWHERE, end
from tests.component.world import DIGEST, Json, Operator, Place, until

REPORT = {
    "result": "Completed",
    "message": "",
    "model": {"uri": "https://models.example.com/wine.onnx", "digest": DIGEST},
    "outputURI": "pvc://lake/scored/wine-0",
    "rowsRead": 1250,
    "rowsWritten": 1250,
    "rowsBad": 0,
    "shards": 8,
    "drift": {"rows": 1250, "referenceRows": 400, "features": [{"name": "ash", "psiPerMille": 412, "bins": 11}]},
}


def batch(place: Place, name: str, **spec: Any) -> Json:
    """Create a BatchInference of two pods, for which there is no node."""
    minimal = {
        "model": {"uri": "https://models.example.com/wine.onnx", "digest": DIGEST},
        "input": {"uri": "pvc://lake/wine/"},
        "output": {"uri": "pvc://lake/scored"},
        "parallelism": 2,
        "nodeSelector": NOWHERE,
    }
    return place.create(
        {
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "BatchInference",
            "metadata": {"name": name},
            "spec": {**minimal, **spec},
        }
    )


def pods_of(place: Place, name: str, number: int) -> list[Json]:
    """Those that have not ended, by index."""

    def found() -> list[Json] | None:
        pods = [
            pod
            for pod in place.all("Pod", f"holdfast.dev/batch-inference={name}")
            if pod["status"].get("phase") == "Pending" and "deletionTimestamp" not in pod["metadata"]
        ]
        return pods if len(pods) == number else None

    pods = until(f"{number} pods of {name} wait", found)
    return sorted(pods, key=lambda pod: pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])


def test_a_run_is_one_indexed_job_with_the_model_of_the_moment_and_its_report_becomes_the_status(
    leader: Operator, place: Place
) -> None:
    batch(place, "wine", model={"modelDeploymentRef": {"name": "served"}})
    waits = place.until_reason("BatchInference", "wine", "Succeeded", "ModelNotReady")
    assert "ModelDeployment served does not exist" in waits["message"]
    place.model("served")
    revision = place.until_ready("served")["status"]["stableRevision"]
    first, second = pods_of(place, "wine", 2)
    told = json.loads(first["spec"]["containers"][0]["env"][0]["value"])
    assert told["model"] == {"uri": "https://models.example.com/wine.onnx", "digest": DIGEST}
    assert (told["pods"], told["shards"]) == (2, 8)
    assert first["spec"]["automountServiceAccountToken"] is False
    end(place, second, 0, {"result": "Partial"})
    end(place, first, 0, REPORT)
    place.until_reason("BatchInference", "wine", "Succeeded", "Completed")
    found = place.get("BatchInference", "wine")
    assert found is not None
    status = found["status"]
    assert status["model"] == {**REPORT["model"], "revision": revision}  # type: ignore[dict-item]
    assert (status["rowsWritten"], status["shardsSucceeded"]) == (1250, 8)
    assert status["outputURI"] == REPORT["outputURI"]
    assert status["drift"]["features"][0]["name"] == "ash"
    (job,) = place.all("Job", "holdfast.dev/batch-inference=wine")
    until("its Job may expire", lambda: _job(place, "wine")["spec"].get("ttlSecondsAfterFinished") == 604800)
    assert job["spec"]["completionMode"] == "Indexed"


def test_a_pod_that_fails_for_good_ends_the_run_at_once_and_says_why(leader: Operator, place: Place) -> None:
    batch(place, "bad")
    first, _ = pods_of(place, "bad", 2)
    end(place, first, 3, {"reason": "TooManyBadRows", "message": "3 of 100 rows cannot be read", "findings": []})
    failed = place.until_reason("BatchInference", "bad", "Succeeded", "TooManyBadRows")
    assert failed["status"] == "False"
    assert "3 of 100 rows" in failed["message"]


def test_a_pod_that_fails_in_passing_is_tried_again_with_its_own_index_alone(leader: Operator, place: Place) -> None:
    batch(place, "again", backoffLimit=1)
    first, second = pods_of(place, "again", 2)
    end(place, first, 1, {"reason": "InputUnreachable", "message": "timeout", "findings": []})
    one, other = pods_of(place, "again", 2)
    assert other["metadata"]["uid"] == second["metadata"]["uid"]
    assert one["metadata"]["uid"] != first["metadata"]["uid"]
    end(place, one, 1, {"reason": "InputUnreachable", "message": "timeout", "findings": []})
    failed = place.until_reason("BatchInference", "again", "Succeeded", "InputUnreachable")
    assert failed["status"] == "False"


def test_a_suspended_run_has_no_pods_and_goes_on_with_the_same_job(leader: Operator, place: Place) -> None:
    batch(place, "paused")
    pods_of(place, "paused", 2)
    uid = _job(place, "paused")["metadata"]["uid"]
    place.patch("BatchInference", "paused", {"spec": {"suspend": True}})
    place.until_reason("BatchInference", "paused", "Succeeded", "Suspended")
    until("there are no pods", lambda: not place.all("Pod", "holdfast.dev/batch-inference=paused"))
    place.patch("BatchInference", "paused", {"spec": {"suspend": False}})
    pods_of(place, "paused", 2)
    assert _job(place, "paused")["metadata"]["uid"] == uid


def test_a_report_that_was_lost_with_its_pods_is_asked_for_again(leader: Operator, place: Place) -> None:
    batch(place, "lost", parallelism=1)
    (pod,) = pods_of(place, "lost", 1)
    uid = _job(place, "lost")["metadata"]["uid"]
    end(place, pod, 0, {"result": "Partial"})
    until("there is another Job", lambda: _job(place, "lost")["metadata"]["uid"] != uid)
    (pod,) = pods_of(place, "lost", 1)
    end(place, pod, 0, {**REPORT, "shards": 4})
    place.until_reason("BatchInference", "lost", "Succeeded", "Completed")


def _job(place: Place, name: str) -> Json:
    return until(f"{name} has a Job", lambda: place.all("Job", f"holdfast.dev/batch-inference={name}"))[0]
