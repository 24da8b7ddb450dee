"""Status belongs to the operator, spec to the user, and conditions merge by type."""

from typing import Any

import pytest
from tests.api.server import Json, Server, model_deployment, training_job
from tests.unit.gitops import tools

from holdfast.api.meta import MAX_MESSAGE
from holdfast.api.modeldeployment import ModelDeploymentStatus
from holdfast.api.trainingjob import TrainingJobStatus
from holdfast_devcluster.api import ApiError

DIGEST = "sha256:" + "9d" * 32
UNSEEN = {"observedGeneration": -1}


def condition(kind: str, status: str = "True", reason: str = "Serving", **more: Any) -> Json:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-11-23T14:00:00Z",
        **more,
    }


def revision(name: str, ordinal: int) -> Json:
    return {
        "name": name,
        "ordinal": ordinal,
        "modelDigest": DIGEST,
        "source": "URI",
        "verdict": "Rejected",
        "reason": "MoreFailures",
        "message": "x" * MAX_MESSAGE,
        "creationTime": "2026-11-23T14:00:00Z",
        "verdictTime": "2026-11-23T14:01:10Z",
    }


def decision(action: str) -> Json:
    return {
        "time": "2026-11-23T14:01:10Z",
        "action": action,
        "reason": "MoreFailures",
        "fromRevision": "c41d7e0a92",
        "toRevision": "5f3a9c0d1e",
        "message": "x" * MAX_MESSAGE,
        "evidence": "c41d7e0a92 21/104 failed, 5f3a9c0d1e 1/935, e=5.1e+03 (>= 1000 rejects)",
    }


def with_status(body: Json, **status: Any) -> Json:
    """An applied configuration of status alone."""
    return {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "metadata": {"name": body["metadata"]["name"]},
        "status": status,
    }


def test_two_writers_keep_their_own_conditions(server: Server) -> None:
    body = server.create(model_deployment("two-writers"))
    server.apply(with_status(body, conditions=[condition("Ready"), condition("Available")]), "status")
    after = server.apply(with_status(body, conditions=[condition("Audited")]), "status", manager="auditor")
    assert [each["type"] for each in after["status"]["conditions"]] == ["Ready", "Available", "Audited"]


def test_a_condition_that_is_no_longer_applied_goes_and_others_stay(server: Server) -> None:
    body = server.create(model_deployment("goes"))
    server.apply(with_status(body, conditions=[condition("Stalled"), condition("Ready", "False")]), "status")
    server.apply(with_status(body, conditions=[condition("Audited")]), "status", manager="auditor")
    after = server.apply(with_status(body, conditions=[condition("Ready")]), "status")
    assert [(each["type"], each["status"]) for each in after["status"]["conditions"]] == [
        ("Ready", "True"),
        ("Audited", "True"),
    ]


def test_applying_the_same_status_again_changes_nothing(server: Server) -> None:
    body = server.create(model_deployment("same-status"))
    status = with_status(body, observedGeneration=1, replicas=1, conditions=[condition("Ready", observedGeneration=1)])
    first = server.apply(status, "status")
    second = server.apply(status, "status")
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


def test_a_write_to_status_leaves_spec_and_generation_alone(server: Server) -> None:
    server.create(model_deployment("status-only"))
    patch = {"spec": {"serving": {"replicas": 9}}, "status": {"replicas": 1}}
    after = server.merge("ModelDeployment", "status-only", patch, "status")
    assert (after["spec"]["serving"]["replicas"], after["metadata"]["generation"]) == (1, 1)


def test_a_write_to_spec_leaves_status_alone(server: Server) -> None:
    server.create(model_deployment("spec-only"))
    patch = {"spec": {"serving": {"replicas": 2}}, "status": {"replicas": 9}}
    after = server.merge("ModelDeployment", "spec-only", patch)
    assert after["metadata"]["generation"] == 2
    assert after["status"] == UNSEEN


@pytest.mark.parametrize("body", [model_deployment("new"), training_job("new")], ids=lambda body: body["kind"])
def test_an_object_that_the_operator_has_not_seen_is_not_taken_for_done(server: Server, body: Json) -> None:
    created = server.create({**body, "status": {"observedGeneration": 1}}, strict=False)
    assert created["status"] == server.get(body["kind"], "new")["status"] == UNSEEN
    assert (tools.kstatus(created), tools.health(created)["status"]) == ("InProgress", "Progressing")
    del created["status"]
    assert tools.kstatus(created) == "Current"  # for which the default is there


def test_a_finished_run_can_still_be_given_a_status(server: Server) -> None:
    server.create(training_job("run"))
    after = server.merge("TrainingJob", "run", {"status": {"jobName": "run-1c7d20aa4b"}}, "status")
    assert after["status"] == UNSEEN | {"jobName": "run-1c7d20aa4b"}


def test_the_api_server_keeps_all_that_the_types_can_say(server: Server) -> None:
    full = ModelDeploymentStatus.parse(
        {
            "observedGeneration": 7,
            "conditions": [condition("Ready", observedGeneration=7, message="x" * MAX_MESSAGE)],
            "replicas": 2,
            "readyReplicas": 2,
            "selector": "app.kubernetes.io/component=serving,holdfast.dev/revision=5f3a9c0d1e",
            "url": "http://wine.default.svc",
            "stableRevision": "5f3a9c0d1e",
            "candidateRevision": "c41d7e0a92",
            "previousRevision": "0b77aa61f4",
            "model": {
                "uri": "pvc://models/wine/wine-1c7d20aa4b",
                "digest": DIGEST,
                "source": "TrainingJob",
                "trainingJobName": "wine",
                "runtimeImage": "localhost/holdfast-serving:dev",
            },
            "revisions": [revision(f"{number:010x}", number) for number in range(16, 0, -1)],
            "rollout": {
                "step": 1,
                "weightPercent": 10,
                "startTime": "2026-11-23T14:00:00Z",
                "stepStartTime": "2026-11-23T14:00:30Z",
                "candidate": {"requests": 2**53, "failed": 0},
                "stable": {"requests": 1904, "failed": 1},
                "requiredRequests": 600,
                "eValue": "5.12e+31",
                "abortAt": "1000",
            },
            "slo": {"availabilityBudgetPercent": -1_000_000, "latencyBudgetPercent": 100},
            "decisions": [decision("Held")] * 2 + [decision("RolledBack")] * 18,
            "lastHandledRollout": "abort c41d7e0a92@" + "x" * 111,
            "lastHandledRefresh": "2",
        }
    ).to_json()
    body = server.create(model_deployment("full-status"))
    assert server.apply(with_status(body, **full), "status")["status"] == full

    run = TrainingJobStatus.parse(
        {
            "observedGeneration": 1,
            "conditions": [condition("Succeeded", reason="Completed")],
            "jobName": "wine-1c7d20aa4b",
            "image": "localhost/holdfast-training:dev",
            "startTime": "2026-11-23T14:00:00Z",
            "completionTime": "2026-11-23T14:00:40Z",
            "progress": {
                "message": "trial 12 of 20",
                "trialsTotal": 20,
                "trialsCompleted": 11,
                "trialsFailed": 1,
                "bestValue": "0.961",
                "bestEstimator": "Ridge",
            },
            "model": {"uri": "pvc://models/wine/w", "digest": DIGEST, "estimator": "Ridge", "sizeBytes": 2**40},
            "metrics": [{"name": "R2", "value": "-1.5e+20"}, {"name": "RMSE", "value": "0.5"}],
            "data": {"digest": DIGEST, "rows": 178, "testRows": 36, "columns": 14},
            "findings": [{"rule": "Empty", "message": "no rows"}, {"rule": "Empty", "message": "no rows"}],
            "packages": [{"name": "scikit-learn", "version": "1.8.0"}],
        }
    ).to_json()
    body = server.create(training_job("full-status"))
    assert server.apply(with_status(body, **run), "status")["status"] == run


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"conditions": [condition("Ready", "Maybe")]}, "Unsupported value"),
        ({"conditions": [condition("Ready", reason="not ready")]}, "conditions[0].reason in body should match"),
        ({"conditions": [condition("Ready", message="x" * (MAX_MESSAGE + 1))]}, "Too long"),
        ({"conditions": [{"type": "Ready"}]}, "Required value"),
        ({"conditions": [condition("Ready"), condition("Ready")]}, "duplicate entries for key"),
        ({"replicas": -1}, "non-negative"),
        ({"stableRevision": "5F3A9C0D1E"}, "stableRevision in body should match"),
        ({"model": {"uri": "pvc://models"}}, "status.model.digest: Required value"),
        ({"previousRevision": "0b77"}, "previousRevision in body should match"),
        ({"revisions": [revision("c41d7e0a92", 1)] * 2}, "duplicate entries for key"),
        ({"revisions": [{**revision("c41d7e0a92", 1), "verdict": "Perhaps"}]}, "Unsupported value"),
        ({"revisions": [revision(f"{number:010x}", number) for number in range(17)]}, "Too many"),
        ({"rollout": {"step": 1}}, "Required value"),
        ({"slo": {"latencyBudgetPercent": 101}}, "less than or equal to 100"),
        ({"decisions": [decision("Held")] * 21}, "Too many"),
        ({"decisions": [{"action": "Promoted"}]}, "Required value"),
        ({"lastHandledRollout": "x" * 129}, "Too long"),
        ({"phase": "Running"}, "field not declared in schema"),
    ],
)
def test_a_malformed_status_is_refused(server: Server, status: Json, words: str) -> None:
    body = model_deployment("malformed")
    server.apply(body, manager="user")
    with pytest.raises(ApiError) as caught:
        server.apply(with_status(body, **status), "status")
    assert words in str(caught.value)
