"""TrainingJob: what is done and what is said, story by story."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.plan import worlds
from tests.unit.plan.world import World

from holdfast.api.trainingjob import TrainingJobReason as Reason
from holdfast.api.trainingjob import TrainingJobStatus
from holdfast.plan.trainingjob import INDEX

COMPLETED: dict[str, Any] = {
    "result": "Completed",
    "model": {"uri": "pvc://models/wine/run", "digest": worlds.PINNED, "estimator": "Ridge", "sizeBytes": 12},
    "metrics": [{"name": "Accuracy", "value": "0.972"}],
    "data": {"digest": worlds.OTHER, "rows": 178, "testRows": 36, "columns": 14},
    "findings": [],
    "packages": [{"name": "scikit-learn", "version": "1.9.1"}],
    "tracking": {"runId": "0a1b2c", "modelVersion": "3"},
}
FINDINGS = [{"column": "ash", "rule": "constant", "message": "one value", "rows": 3}]
NO_IMAGE = {"phase": "Pending", "waiting_reason": "ErrImagePull", "waiting_message": "no such image"}
NO_NODE = {"phase": "Pending", "unschedulable": "0/3 nodes"}
BAD_CONFIG = {"phase": "Pending", "waiting_reason": "CreateContainerConfigError", "waiting_message": "no key"}


def begun() -> World:
    world = worlds.training_job()
    world.step()
    return world


def waiting(**pod: Any) -> World:
    world = begun()
    world.pod_says(world.jobs[0], **pod)
    world.wait(6)
    world.converge()
    return world


def running() -> World:
    world = begun()
    world.children["Job", world.jobs[0]]["status"] = {"ready": 1, "startTime": "2026-11-24T12:00:00Z"}
    world.converge()
    return world


def running_again() -> World:
    world = retrying()
    world.children["Job", world.jobs[0]]["status"] = {"ready": 1, "failed": 1}
    world.converge()
    return world


def suspended() -> World:
    world = running()
    world.change(suspend=True)
    world.converge()
    return world


def retrying() -> World:
    world = begun()
    message = '{"reason": "DataUnreachable", "message": "timeout"}'
    world.pod_says(world.jobs[0], phase="Failed", exit_code=1, termination_message=message)
    world.children["Job", world.jobs[0]]["status"] = {"failed": 1}
    world.wait(6)
    world.converge()
    return world


def without_secret(reason: str = "SecretNotFound") -> World:
    world = begun()
    message = f'{{"reason": "{reason}", "message": "Secret lake does not exist in this namespace"}}'
    world.pod_says(world.jobs[0], phase="Failed", exit_code=4, termination_message=message)
    world.wait(6)
    world.converge()
    return world


def ended(said: Any, failed: str | None = "PodFailurePolicy", code: int = 3, first: World | None = None) -> World:
    world = first or begun()
    world.end_job(world.jobs[0], said, failed=failed, code=code)
    world.converge()
    return world


def without_claim() -> World:
    world = begun()
    world.missing_claims = {"lake"}
    world.wait(6)
    world.converge()
    return world


def refused() -> World:
    world = begun()
    [name] = world.jobs
    del world.children["Job", name]
    world.refused["Job", name] = "exceeded quota: count/jobs.batch"
    world.converge()
    return world


def with_name_taken() -> World:
    world = begun()
    [name] = world.jobs
    del world.children["Job", name]
    world.foreign = {("Job", name)}
    world.converge()
    return world


def out_of_memory() -> World:
    world = begun()
    world.end_job(world.jobs[0], None, failed="BackoffLimitExceeded", code=137)
    world.pod_says(world.jobs[0], phase="Failed", exit_code=137, termination_reason="OOMKilled")
    world.converge()
    return world


OWN = {"image": "registry.example.com/team/trainer:1"}


def own(**spec: Any) -> World:
    world = worlds.training_job(container=OWN, **spec)
    del world.spec["estimators"]
    world.step()
    return world


def not_allowed() -> World:
    world = worlds.training_job(container=OWN)
    del world.spec["estimators"]
    world.settings = replace(world.settings, own_images=("registry.example.com/other/",))
    world.converge()
    return world


def without_torch() -> World:
    world = worlds.training_job(estimators=[{"name": "TorchMLPClassifier"}])
    world.converge()
    return world


def told(reason: str) -> Callable[[], World]:
    return lambda: ended({"reason": reason, "message": f"words about {reason}", "findings": FINDINGS})


BY_TRAINER = [
    "DataNotFound", "DataAccessDenied", "DataUnreachable", "AddressRefused", "ChecksumMismatch", "ColumnNotFound",
    "DataInvalid", "ParametersInvalid", "TuningFailed", "RequirementNotMet", "ConversionFailed", "ParityFailed",
    "OutputNotWritable", "InternalError",
]  # fmt: skip
REASONS: dict[str, tuple[Callable[[], World], str, str | None, str]] = {
    # reason: (how it comes, Succeeded, Reconciling or Stalled, words in the message)
    "Pending": (begun, "Unknown", "Reconciling", "is about to start"),
    "Running": (running, "Unknown", "Reconciling", "runs"),
    "Retrying": (retrying, "Unknown", "Reconciling", "attempt 1 of 3 failed: timeout"),
    "Suspended": (suspended, "Unknown", None, "set it to false to go on"),
    "ImagePullFailed": (lambda: waiting(**NO_IMAGE), "Unknown", "Reconciling", "no such image"),
    "Unschedulable": (lambda: waiting(**NO_NODE), "Unknown", "Reconciling", "0/3 nodes"),
    "QuotaExceeded": (refused, "Unknown", "Reconciling", "exceeded quota"),
    "ClaimNotFound": (without_claim, "Unknown", "Reconciling", "PersistentVolumeClaim lake does not exist"),
    "SecretNotFound": (without_secret, "Unknown", "Reconciling", "Secret lake does not exist in this namespace; it is"),
    "SecretInvalid": (lambda: without_secret("SecretInvalid"), "Unknown", "Reconciling", "it is tried again"),
    "Completed": (
        lambda: ended(COMPLETED, None),
        "True",
        None,
        "Ridge, Accuracy 0.972 on 36 held-out rows, 40 s; pvc://",
    ),
    "ImageNotAllowed": (not_allowed, "False", "Stalled", "begin with registry.example.com/other/"),
    "TrainerNotInstalled": (without_torch, "False", "Stalled", "set HOLDFAST_TRAINING_TORCH_IMAGE"),
    "ContractViolated": (lambda: ended(None, first=own()), "False", "Stalled", "ended with 3"),
    "OutOfMemory": (out_of_memory, "False", "Stalled", "raise resources"),
    "DeadlineExceeded": (lambda: ended(None, "DeadlineExceeded", 143), "False", "Stalled", "activeDeadlineSeconds"),
    "BackoffLimitExceeded": (lambda: ended(None, "BackoffLimitExceeded", 1), "False", "Stalled", "ended with 1"),
    "NameConflict": (with_name_taken, "False", "Stalled", "give the run a new name"),
    **{reason: (told(reason), "False", "Stalled", f"words about {reason}") for reason in BY_TRAINER},
}


def test_the_table_knows_every_reason() -> None:
    assert set(REASONS) == set(Reason)


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_comes_with_its_status_and_words(reason: str) -> None:
    make, succeeded, kstatus, words = REASONS[reason]
    world = make()
    assert world.says("Succeeded") == (succeeded, reason)
    assert words in world.message("Succeeded")
    for type_ in ("Reconciling", "Stalled"):
        assert world.says(type_) == (("True", reason) if type_ == kstatus else None)
    TrainingJobStatus.parse(world.status)


@pytest.mark.parametrize("reason", [reason for reason, row in REASONS.items() if row[1] != "Unknown"])
def test_an_end_is_for_good_whatever_becomes_of_the_job(reason: str) -> None:
    world = REASONS[reason][0]()
    said = world.status
    world.children.clear()
    world.pods.clear()
    world.foreign.clear()
    world.wait(86400)
    assert not world.step()
    assert world.status == said
    assert world.jobs == []
    assert world.last is not None
    assert world.last.requeue_after is None


@pytest.mark.parametrize(
    "reason", [reason for reason, row in REASONS.items() if row[1] == "Unknown" and reason != "Suspended"]
)
def test_what_is_under_way_is_planned_again(reason: str) -> None:
    last = REASONS[reason][0]().last
    assert last is not None
    assert last.requeue_after in (5.0, 10.0)


def test_a_pod_that_cannot_start_is_pending_with_its_own_words() -> None:
    world = waiting(**BAD_CONFIG)
    assert world.says("Succeeded") == ("Unknown", "Pending")
    assert "no key" in world.message("Succeeded")


@pytest.mark.parametrize(("pod", "reason"), [(NO_IMAGE, "ImagePullFailed"), (NO_NODE, "Unschedulable")])
def test_what_a_pod_waits_for_ends_the_run_at_its_deadline(pod: dict[str, Any], reason: str) -> None:
    world = waiting(**pod)
    world.end_job(world.jobs[0], None, failed="DeadlineExceeded")
    world.pods.clear()
    world.converge()
    assert world.says("Succeeded") == ("False", reason)
    assert "given up" in world.message("Succeeded")


def test_a_secret_that_stays_missing_ends_the_run_at_its_deadline() -> None:
    world = without_secret()
    world.end_job(world.jobs[0], None, failed="DeadlineExceeded")
    world.pods.clear()
    world.converge()
    assert world.says("Succeeded") == ("False", "SecretNotFound")
    assert "given up" in world.message("Succeeded")


def test_a_job_that_is_refused_until_the_deadline_fails() -> None:
    world = refused()
    world.wait(86400)
    world.converge()
    assert world.says("Succeeded") == ("False", "QuotaExceeded")


def test_a_job_that_is_refused_is_created_once_there_is_room() -> None:
    world = refused()
    world.refused.clear()
    world.converge()
    assert len(world.jobs) == 1
    assert world.says("Succeeded") == ("Unknown", "Pending")


def test_results_of_the_trainer_are_in_the_status() -> None:
    world = ended(COMPLETED, None)
    for part in ("model", "metrics", "data", "packages", "tracking"):
        assert world.status[part] == COMPLETED[part]
    assert world.status["image"] == "localhost/training@sha256:aa"
    assert world.status["startTime"] == "2026-11-24T12:00:00Z"
    assert "completionTime" in world.status


def test_findings_of_a_run_that_failed_are_in_the_status() -> None:
    assert told("DataInvalid")().status["findings"] == FINDINGS


def test_findings_that_the_status_cannot_hold_are_left_out() -> None:
    world = ended({"reason": "DataInvalid", "message": "words", "findings": [{"cells": "secret"}]})
    assert world.says("Succeeded") == ("False", "DataInvalid")
    assert "findings" not in world.status


def test_a_report_that_was_lost_is_made_again_by_a_second_run_of_the_same_name() -> None:
    world = begun()
    [job] = world.jobs
    uid = world.children["Job", job]["uid"]
    world.end_job(job, COMPLETED)
    world.pods.clear()
    world.step()
    assert world.says("Succeeded") == ("Unknown", "Retrying")
    world.step()
    assert world.jobs == [job]
    assert world.children["Job", job]["uid"] != uid
    assert ended(COMPLETED, None, first=world).says("Succeeded") == ("True", "Completed")


def test_a_failed_attempt_that_outlives_the_pod_that_succeeded_is_not_taken_for_the_end() -> None:
    world = begun()
    [job] = world.jobs
    world.end_job(job, COMPLETED)
    world.pod_says(job, phase="Failed", exit_code=1, termination_message="{}")
    world.step()
    assert world.says("Succeeded") == ("Unknown", "Retrying")


@pytest.mark.parametrize("said", [None, {}, {"result": "Completed"}, {**COMPLETED, "metrics": []}])
def test_a_report_that_cannot_be_read_is_no_success(said: Any) -> None:
    assert ended(said, None).says("Succeeded") == ("False", "InternalError")


@pytest.mark.parametrize("reason", ["Completed", "DataInvalid"])
def test_a_run_costs_few_writes_and_events(reason: str) -> None:
    world = running()
    said: dict[str, Any] = COMPLETED if reason == "Completed" else {"reason": reason, "message": "words"}
    ended(said, None if reason == "Completed" else "PodFailurePolicy", first=world)
    assert world.says("Succeeded") == ("True" if reason == "Completed" else "False", reason)
    assert world.status_writes <= 4
    assert [event.reason for event in world.events] == ["Running", reason]


def test_a_second_attempt_that_runs_says_which_one_it_is() -> None:
    world = running_again()
    assert world.says("Succeeded") == ("Unknown", "Running")
    assert world.message("Succeeded").endswith("runs, attempt 2 of 3")


def the_job(world: World) -> dict[str, Any]:
    [job] = world.jobs
    spec: dict[str, Any] = world.children["Job", job]["spec"]
    return spec


def test_a_suspended_run_goes_on_with_the_same_job() -> None:
    world = suspended()
    [job] = world.jobs
    assert the_job(world)["suspend"] is True
    assert world.last is not None
    assert world.last.requeue_after is None
    world.children["Job", job]["status"] = {}
    world.change(suspend=False)
    world.converge()
    assert world.jobs == [job]
    assert the_job(world)["suspend"] is False
    assert world.says("Succeeded") == ("Unknown", "Pending")
    assert world.status["startTime"] == "2026-11-24T12:00:00Z"
    assert ended(COMPLETED, None, first=world).says("Succeeded") == ("True", "Completed")


def test_a_run_that_is_created_suspended_has_no_job_until_it_goes_on() -> None:
    world = worlds.training_job(suspend=True)
    world.converge()
    assert world.jobs == []
    assert world.says("Succeeded") == ("Unknown", "Suspended")
    world.change(suspend=False)
    world.converge()
    assert len(world.jobs) == 1


def test_a_run_that_ended_before_it_was_suspended_has_ended() -> None:
    world = running()
    world.change(suspend=True)
    assert ended(COMPLETED, None, first=world).says("Succeeded") == ("True", "Completed")


@pytest.mark.parametrize("reason", ["Completed", "DataInvalid"])
def test_a_job_may_expire_only_once_its_end_is_on_record(reason: str) -> None:
    world = running()
    said: dict[str, Any] = COMPLETED if reason == "Completed" else {"reason": reason, "message": "words"}
    world.end_job(world.jobs[0], said, failed=None if reason == "Completed" else "PodFailurePolicy")
    world.step()
    assert world.says("Succeeded") == ("True" if reason == "Completed" else "False", reason)
    assert "ttlSecondsAfterFinished" not in the_job(world)
    assert world.last is not None
    assert world.last.requeue_after == 1.0
    world.converge()
    assert the_job(world)["ttlSecondsAfterFinished"] == 604800
    assert world.last.requeue_after is None


def test_what_may_change_after_the_end_is_seen_and_the_end_stays() -> None:
    world = ended(COMPLETED, None)
    before = world.status
    world.change(ttlSecondsAfterFinished=60, suspend=True)
    world.converge()
    assert the_job(world)["ttlSecondsAfterFinished"] == 60
    assert not the_job(world).get("suspend")
    assert world.status["observedGeneration"] == world.generation
    assert {condition["observedGeneration"] for condition in world.status["conditions"]} == {world.generation}
    assert world.says("Succeeded") == ("True", "Completed")
    assert world.status["completionTime"] == before["completionTime"]
    assert world.jobs


PROGRESS = {"message": "trial 3 of 20", "trialsTotal": 20, "trialsCompleted": 3, "trialsFailed": 0, "bestValue": "0.9"}


def test_what_a_pod_says_of_its_progress_is_in_the_status_and_asked_for_once_a_minute() -> None:
    world = begun()
    world.children["Job", world.jobs[0]]["status"] = {"ready": 1}
    world.progress = PROGRESS
    world.converge()
    assert world.status["progress"] == PROGRESS
    assert world.message("Succeeded").endswith("runs: trial 3 of 20")
    asked, written = world.asked, world.status_writes
    world.progress = {**PROGRESS, "message": "trial 4 of 20", "trialsCompleted": 4}
    world.wait(59)
    world.converge()
    assert (world.asked, world.status_writes) == (asked, written)
    world.wait(1)
    world.converge()
    assert world.status["progress"]["trialsCompleted"] == 4
    assert world.asked == asked + 1
    assert [event.reason for event in world.events] == ["Running"]


def test_the_progress_of_a_run_that_has_ended_is_not_told() -> None:
    world = begun()
    world.children["Job", world.jobs[0]]["status"] = {"ready": 1}
    world.progress = PROGRESS
    world.converge()
    assert "progress" not in ended(COMPLETED, None, first=world).status


@pytest.mark.parametrize(
    "said", [None, {}, {"secret": "cells"}, {"trialsTotal": "many"}, {"trialsTotal": -1}, {"message": "x" * 300}]
)
def test_progress_that_the_status_cannot_hold_is_passed_over(said: Any) -> None:
    world = begun()
    world.children["Job", world.jobs[0]]["status"] = {"ready": 1}
    world.progress = said
    world.converge()
    assert world.says("Succeeded") == ("Unknown", "Running")
    assert "progress" not in world.status


def test_what_a_pod_says_beside_its_progress_is_left_out() -> None:
    world = begun()
    world.children["Job", world.jobs[0]]["status"] = {"ready": 1}
    world.progress = {**PROGRESS, "phase": "search"}
    world.converge()
    assert world.status["progress"] == PROGRESS


def test_a_trainer_of_ones_own_runs_while_its_pod_is_pending() -> None:
    world = own()
    world.wait(6)
    world.progress = PROGRESS
    world.pod_says(world.jobs[0], phase="Pending", step="train")
    world.converge()
    assert world.says("Succeeded") == ("Unknown", "Running")
    assert world.message("Succeeded").endswith("runs: train trial 3 of 20")
    assert world.status["progress"] == PROGRESS


def test_a_trainer_of_ones_own_that_keeps_failing_is_given_up_with_its_last_line() -> None:
    world = own()
    world.end_job(world.jobs[0], None, failed="BackoffLimitExceeded", code=1)
    world.pod_says(world.jobs[0], phase="Failed", exit_code=1, termination_message="loss is nan\n")
    world.converge()
    assert world.says("Succeeded") == ("False", "BackoffLimitExceeded")
    assert "loss is nan" in world.message("Succeeded")


def test_what_a_trainer_of_ones_own_reports_by_itself_is_not_believed() -> None:
    world = own()
    world.end_job(world.jobs[0], COMPLETED)
    world.pod_says(world.jobs[0], phase="Failed", exit_code=1, termination_message=json.dumps(COMPLETED))
    world.step()
    assert world.says("Succeeded") == ("Unknown", "Retrying")


def test_a_bundle_without_an_estimator_and_held_out_rows_is_completed_without_those_words() -> None:
    report = {**COMPLETED, "model": {**COMPLETED["model"]}, "data": {"digest": worlds.OTHER}}
    del report["model"]["estimator"]
    world = ended(report, None, first=own())
    assert world.message("Succeeded") == "Accuracy 0.972, 40 s; pvc://models/wine/run"


def test_a_distributed_training_has_its_service_before_its_pods_and_as_long_as_it_runs() -> None:
    world = own(distributed={"workers": 2, "engine": "Torch"})
    [job] = world.jobs
    assert list(world.children) == [("Service", job), ("Job", job)]
    del world.children["Service", job]
    world.converge()
    assert ("Service", job) in world.children
    ended(COMPLETED, None, first=world)
    del world.children["Service", job]
    world.converge()
    assert ("Service", job) not in world.children


def together(**pod: Any) -> World:
    """A network that two pods train, of which one is there."""
    world = worlds.training_job(estimators=[{"name": "TorchMLPClassifier"}], distributed={"workers": 2})
    world.settings = replace(world.settings, torch_image="registry.example.com/training-torch:1")
    world.step()
    [job] = world.jobs
    world.children["Job", job]["status"] = {"ready": 1}
    if pod:
        world.pod_says(job, **pod)
    world.wait(6)
    world.converge()
    return world


def test_a_distributed_training_runs_when_all_of_its_pods_do_and_says_what_keeps_the_others() -> None:
    world = together(**NO_NODE)
    assert world.says("Succeeded") == ("Unknown", "Unschedulable")
    assert "0/3 nodes" in world.message("Succeeded")
    world = together()
    assert world.says("Succeeded") == ("Unknown", "Running")
    assert world.message("Succeeded").endswith("runs: 1 of 2 workers are there")
    world.children["Job", world.jobs[0]]["status"] = {"ready": 2}
    world.converge()
    assert world.message("Succeeded").endswith("runs")


def test_a_worker_that_lost_another_says_so_until_all_are_there_again() -> None:
    lost = json.dumps({"reason": "WorkerLost", "message": "another of the 2 workers was lost"})
    world = together(phase="Failed", exit_code=5, termination_message=lost)
    assert world.says("Succeeded") == ("Unknown", "Retrying")
    message = world.message("Succeeded")
    assert "another of the 2 workers was lost" in message
    assert message.endswith("it is tried again and uses up no attempt")
    world.children["Job", world.jobs[0]]["status"] = {"ready": 2}
    world.converge()
    assert world.says("Succeeded") == ("Unknown", "Running")


def test_a_distributed_training_fails_with_the_words_of_the_worker_that_failed_first() -> None:
    world = together()
    [job] = world.jobs
    world.end_job(job, {"message": "another was lost"}, failed="BackoffLimitExceeded", code=5)
    [survivor] = world.pods[job]
    cause = replace(survivor, name="x0", exit_code=137, termination_reason="OOMKilled")
    world.pods[job] = [survivor, replace(cause, created=cause.created - timedelta(seconds=9))]
    world.converge()
    assert world.says("Succeeded") == ("False", "OutOfMemory")


def test_the_first_of_several_pods_says_what_came_of_the_run() -> None:
    world = begun()
    [job] = world.jobs
    world.end_job(job, COMPLETED)
    [leader] = world.pods[job]
    took_part = json.dumps({"result": "TookPart"})
    other = replace(leader, name="x2", labels={**leader.labels, INDEX: "1"}, termination_message=took_part)
    world.pods[job] = [other]
    world.step()
    assert world.says("Succeeded") == ("Unknown", "Retrying")
    world.step()
    world.end_job(job, COMPLETED)
    world.pods[job] = [other, replace(leader, owner_uid=world.children["Job", job]["uid"], labels={INDEX: "0"})]
    world.converge()
    assert world.says("Succeeded") == ("True", "Completed")


def test_estimators_of_pytorch_and_keras_run_in_images_of_their_own_and_the_others_in_the_usual_one() -> None:
    images = []
    for names in (["SVC"], ["SVC", "TorchMLPClassifier"], ["SVC", "KerasMLPClassifier"]):
        world = worlds.training_job(estimators=[{"name": name} for name in names], tuning={"trials": 2})
        world.settings = replace(world.settings, torch_image="example.com/torch:1", tensorflow_image="example.com/tf:1")
        world.step()
        [container] = world.children["Job", world.jobs[0]]["spec"]["template"]["spec"]["containers"]
        images.append(container["image"])
    assert images == [worlds.training_job().settings.training_image, "example.com/torch:1", "example.com/tf:1"]


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        ("TorchMLPClassifier", "needs PyTorch: ask the operator's administrator to set HOLDFAST_TRAINING_TORCH_IMAGE"),
        ("KerasMLPClassifier", "needs TensorFlow: ask the operator's administrator to set"),
    ],
)
def test_the_image_of_another_library_does_not_do(estimator: str, words: str) -> None:
    world = worlds.training_job(estimators=[{"name": estimator}])
    others = {"tensorflow_image": "x:1"} if estimator.startswith("Torch") else {"torch_image": "x:1"}
    world.settings = replace(world.settings, **others)
    world.converge()
    assert world.says("Succeeded") == ("False", "TrainerNotInstalled")
    assert words in world.message("Succeeded")
