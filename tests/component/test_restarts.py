"""What an operator finds that was not there to see it happen."""

from __future__ import annotations

from tests.component.test_training import NOWHERE, REPORT, end, pod_of
from tests.component.world import Json, Place, mutations, operator, stop, until

from holdfast.build import names
from holdfast_devcluster import ControlPlane


def test_a_report_that_is_lost_with_its_pod_is_asked_for_again(plane: ControlPlane, place: Place) -> None:
    with operator(plane, "lost-report-before") as before:
        before.until_idle()
        place.run("wine", nodeSelector=NOWHERE)
        (job,) = until("there is a Job", lambda: place.all("Job"))
        name = job["metadata"]["name"]
        pod = pod_of(place, name)
        before.until_idle()
        stop(before)
    end(place, pod, 0, REPORT)
    until("the Job is complete", lambda: (place.get("Job", name) or {}).get("status", {}).get("succeeded"))
    place.delete("Pod", pod["metadata"]["name"], gracePeriodSeconds=0)
    until("the pod is gone", lambda: not place.all("Pod"))
    with operator(plane, "lost-report-after") as after:

        def another() -> Json | None:
            found = place.get("Job", name)
            return found if found and found["metadata"]["uid"] != job["metadata"]["uid"] else None

        until("the Job is made again", another)
        end(place, pod_of(place, name), 0, REPORT)
        place.until_reason("TrainingJob", "wine", "Succeeded", "Completed")
        stop(after)


def test_a_job_of_somebody_else_under_a_runs_name_is_never_touched(plane: ControlPlane, place: Place) -> None:
    uid = place.run("wine")["metadata"]["uid"]
    name = names.training_job("wine", uid)
    container = {"name": "x", "image": "x"}
    template = {"spec": {"restartPolicy": "Never", "nodeSelector": NOWHERE, "containers": [container]}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template}}
    place.create(job)
    with operator(plane, "foreign-job") as running:
        stalled = place.until_reason("TrainingJob", "wine", "Stalled", "NameConflict")
        assert f"Job {name} exists and belongs to nobody" in stalled["message"]
        found = place.get("Job", name)
        assert found is not None
        assert "ownerReferences" not in found["metadata"]
        stop(running)


def test_an_orphaned_job_is_adopted_and_not_run_again(plane: ControlPlane, place: Place) -> None:
    with operator(plane, "orphan-before") as before:
        uid = place.run("wine", nodeSelector=NOWHERE)["metadata"]["uid"]
        (job,) = until("there is a Job", lambda: place.all("Job"))
        before.until_idle()
        stop(before)
    place.patch("Job", job["metadata"]["name"], {"metadata": {"ownerReferences": None}})
    with operator(plane, "orphan-after") as after:

        def adopted() -> bool:
            (found,) = place.all("Job")
            return [reference["uid"] for reference in found["metadata"].get("ownerReferences", [])] == [uid]

        until("the Job is adopted", adopted)
        stop(after)
    (found,) = place.all("Job")
    assert found["metadata"]["uid"] == job["metadata"]["uid"]


def test_a_restart_writes_nothing(plane: ControlPlane, place: Place) -> None:
    number = 5
    with operator(plane, "restart-before") as before:
        for index in range(number):
            place.model(f"wine-{index}", serving={"replicas": 2})
        for index in range(number):
            place.until_ready(f"wine-{index}")
        until("the budgets are there", lambda: len(place.all("PodDisruptionBudget")) == number)
        before.until_idle()
        stop(before)
    with operator(plane, "restart-after") as after:
        after.until_idle()
        assert after.metric("holdfast_reconcile_seconds_count", kind="ModelDeployment") >= number
        wrote = [event for event in mutations(plane, after.name) if event["objectRef"]["namespace"] == place.namespace]
        assert wrote == []
        stop(after)
