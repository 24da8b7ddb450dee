"""The types read what the API server stores, and nothing else."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from holdfast.api.batchinference import BatchInferenceReason, BatchInferenceSpec, BatchInferenceStatus
from holdfast.api.meta import Condition, Model
from holdfast.api.modeldeployment import (
    ModelDeploymentCondition,
    ModelDeploymentReason,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
)
from holdfast.api.trainingjob import TrainingJobReason, TrainingJobSpec, TrainingJobStatus

DIGEST = "sha256:" + "9d" * 32

MODEL_DEPLOYMENT: dict[str, Any] = {
    "suspend": True,
    "model": {"uri": "pvc://models/wine", "digest": DIGEST},
    "serving": {
        "replicas": 3,
        "resources": {"requests": {"cpu": 1, "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
        "nodeSelector": {"disktype": "ssd"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}],
        "env": [
            {"name": "OMP_NUM_THREADS", "value": "2"},
            {"name": "LOG_LEVEL", "valueFrom": {"configMapKeyRef": {"name": "wine", "key": "level"}}},
        ],
        "feedback": {"secretRef": {"name": "wine-feedback"}, "clientAuth": "Required", "rowsPerMinute": 5000},
        "requestTimeoutMilliseconds": 2000,
        "maxBatchRows": 64,
    },
    "rollout": {
        "strategy": "Canary",
        "steps": [{"weightPercent": 5, "minSeconds": 120}, {"weightPercent": 50, "minSeconds": 0}],
        "tolerancePerMille": 10,
        "onInsufficientTraffic": "Synthetic",
        "progressDeadlineSeconds": 1800,
        "shadow": {"percent": 50, "minSeconds": 30},
    },
    "guard": {"action": "Notify", "warmSeconds": 300, "controlPercent": 5, "rollbackWindowSeconds": 3600},
    "slo": {
        "availability": "99.9",
        "latency": {"thresholdMilliseconds": 50, "objective": "99"},
        "windowDays": 7,
    },
}
REVISION = {
    "name": "c41d7e0a92",
    "ordinal": 8,
    "modelDigest": DIGEST,
    "source": "URI",
    "verdict": "Rejected",
    "reason": "MoreFailures",
    "message": "c41d7e0a92 answered worse than 5f3a9c0d1e",
    "creationTime": "2026-11-23T14:00:00Z",
    "verdictTime": "2026-11-23T14:01:10Z",
}
ROLLOUT = {
    "step": 1,
    "weightPercent": 10,
    "startTime": "2026-11-23T14:00:00Z",
    "stepStartTime": "2026-11-23T14:00:30Z",
    "candidate": {"requests": 212, "failed": 0},
    "stable": {"requests": 1904, "failed": 1},
    "requiredRequests": 600,
    "eValue": "0.4",
    "abortAt": "1000",
}
DECISION = {
    "time": "2026-11-23T14:01:10Z",
    "action": "Aborted",
    "reason": "MoreFailures",
    "fromRevision": "c41d7e0a92",
    "toRevision": "5f3a9c0d1e",
    "message": "c41d7e0a92 answered worse than 5f3a9c0d1e",
    "evidence": "c41d7e0a92 21/104 failed, 5f3a9c0d1e 1/935, e=5.1e+03 (>= 1000 rejects)",
}
TRAINING_JOB: dict[str, Any] = {
    "data": {"uri": "https://data.example.com/wine", "digest": DIGEST, "format": "Parquet"},
    "target": "quality",
    "task": "Classification",
    "features": {"numeric": ["alcohol", "ash"], "categorical": ["colour"]},
    "preprocessing": {"imputeNumeric": "Mean", "scaleNumeric": "None", "encodeCategorical": "Ordinal"},
    "split": {"testPercent": 30},
    "estimators": [{"name": "RandomForestClassifier", "parameters": {"n_estimators": "200"}}],
    "seed": 7,
    "ttlSecondsAfterFinished": 3600,
    "suspend": True,
    "evaluation": {
        "requirements": [{"metric": "Accuracy", "minimum": "0.9"}],
        "slices": ["colour"],
        "sliceRequirements": [{"metric": "Accuracy", "minimum": "0.8", "minRows": 50}],
    },
    "output": {"uri": "pvc://models/wine"},
    "resources": {"limits": {"memory": "4Gi"}},
    "nodeSelector": {"disktype": "ssd"},
    "tolerations": [{"key": "gpu"}],
    "backoffLimit": 0,
    "activeDeadlineSeconds": 600,
}
BATCH_INFERENCE: dict[str, Any] = {
    "suspend": True,
    "model": {"modelDeploymentRef": {"name": "wine"}},
    "input": {"uri": "https://data.example.com/wine.csv", "digest": DIGEST, "format": "CSV"},
    "output": {"uri": "s3://lake/scored", "secretRef": {"name": "lake"}},
    "keepColumns": ["id"],
    "serviceAccountName": "batch",
    "batchRows": 64,
    "maxBadRowsPerMille": 5,
    "parallelism": 4,
    "resources": {"limits": {"memory": "4Gi"}},
    "nodeSelector": {"disktype": "ssd"},
    "tolerations": [{"key": "batch"}],
    "backoffLimit": 0,
    "activeDeadlineSeconds": 600,
    "ttlSecondsAfterFinished": 3600,
}
CONDITION = {
    "type": "Ready",
    "status": "Unknown",
    "observedGeneration": 2,
    "lastTransitionTime": "2026-11-23T14:00:00Z",
    "reason": "Resolving",
    "message": "reading pvc://models/wine",
}


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (ModelDeploymentSpec, MODEL_DEPLOYMENT),
        (TrainingJobSpec, TRAINING_JOB),
        (BatchInferenceSpec, BATCH_INFERENCE),
        (
            BatchInferenceStatus,
            {
                "observedGeneration": 1,
                "conditions": [CONDITION],
                "jobName": "wine-november-77c0de1a2b",
                "startTime": "2026-11-23T14:00:00Z",
                "completionTime": "2026-11-23T14:09:00Z",
                "model": {"uri": "pvc://models/wine", "digest": DIGEST, "revision": "5f3a9c0d1e"},
                "outputURI": "pvc://lake/scored/wine-november-77c0de1a2b",
                "rowsRead": 1250000,
                "rowsWritten": 1249999,
                "rowsBad": 1,
                "shards": 16,
                "shardsSucceeded": 16,
                "drift": {"rows": 1250000, "features": [{"name": "ash", "psiPerMille": 12, "limitPerMille": 104}]},
            },
        ),
        (
            ModelDeploymentStatus,
            {
                "observedGeneration": 2,
                "conditions": [CONDITION],
                "replicas": 2,
                "readyReplicas": 1,
                "selector": "holdfast.dev/revision=5f3a9c0d1e",
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
                "revisions": [REVISION],
                "rollout": ROLLOUT,
                "slo": {"availabilityBudgetPercent": 83, "latencyBudgetPercent": -12},
                "decisions": [DECISION],
                "lastHandledRollout": "abort c41d7e0a92",
                "lastHandledRefresh": "2",
            },
        ),
        (
            TrainingJobStatus,
            {
                "observedGeneration": 1,
                "conditions": [CONDITION],
                "jobName": "wine-1c7d20aa4b",
                "image": "localhost/holdfast-training:dev",
                "startTime": "2026-11-23T14:00:00Z",
                "completionTime": "2026-11-23T14:00:40Z",
                "model": {"uri": "pvc://models/wine/w", "digest": DIGEST, "estimator": "SVC", "sizeBytes": 48213},
                "progress": {"message": "trial 12 of 20", "trialsTotal": 20, "bestValue": "0.961"},
                "metrics": [{"name": "LogLoss", "value": "1.2e-09"}],
                "data": {"digest": DIGEST, "rows": 178, "testRows": 36, "columns": 14},
                "findings": [{"column": "ash", "rule": "NotNumeric", "message": "3 rows hold text", "rows": 3}],
                "packages": [{"name": "scikit-learn", "version": "1.8.0"}],
            },
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_is_read_is_what_is_written(kind: type[Model], data: dict[str, Any]) -> None:
    assert kind.parse(data).to_json() == data


def test_absent_stays_absent_and_defaults_are_filled_in() -> None:
    assert ModelDeploymentSpec.parse({"model": {"uri": "pvc://models"}}).to_json() == {
        "suspend": False,
        "model": {"uri": "pvc://models"},
        "serving": {"replicas": 1, "requestTimeoutMilliseconds": 10000},
        "rollout": {
            "strategy": "Immediate",
            "tolerancePerMille": 5,
            "onInsufficientTraffic": "Hold",
            "progressDeadlineSeconds": 600,
        },
        "guard": {"action": "Rollback", "warmSeconds": 600, "controlPercent": 2, "rollbackWindowSeconds": 86400},
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["model", "secretRef"], {"name": "x"}),
        (["serving", "replicas"], "3"),
        (["serving", "replicas"], 1.0),
        (["serving", "replicas"], True),
        (["serving", "replicas"], 1001),
        (["serving", "env"], [{"value": "no name"}]),
        (["serving", "resources", "requests", "cpu"], 0.5),
        (["model", "digest"], "9d"),
        (["model", "trainingJobRef"], {"name": "wine", "namespace": "other"}),
        (["suspend"], "true"),
        (["rollout", "strategy"], "BlueGreen"),
        (["rollout", "steps"], [{"weightPercent": 10}]),
        (["rollout", "steps"], []),
        (["rollout", "gatewayRef"], {"name": "public"}),
        (["guard", "controlPercent"], 21),
        (["slo", "availability"], 99.9),
        (["slo", "latency", "objective"], None),
        (["monitoring"], {"drift": {"toleratedPSIPerMille": 1}}),
        (["autoscaling"], {}),
    ],
)
def test_another_shape_is_refused(path: list[str], value: object) -> None:
    def replaced(data: dict[str, Any], rest: list[str]) -> dict[str, Any]:
        head, *tail = rest
        return {**data, head: replaced(data[head], tail) if tail else value}

    with pytest.raises(ValidationError):
        ModelDeploymentSpec.parse(replaced(MODEL_DEPLOYMENT, path))


def test_objects_cannot_be_changed() -> None:
    spec = ModelDeploymentSpec.parse(MODEL_DEPLOYMENT)
    with pytest.raises(ValidationError, match="frozen"):
        spec.serving.replicas = 5  # type: ignore[misc]


def test_python_names_are_the_json_names_in_snake_case() -> None:
    spec = TrainingJobSpec.parse(TRAINING_JOB)
    assert spec.split is not None
    assert spec.split.test_percent == 30
    assert spec.active_deadline_seconds == 600


def test_times_are_written_in_utc_and_whole_seconds() -> None:
    moment = datetime(2026, 11, 23, 15, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=1)))
    status = TrainingJobStatus(start_time=moment)
    assert status.to_json() == {"conditions": [], "startTime": "2026-11-23T14:00:00Z"}


def test_conditions_are_made_from_the_enums() -> None:
    condition = Condition(
        type=ModelDeploymentCondition.READY,
        status="True",
        observed_generation=1,
        last_transition_time=datetime(2026, 11, 23, tzinfo=UTC),
        reason=ModelDeploymentReason.SERVING,
        message="",
    )
    assert condition.to_json()["type"] == "Ready"
    assert condition.to_json()["reason"] == "Serving"


@pytest.mark.parametrize("reason", [*ModelDeploymentReason, *TrainingJobReason, *BatchInferenceReason])
def test_every_reason_is_one_that_a_condition_takes(reason: str) -> None:
    assert Condition.parse({**CONDITION, "reason": reason}).reason == reason
