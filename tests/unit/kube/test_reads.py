"""What a plan sees of a pod, and of a TrainingJob."""

from datetime import UTC, datetime
from typing import Any

from holdfast.kube.kinds import Key
from holdfast.kube.reads import pod
from holdfast.kube.reconcile import served, training_output
from holdfast.kube.store import Resource


def raw(**status: Any) -> dict[str, Any]:
    metadata = {
        "name": "wine-0",
        "uid": "p1",
        "creationTimestamp": "2026-11-24T01:02:03Z",
        "labels": {"a": "b"},
        "ownerReferences": [{"uid": "rs1", "controller": True}],
    }
    return {"metadata": metadata, "status": status}


def test_a_new_pod_has_nothing_to_say() -> None:
    seen = pod(raw(phase="Pending"))
    assert (seen.name, seen.owner_uid, seen.phase, seen.ready) == ("wine-0", "rs1", "Pending", False)
    assert seen.created == datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC)
    assert seen.labels == {"a": "b"}
    assert seen.unschedulable is None
    assert seen.exit_code is None


def test_a_pod_says_what_it_is_doing() -> None:
    assert pod(raw(phase="Running"), doing="fetched 1.0 MiB").doing == "fetched 1.0 MiB"


def test_a_pod_without_a_node_brings_the_schedulers_words() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    assert pod(raw(phase="Pending", conditions=[condition])).unschedulable == "0/3 nodes"


def test_a_pod_that_was_not_looked_at_by_the_scheduler_is_not_unschedulable() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "gated"}
    assert pod(raw(phase="Pending", conditions=[condition])).unschedulable is None


def test_a_crashing_container_tells_of_its_last_end() -> None:
    ended = {"exitCode": 3, "reason": "Error", "message": "last words"}
    container = {
        "restartCount": 4,
        "imageID": "sha256:aa",
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
        "lastState": {"terminated": ended},
    }
    seen = pod(raw(phase="Running", containerStatuses=[container]))
    assert (seen.waiting_reason, seen.waiting_message, seen.restarts) == ("CrashLoopBackOff", "back-off", 4)
    assert (seen.exit_code, seen.termination_reason, seen.termination_message) == (3, "Error", "last words")
    assert seen.image_id == "sha256:aa"


def test_a_container_that_has_ended_tells_of_this_end_and_not_of_the_one_before() -> None:
    container = {
        "state": {"terminated": {"exitCode": 0, "message": "now"}},
        "lastState": {"terminated": {"exitCode": 1, "message": "before"}},
    }
    seen = pod(raw(phase="Succeeded", containerStatuses=[container]))
    assert (seen.exit_code, seen.termination_message) == (0, "now")


def test_a_ready_pod_is_ready_since_some_time() -> None:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-24T01:02:30Z"}
    seen = pod(raw(phase="Running", podIP="10.0.0.7", conditions=[ready]))
    assert (seen.uid, seen.address, seen.ready) == ("p1", "10.0.0.7", True)
    assert seen.ready_since == datetime(2026, 11, 24, 1, 2, 30, tzinfo=UTC)
    unready = pod(raw(phase="Running", conditions=[ready | {"status": "False"}]))
    assert (unready.ready, unready.ready_since, unready.address) == (False, None, "")


def run(**status: Any) -> Resource:
    return Resource(Key("TrainingJob", "default", "wine"), "t1", 1, False, {}, status)


def succeeded(status: str, message: str) -> dict[str, str]:
    return {"type": "Succeeded", "status": status, "message": message}


def test_a_training_job_that_is_not_there_is_missing() -> None:
    assert training_output("wine", None).state == "Missing"


def test_a_training_job_without_a_verdict_runs() -> None:
    assert training_output("wine", run()).state == "Running"
    assert training_output("wine", run(conditions=[succeeded("Unknown", "waits")])).message == "waits"


def test_a_failed_training_job_says_why() -> None:
    output = training_output("wine", run(conditions=[succeeded("False", "no such column")]))
    assert (output.state, output.message) == ("Failed", "no such column")


def test_a_completed_training_job_has_an_output() -> None:
    model = {"uri": "pvc://models/wine", "digest": "sha256:00"}
    output = training_output("wine", run(conditions=[succeeded("True", "done")], model=model))
    assert (output.state, output.uri, output.digest) == ("Succeeded", "pvc://models/wine", "sha256:00")


def test_a_batch_sees_the_stable_revision_of_a_model_deployment() -> None:
    key = Key("ModelDeployment", "default", "wine")
    model = {"uri": "pvc://models/wine", "digest": "sha256:00", "source": "URI"}
    spec = {"serving": {"storageSecretRef": {"name": "models-read"}}}
    seen = served(Resource(key, "m1", 1, False, spec, {"stableRevision": "5f3a9c0d1e", "model": model}))
    assert (seen.uri, seen.digest, seen.revision) == ("pvc://models/wine", "sha256:00", "5f3a9c0d1e")
    assert seen.secret == "models-read"
    waits = {"conditions": [{"type": "Ready", "status": "Unknown", "message": "it is being fetched"}]}
    seen = served(Resource(key, "m1", 1, False, {}, waits))
    assert (seen.uri, seen.message) == (None, "it is being fetched")


def steps(*states: dict[str, Any]) -> dict[str, Any]:
    """A pod of three containers, one after the other."""
    waits = {"waiting": {"reason": "PodInitializing"}}
    names = ("fetch", "train", "publish")
    each = [{"name": name, "state": state} for name, state in zip(names, (*states, waits, waits, waits), strict=False)]
    return {"initContainerStatuses": each[:2], "containerStatuses": each[2:]}


DONE = {"terminated": {"exitCode": 0, "message": "{}"}}


def test_of_a_pod_of_several_steps_the_one_speaks_whose_turn_it_is() -> None:
    running = pod(raw(phase="Pending", **steps(DONE, {"running": {}})))
    assert (running.step, running.exit_code) == ("train", None)
    failed = pod(raw(phase="Failed", **steps(DONE, {"terminated": {"exitCode": 3, "message": "no rows"}})))
    assert (failed.step, failed.exit_code, failed.termination_message) == ("", 3, "no rows")
    pulled = pod(raw(phase="Pending", **steps(DONE, {"waiting": {"reason": "ErrImagePull"}})))
    assert (pulled.step, pulled.waiting_reason) == ("", "ErrImagePull")
    last = pod(raw(phase="Running", **steps(DONE, DONE, {"running": {}})))
    assert last.step == ""
    ended = pod(raw(phase="Succeeded", **steps(DONE, DONE, {"terminated": {"exitCode": 0, "message": "report"}})))
    assert (ended.exit_code, ended.termination_message) == (0, "report")


def test_the_image_of_a_trainer_of_ones_own_is_the_one_that_counts() -> None:
    status = steps(DONE, DONE, {"terminated": {"exitCode": 0}})
    status["initContainerStatuses"][1]["imageID"] = "trainer@sha256:aa"
    status["containerStatuses"][0]["imageID"] = "holdfast@sha256:bb"
    assert pod(raw(phase="Succeeded", **status)).image_id == "trainer@sha256:aa"
