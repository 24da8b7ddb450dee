"""What the API server fills in, and what it does not know."""

import pytest
from tests.api.server import Json, Server, batch_inference, model_deployment, training_job

from holdfast.api.batchinference import BatchInferenceSpec
from holdfast.api.meta import Model
from holdfast.api.modeldeployment import ModelDeploymentSpec
from holdfast.api.trainingjob import TrainingJobSpec
from holdfast_devcluster.api import ApiError

SPECS: dict[str, type[Model]] = {
    "ModelDeployment": ModelDeploymentSpec,
    "TrainingJob": TrainingJobSpec,
    "BatchInference": BatchInferenceSpec,
}
ROLLOUT = {
    "strategy": "Immediate",
    "tolerancePerMille": 5,
    "onInsufficientTraffic": "Hold",
    "progressDeadlineSeconds": 600,
}
GUARD = {"action": "Rollback", "warmSeconds": 600, "controlPercent": 2, "rollbackWindowSeconds": 86400}
PREPROCESSING = {"imputeNumeric": "Median", "scaleNumeric": "Standard", "encodeCategorical": "OneHot"}


@pytest.mark.parametrize("serving", [None, {}, {"replicas": None}])
def test_a_model_deployment_has_one_replica_and_ten_seconds_unless_told(server: Server, serving: Json | None) -> None:
    stored = server.accepts(model_deployment(serving=serving))
    assert stored["spec"]["serving"] == {"replicas": 1, "requestTimeoutMilliseconds": 10000}


@pytest.mark.parametrize("given", [None, {}, {"strategy": None, "action": None}])
def test_a_rollout_is_immediate_and_guarded_unless_told(server: Server, given: Json | None) -> None:
    rollout = given and {"strategy": None}
    guard = given and {"action": None}
    stored = server.accepts(model_deployment(rollout=rollout, guard=guard))["spec"]
    assert stored == {
        "suspend": False,
        "model": {"uri": "pvc://models/wine"},
        "serving": {"replicas": 1, "requestTimeoutMilliseconds": 10000},
        "rollout": ROLLOUT,
        "guard": GUARD,
    }


def test_parts_of_a_rollout_that_are_begun_are_completed(server: Server) -> None:
    begun = model_deployment(
        rollout={"strategy": "Canary", "shadow": {}}, guard={"warmSeconds": 0}, slo={"availability": "99.9"}
    )
    stored = server.accepts(begun)["spec"]
    assert stored["rollout"] == {**ROLLOUT, "strategy": "Canary", "shadow": {"percent": 100, "minSeconds": 60}}
    assert stored["guard"] == {**GUARD, "warmSeconds": 0}
    assert stored["slo"] == {"availability": "99.9", "windowDays": 30}


def test_a_training_job_gets_a_seed_and_limits(server: Server) -> None:
    body = training_job()
    stored = server.accepts(body)
    assert stored["spec"] == {
        **body["spec"],
        "suspend": False,
        "seed": 0,
        "backoffLimit": 2,
        "activeDeadlineSeconds": 86400,
        "ttlSecondsAfterFinished": 604800,
    }


def test_a_batch_is_scored_by_one_pod_that_takes_no_bad_row_unless_told(server: Server) -> None:
    body = batch_inference()
    assert server.accepts(body)["spec"] == {
        **body["spec"],
        "suspend": False,
        "batchRows": 1024,
        "maxBadRowsPerMille": 0,
        "parallelism": 1,
        "backoffLimit": 2,
        "activeDeadlineSeconds": 86400,
        "ttlSecondsAfterFinished": 604800,
    }


def test_parts_of_a_training_job_that_are_begun_are_completed(server: Server) -> None:
    stored = server.accepts(training_job(preprocessing={"scaleNumeric": "None"}, split={}))["spec"]
    assert stored["preprocessing"] == {**PREPROCESSING, "scaleNumeric": "None"}
    assert stored["split"] == {"testPercent": 20}


@pytest.mark.parametrize(
    "body",
    [
        model_deployment(),
        model_deployment(serving={"env": [{"name": "A", "value": "x"}], "tolerations": [{"key": "a"}]}),
        model_deployment(serving={"resources": {"requests": {"cpu": 1, "memory": "1Gi"}}}),
        model_deployment(serving={"tls": {"secretRef": {"name": "a"}}}),
        model_deployment(serving={"feedback": {"secretRef": {"name": "a"}}}),
        model_deployment(suspend=True, rollout={"strategy": "Manual", "shadow": {"percent": 5}}),
        model_deployment(rollout={"strategy": "Canary", "steps": [{"weightPercent": 1, "minSeconds": 0}]}),
        model_deployment(guard={"action": "Notify"}, slo={"latency": {"thresholdMilliseconds": 5, "objective": "99"}}),
        model_deployment(monitoring={"drift": {"features": ["alcohol"]}, "performance": {}}),
        batch_inference(),
        batch_inference(suspend=True, keepColumns=["id"], resources={}),
        model_deployment(
            model=None,
            monitoring={"drift": {}, "performance": {}},
            retraining={
                "template": {"spec": training_job(split={})["spec"]},
                "triggers": {"newData": {}, "performance": {}, "drift": {}, "schedule": {"cron": "0 3 * * 0"}},
            },
        ),
        training_job(),
        training_job(preprocessing={}, split={}, evaluation={}, resources={}),
        training_job(estimators=[{"name": "SVC", "parameters": {"C": "2"}}], tolerations=[{"operator": "Exists"}]),
    ],
)
def test_plans_see_the_same_defaults_as_kubectl(server: Server, body: Json) -> None:
    read = SPECS[body["kind"]]
    stored = server.accepts(body)["spec"]
    assert read.parse(stored).to_json() == stored
    assert read.parse(body["spec"]) == read.parse(stored)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (model_deployment(monitoring={"images": {}}), "spec.monitoring.images"),
        (model_deployment(rollout={"gatewayRef": {"name": "public"}}), "spec.rollout.gatewayRef"),
        (model_deployment(serving={"autoscaling": {}}), "spec.serving.autoscaling"),
        (
            model_deployment(serving={"tls": {"secretRef": {"name": "a", "namespace": "other"}}}),
            "spec.serving.tls.secretRef.namespace",
        ),
        (
            model_deployment(model={"trainingJobRef": {"name": "wine", "namespace": "other"}}),
            "spec.model.trainingJobRef.namespace",
        ),
        (
            model_deployment(
                serving={
                    "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}],
                },
            ),
            "spec.serving.env[0].valueFrom.secretKeyRef",
        ),
        (training_job(queueName="research"), "spec.queueName"),
        (
            training_job(data={"uri": "s3://lake/b", "secretRef": {"name": "a", "namespace": "other"}}),
            "spec.data.secretRef.namespace",
        ),
    ],
)
def test_a_field_that_does_not_work_yet_is_unknown_to_a_strict_client(server: Server, body: Json, field: str) -> None:
    assert f'unknown field "{field}"' in server.refusal(body)


def test_a_reference_into_another_namespace_is_pruned_for_any_other_client(server: Server) -> None:
    body = model_deployment(model={"trainingJobRef": {"name": "wine", "namespace": "other"}})
    stored = server.create(body, dry_run=True, strict=False)
    assert stored["spec"]["model"] == {"trainingJobRef": {"name": "wine"}}


def test_null_is_the_same_as_absent(server: Server) -> None:
    body = model_deployment()
    body["spec"]["serving"] = None
    body["spec"]["model"]["digest"] = None
    assert server.accepts(body)["spec"] == server.accepts(model_deployment())["spec"]


def test_a_spec_is_required(server: Server) -> None:
    body = model_deployment()
    del body["spec"]
    with pytest.raises(ApiError, match="spec: Required value"):
        server.accepts(body)
