"""BatchInference: what is done and what is said, story by story."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.plan import worlds
from tests.unit.plan.world import World

from holdfast.api.batchinference import BatchInferenceReason as Reason
from holdfast.api.batchinference import BatchInferenceStatus
from holdfast.plan.observed import Served, TrainingOutput

FEATURES = [{"name": "ash", "psiPerMille": 412, "bins": 11}, {"name": "hue", "psiPerMille": 3, "bins": 11}]
COMPLETED = {
    "result": "Completed",
    "message": "",
    "model": {"uri": "pvc://models/wine/3", "digest": worlds.PINNED},
    "outputURI": "pvc://lake/scored/wine-0",
    "rowsRead": 1250,
    "rowsWritten": 1250,
    "rowsBad": 0,
    "shards": 16,
    "drift": {"rows": 1250, "referenceRows": 400, "features": FEATURES},
}
PARTIAL = {"result": "Partial"}


def begun(**spec: Any) -> World:
    world = worlds.batch_inference(**spec)
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
    status = {"ready": 3, "succeeded": 1, "startTime": "2026-11-24T12:00:00Z"}
    world.children["Job", world.jobs[0]]["status"] = status
    world.converge()
    return world


def retrying(reason: str = "InputUnreachable") -> World:
    world = begun()
    message = json.dumps({"reason": reason, "message": "timeout"})
    world.pod_says(world.jobs[0], phase="Failed", exit_code=1, termination_message=message)
    world.children["Job", world.jobs[0]]["status"] = {"failed": 1}
    world.wait(6)
    world.converge()
    return world


def suspended() -> World:
    world = running()
    world.change(suspend=True)
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


def without_account() -> World:
    world = begun(serviceAccountName="lake")
    words = 'pods "wine-0" is forbidden: error looking up service account team/lake: serviceaccount "lake" not found'
    world.refusals[world.jobs[0]] = words
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


def without_model() -> World:
    return begun(served=None)


def out_of_memory() -> World:
    world = begun()
    world.end_job(world.jobs[0], None, failed="MaxFailedIndexesExceeded", code=137)
    world.pod_says(world.jobs[0], phase="Failed", exit_code=137, termination_reason="OOMKilled")
    world.converge()
    return world


def told(reason: str) -> Callable[[], World]:
    return lambda: ended({"reason": reason, "message": f"words about {reason}", "findings": []})


BY_SCORER = [
    "InputNotFound", "InputAccessDenied", "InputUnreachable", "AddressRefused", "ChecksumMismatch", "ColumnNotFound",
    "InputInvalid", "TooManyBadRows", "ModelNotFound", "ModelAccessDenied", "ModelUnreachable", "DigestMismatch",
    "ModelInvalid", "OutputNotWritable", "InternalError",
]  # fmt: skip
NO_IMAGE = {"phase": "Pending", "waiting_reason": "ErrImagePull", "waiting_message": "no such image"}
NO_NODE = {"phase": "Pending", "unschedulable": "0/3 nodes"}
REASONS: dict[str, tuple[Callable[[], World], str, str | None, str]] = {
    # reason: (how it comes, Succeeded, Reconciling or Stalled, words in the message)
    "Pending": (begun, "Unknown", "Reconciling", "is about to start"),
    "Running": (running, "Unknown", "Reconciling", "3 of 4 pods run, 4 of 16 shards are done"),
    "Retrying": (retrying, "Unknown", "Reconciling", "1 try failed: timeout"),
    "Suspended": (suspended, "Unknown", None, "set it to false to go on"),
    "ModelNotReady": (without_model, "Unknown", "Reconciling", "ModelDeployment wine does not exist"),
    "ImagePullFailed": (lambda: waiting(**NO_IMAGE), "Unknown", "Reconciling", "no such image"),
    "Unschedulable": (lambda: waiting(**NO_NODE), "Unknown", "Reconciling", "0/3 nodes"),
    "QuotaExceeded": (refused, "Unknown", "Reconciling", "exceeded quota"),
    "ClaimNotFound": (without_claim, "Unknown", "Reconciling", "PersistentVolumeClaim lake does not exist"),
    "SecretNotFound": (lambda: retrying("SecretNotFound"), "Unknown", "Reconciling", "timeout; it is tried again"),
    "SecretInvalid": (lambda: retrying("SecretInvalid"), "Unknown", "Reconciling", "timeout; it is tried again"),
    "ServiceAccountNotFound": (without_account, "Unknown", "Reconciling", "ServiceAccount lake does not exist"),
    "Completed": (lambda: ended(COMPLETED, None), "True", None, "1,250 rows by 5f3a9c0d1e (sha256:"),
    "OutOfMemory": (out_of_memory, "False", "Stalled", "raise resources"),
    "DeadlineExceeded": (lambda: ended(None, "DeadlineExceeded", 143), "False", "Stalled", "activeDeadlineSeconds"),
    "BackoffLimitExceeded": (lambda: ended(None, "FailedIndexes", 1), "False", "Stalled", "ended with 1"),
    "NameConflict": (with_name_taken, "False", "Stalled", "give the run a new name"),
    **{reason: (told(reason), "False", "Stalled", f"words about {reason}") for reason in BY_SCORER},
}


def the_job(world: World) -> dict[str, Any]:
    [name] = world.jobs
    job: dict[str, Any] = world.children["Job", name]
    return job


def asked(world: World) -> dict[str, Any]:
    """What the pods are told."""
    [variable] = the_job(world)["spec"]["template"]["spec"]["containers"][0]["env"]
    document: dict[str, Any] = json.loads(variable["value"])
    return document


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
    BatchInferenceStatus.parse(world.status)


@pytest.mark.parametrize("reason", [reason for reason, row in REASONS.items() if row[1] != "Unknown"])
def test_an_end_is_for_good_whatever_becomes_of_the_job_and_the_model(reason: str) -> None:
    world = REASONS[reason][0]()
    said = world.status
    world.children.clear()
    world.pods.clear()
    world.foreign.clear()
    world.served = None
    world.wait(86400)
    assert not world.step()
    assert world.status == said
    assert world.jobs == []


def test_the_job_shares_the_shards_among_pods_that_can_do_nothing_but_that() -> None:
    job = the_job(begun())["spec"]
    pod = job["template"]["spec"]
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 4, 4)
    assert (job["backoffLimitPerIndex"], job["maxFailedIndexes"]) == (2, 0)
    assert job["podFailurePolicy"]["rules"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [4]}},
    ]
    assert pod["automountServiceAccountToken"] is False
    assert pod["containers"][0]["args"] == ["batch"]
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {"/tmp": False, "/mnt/claims/lake": False, "/mnt/claims/models": True}
    assert asked(begun(keepColumns=["id"])) == {
        "model": {"uri": "pvc://models/wine/3", "digest": worlds.PINNED},
        "input": {"uri": "pvc://lake/wine/"},
        "output": {"uri": "pvc://lake/scored", "folder": begun().jobs[0]},
        "keepColumns": ["id"],
        "batchRows": 1024,
        "maxBadRowsPerMille": 0,
        "pods": 4,
        "shards": 16,
    }


@pytest.mark.parametrize(
    ("model", "secret"),
    [
        ({"uri": "s3://models/wine/3", "secretRef": {"name": "models-read"}}, "models-read"),
        ({"modelDeploymentRef": {"name": "wine"}}, "of-serving"),
        ({"trainingJobRef": {"name": "run"}}, "of-run"),
    ],
)
def test_each_place_has_its_own_keys_and_a_reference_brings_its_own(model: dict[str, Any], secret: str) -> None:
    world = worlds.batch_inference(
        Served("s3://models/wine/3", worlds.PINNED, "5f3a9c0d1e", secret="of-serving"),
        model=model,
        input={"uri": "s3://lake/wine/", "secretRef": {"name": "lake-read"}},
        output={"uri": "s3://lake/scored", "secretRef": {"name": "lake-write"}},
        serviceAccountName="lake",
    )
    world.training = TrainingOutput("run", "Succeeded", "s3://models/run", worlds.OTHER, secret="of-run")
    world.step()
    pod = the_job(world)["spec"]["template"]["spec"]
    named = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert {mounts[name]: found for name, found in named.items()} == {
        "/mnt/secrets/storage": secret,
        "/mnt/secrets/data": "lake-read",
        "/mnt/secrets/output": "lake-write",
    }
    assert pod["serviceAccountName"] == asked(world)["serviceAccountName"] == "lake"
    assert [asked(world)[place]["secretRef"]["name"] for place in ("model", "input", "output")] == [
        secret, "lake-read", "lake-write",
    ]  # fmt: skip
    assert "secretRef" not in world.status["model"]


def test_the_model_is_fixed_when_the_run_starts_whatever_is_served_later() -> None:
    world = begun()
    fixed = {"uri": "pvc://models/wine/3", "digest": worlds.PINNED, "revision": "5f3a9c0d1e"}
    assert world.status["model"] == fixed
    world.served = Served("pvc://models/wine/4", worlds.OTHER, "c41d7e0a92")
    world.status = {}  # lost: the Job knows
    world.converge()
    assert world.status["model"] == fixed
    world.children.clear()  # a person deleted the Job: the status knows
    world.converge()
    assert asked(world)["model"]["uri"] == "pvc://models/wine/3"


def test_a_run_waits_for_a_stable_revision_and_begins_with_it() -> None:
    world = begun(served=Served(message="pods are not ready"))
    assert world.says("Succeeded") == ("Unknown", "ModelNotReady")
    assert "no stable revision yet: pods are not ready" in world.message("Succeeded")
    assert world.jobs == []
    world.served = worlds.SERVED
    world.converge()
    assert asked(world)["model"]["digest"] == worlds.PINNED


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (TrainingOutput("run", "Missing"), "TrainingJob run does not exist"),
        (TrainingOutput("run", "Running", message="it trains"), "TrainingJob run has no output: it trains"),
        (TrainingOutput("run", "Failed", message="no column"), "TrainingJob run has no output: no column"),
    ],
)
def test_a_run_waits_for_the_output_of_a_training_job(output: TrainingOutput, words: str) -> None:
    world = worlds.batch_inference(None, model={"trainingJobRef": {"name": "run"}})
    world.training = output
    world.converge()
    assert world.says("Succeeded") == ("Unknown", "ModelNotReady")
    assert words in world.message("Succeeded")
    world.training = TrainingOutput("run", "Succeeded", "pvc://models/run", worlds.OTHER)
    world.converge()
    assert asked(world)["model"] == {"uri": "pvc://models/run", "digest": worlds.OTHER}


def test_a_model_that_never_comes_ends_the_run_at_its_deadline() -> None:
    world = without_model()
    world.wait(86400)
    world.converge()
    assert world.says("Succeeded") == ("False", "ModelNotReady")
    assert "given up" in world.message("Succeeded")


def test_a_model_by_uri_has_the_digest_that_was_found_there() -> None:
    world = ended(COMPLETED, None, first=begun(served=None, model={"uri": "pvc://models/wine/3"}))
    assert world.status["model"] == {"uri": "pvc://models/wine/3", "digest": worlds.PINNED}
    assert "1,250 rows by (sha256:" in world.message("Succeeded")


def test_the_report_of_the_pod_that_summed_up_is_in_the_status() -> None:
    world = begun()
    world.end_job(world.jobs[0], COMPLETED)
    summed_up = world.pods[world.jobs[0]]
    world.end_job(world.jobs[0], PARTIAL)
    world.pods[world.jobs[0]] = [*world.pods[world.jobs[0]], *summed_up]
    world.converge()
    assert world.says("Succeeded") == ("True", "Completed")
    status = world.status
    assert [status[name] for name in ("rowsRead", "rowsWritten", "rowsBad", "shards", "shardsSucceeded")] == [
        1250, 1250, 0, 16, 16,
    ]  # fmt: skip
    assert status["outputURI"] == "pvc://lake/scored/wine-0"
    assert status["startTime"] == "2026-11-24T12:00:00Z"
    assert status["completionTime"] == "2026-11-24T12:00:40Z"


def test_drift_has_the_limit_of_so_many_rows_and_bins() -> None:
    few, many = ended(COMPLETED, None), begun()
    drift = COMPLETED["drift"] | {"rows": 500_000, "referenceRows": 100_000}  # type: ignore[operator]
    ended({**COMPLETED, "drift": drift}, None, first=many)
    [ash, hue] = few.status["drift"]["features"]
    assert (ash["name"], ash["psiPerMille"], few.status["drift"]["rows"]) == ("ash", 412, 1250)
    assert hue["psiPerMille"] < hue["limitPerMille"] < ash["psiPerMille"]
    assert 100 < many.status["drift"]["features"][0]["limitPerMille"] < ash["limitPerMille"]


def test_too_few_rows_for_a_judgement_are_said_and_not_guessed() -> None:
    drift = COMPLETED["drift"] | {"referenceRows": 36}  # type: ignore[operator]
    world = ended({**COMPLETED, "drift": drift}, None)
    assert "drift" not in world.status
    assert "the bundle's reference (36)" in world.message("Succeeded")


@pytest.mark.parametrize("left", [None, PARTIAL])
def test_a_report_that_is_lost_is_got_again_by_another_job_with_the_same_model(left: Any) -> None:
    world = begun()
    [job] = world.jobs
    uid = the_job(world)["uid"]
    world.end_job(job, left)
    if left is None:
        world.pods.clear()
    world.served = Served("pvc://models/wine/4", worlds.OTHER, "c41d7e0a92")
    world.step()
    assert world.says("Succeeded") == ("Unknown", "Retrying")
    world.step()
    assert the_job(world)["uid"] != uid
    assert asked(world)["model"]["uri"] == "pvc://models/wine/3"
    assert ended(COMPLETED, None, first=world).says("Succeeded") == ("True", "Completed")


def test_a_job_is_not_made_again_before_its_model_is_on_record() -> None:
    world = begun()
    uid = the_job(world)["uid"]
    world.end_job(world.jobs[0], PARTIAL)
    world.status = {}
    world.step()
    assert the_job(world)["uid"] == uid
    assert world.status["model"]["uri"] == "pvc://models/wine/3"
    world.step()
    world.step()
    assert the_job(world)["uid"] != uid


@pytest.mark.parametrize(
    "said", [None, {}, {"result": "Completed"}, {**COMPLETED, "rowsRead": -1}, {**COMPLETED, "drift": {"rows": "x"}}]
)
def test_a_report_that_cannot_be_read_is_no_success(said: Any) -> None:
    assert ended(said, None).says("Succeeded") == ("False", "InternalError")


def test_a_pod_that_says_why_is_heard_before_those_that_were_stopped_because_of_it() -> None:
    world = begun()
    world.end_job(world.jobs[0], {"reason": "TooManyBadRows", "message": "3 rows"}, failed="PodFailurePolicy")
    why = world.pods[world.jobs[0]]
    world.end_job(world.jobs[0], None, failed="PodFailurePolicy", code=143)
    world.pods[world.jobs[0]] = [*world.pods[world.jobs[0]], *why]
    world.converge()
    assert world.says("Succeeded") == ("False", "TooManyBadRows")


def test_a_pod_is_asked_once_a_minute_how_many_shards_all_have_done() -> None:
    world = running()
    assert world.status["shardsSucceeded"] == 4
    for said, seconds, done in ((9, 1, 9), ("x", 60, 9), (17, 60, 9), (None, 60, 9), (11, 1, 9), (11, 60, 11)):
        world.progress = {"message": "", "shardsSucceeded": said}
        world.wait(seconds)
        world.converge()
        assert world.status["shardsSucceeded"] == done, (said, seconds)
    assert "11 of 16 shards are done" in world.message("Succeeded")


def test_a_suspended_run_goes_on_with_the_same_job_and_model() -> None:
    world = suspended()
    assert the_job(world)["spec"]["suspend"] is True
    the_job(world)["status"] = {}
    world.change(suspend=False)
    world.converge()
    assert the_job(world)["spec"]["suspend"] is False
    assert world.status["model"]["revision"] == "5f3a9c0d1e"


def test_a_run_that_is_created_suspended_takes_the_model_of_the_moment_when_it_goes_on() -> None:
    world = begun(suspend=True)
    assert world.jobs == []
    assert "model" not in world.status
    world.served = Served("pvc://models/wine/4", worlds.OTHER, "c41d7e0a92")
    world.change(suspend=False)
    world.converge()
    assert asked(world)["model"]["uri"] == "pvc://models/wine/4"


def test_a_job_may_expire_only_once_its_end_is_on_record() -> None:
    world = running()
    world.end_job(world.jobs[0], COMPLETED)
    world.step()
    assert "ttlSecondsAfterFinished" not in the_job(world)["spec"]
    world.converge()
    assert the_job(world)["spec"]["ttlSecondsAfterFinished"] == 604800


def test_a_run_costs_few_writes_and_events() -> None:
    world = ended(COMPLETED, None, first=running())
    assert world.status_writes <= 4
    assert [event.reason for event in world.events] == ["Running", "Completed"]
