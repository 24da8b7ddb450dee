"""What an operator finds that was not there to see it happen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.component.test_training import NOWHERE, REPORT, end, pod_of
from tests.component.world import Json, Operator, Place, mutations, new_place, operator, stop, until

from holdfast.build import names
from holdfast_devcluster import ControlPlane

SETTLED = 5


@dataclass(frozen=True)
class Restarted:
    """An operator that has come after another one, and what had happened between the two."""

    after: Operator
    settled: Place
    """Models that served and were left alone."""
    lost: Place
    """A run that ended, whose pod is gone."""
    lost_job: Json
    orphaned: Place
    """A run whose Job lost its owner."""
    orphaned_job: Json
    foreign: Place
    """A run whose Job's name was taken meanwhile."""
    foreign_job: str
    expired: Place
    """A run that ended well, and whose Job expired."""
    unread: Place
    """A run that ended while nobody looked, and whose Job may expire at once."""


@pytest.fixture(scope="module")
def restarted(plane: ControlPlane) -> Iterator[Restarted]:
    named = ("settled", "lost", "orphaned", "foreign", "expired", "unread")
    settled, lost, orphaned, foreign, expired, unread = (new_place(plane, f"restarts-{name}") for name in named)
    with operator(plane, "before") as before:
        for index in range(SETTLED):
            settled.model(f"wine-{index}", serving={"replicas": 2})
        for place in (lost, orphaned):
            place.run("wine", nodeSelector=NOWHERE)
        for place in (expired, unread):
            place.run("wine", nodeSelector=NOWHERE, ttlSecondsAfterFinished=0)
        for index in range(SETTLED):
            settled.until_ready(f"wine-{index}")
        until("the budgets are there", lambda: len(settled.all("PodDisruptionBudget")) == SETTLED)
        (lost_job,) = until("there is a Job", lambda: lost.all("Job"))
        (orphaned_job,) = until("there is a Job", lambda: orphaned.all("Job"))
        pod = pod_of(lost, lost_job["metadata"]["name"])
        (expired_job,) = until("there is a Job", lambda: expired.all("Job"))
        end(expired, pod_of(expired, expired_job["metadata"]["name"]), 0, REPORT)
        until("the Job has expired", lambda: not expired.all("Job"))
        (unread_job,) = until("there is a Job", lambda: unread.all("Job"))
        unread_pod = pod_of(unread, unread_job["metadata"]["name"])
        before.until_idle()
        stop(before)
    end(lost, pod, 0, REPORT)
    end(unread, unread_pod, 0, REPORT)
    name = lost_job["metadata"]["name"]
    until("the Job is complete", lambda: (lost.get("Job", name) or {}).get("status", {}).get("succeeded"))
    lost.delete("Pod", pod["metadata"]["name"], gracePeriodSeconds=0)
    until("the pod is gone", lambda: not lost.all("Pod"))
    orphaned.patch("Job", orphaned_job["metadata"]["name"], {"metadata": {"ownerReferences": None}})
    foreign_job = names.training_job("wine", foreign.run("wine")["metadata"]["uid"])
    template = {
        "spec": {"restartPolicy": "Never", "nodeSelector": NOWHERE, "containers": [{"name": "x", "image": "x"}]}
    }
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": foreign_job}, "spec": {"template": template}}
    foreign.create(job)
    with operator(plane, "after") as after:
        after.until_idle()
        yield Restarted(after, settled, lost, lost_job, orphaned, orphaned_job, foreign, foreign_job, expired, unread)
        stop(after)


def test_what_had_settled_is_looked_at_and_not_written(restarted: Restarted, plane: ControlPlane) -> None:
    assert restarted.after.metric("holdfast_reconcile_seconds_count", kind="ModelDeployment") >= SETTLED
    namespace = restarted.settled.namespace
    assert [event for event in mutations(plane, "after") if event["objectRef"]["namespace"] == namespace] == []


def test_a_report_that_is_lost_with_its_pod_is_asked_for_again(restarted: Restarted) -> None:
    place, before = restarted.lost, restarted.lost_job["metadata"]

    def another() -> Json | None:
        found = place.get("Job", before["name"])
        return found if found and found["metadata"]["uid"] != before["uid"] else None

    until("the Job is made again", another)
    end(place, pod_of(place, before["name"]), 0, REPORT)
    place.until_reason("TrainingJob", "wine", "Succeeded", "Completed")


def test_a_run_whose_job_has_expired_never_runs_again(restarted: Restarted) -> None:
    place = restarted.expired
    restarted.after.until_idle()
    assert place.condition("TrainingJob", "wine", "Succeeded")["reason"] == "Completed"
    assert place.all("Job") == []


def test_a_job_that_may_expire_at_once_does_so_when_its_report_has_been_read(restarted: Restarted) -> None:
    place = restarted.unread
    place.until_reason("TrainingJob", "wine", "Succeeded", "Completed")
    until("the Job has expired", lambda: not place.all("Job"))
    restarted.after.until_idle()
    found = place.get("TrainingJob", "wine")
    assert found is not None
    assert found["status"]["model"] == REPORT["model"]
    assert place.all("Job") == []


def test_an_orphaned_job_is_adopted_and_not_run_again(restarted: Restarted) -> None:
    place = restarted.orphaned
    run = place.get("TrainingJob", "wine")
    assert run is not None

    def owners() -> list[str]:
        (found,) = place.all("Job")
        assert found["metadata"]["uid"] == restarted.orphaned_job["metadata"]["uid"]
        return [reference["uid"] for reference in found["metadata"].get("ownerReferences", [])]

    until("the Job is adopted", lambda: owners() == [run["metadata"]["uid"]])


def test_a_job_of_somebody_else_under_a_runs_name_is_never_touched(restarted: Restarted) -> None:
    place, name = restarted.foreign, restarted.foreign_job
    stalled = place.until_reason("TrainingJob", "wine", "Stalled", "NameConflict")
    assert f"Job {name} exists and belongs to nobody" in stalled["message"]
    found = place.get("Job", name)
    assert found is not None
    assert "ownerReferences" not in found["metadata"]
    assert "holdfast.dev/training-job" not in found["metadata"].get("labels", {})
