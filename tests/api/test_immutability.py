"""A TrainingJob, or a BatchInference, is one run: its spec stays what it was."""

from collections.abc import Callable

import pytest
from tests.api.server import Json, Server, batch_inference, says_only, training_job

from holdfast.api.batchinference import BatchInferenceSpec
from holdfast.api.trainingjob import TrainingJobSpec
from holdfast_devcluster.api import ApiError

MESSAGE = (
    "a TrainingJob is one run and cannot change (suspend and ttlSecondsAfterFinished may): give the new run a new name"
)
FULL = training_job(
    "full",
    features={"numeric": ["ash"]},
    preprocessing={},
    split={},
    tuning={},
    seed=3,
    evaluation={"requirements": [{"metric": "F1", "minimum": "0.5"}]},
    tracking={"uri": "http://mlflow.tools:5000"},
    resources={"limits": {"memory": "1Gi"}},
    nodeSelector={"disktype": "ssd"},
    tolerations=[{"key": "gpu"}],
    serviceAccountName="wine",
)
CHANGES: list[Json] = [
    {"data": {"uri": "https://data.example.com/other.csv"}},
    {"data": {"digest": "sha256:" + "0" * 64}},
    {"data": {"format": "CSV"}},
    {"target": "hue"},
    {"task": "Regression", "estimators": [{"name": "Ridge"}], "evaluation": None},
    {"features": {"numeric": ["ash", "hue"]}},
    {"features": None},
    {"preprocessing": {"scaleNumeric": "MinMax"}},
    {"preprocessing": None},
    {"split": {"testPercent": 21}},
    {"split": None},
    {"estimators": [{"name": "SVC"}]},
    {"estimators": [{"name": "RandomForestClassifier", "parameters": {"n_estimators": "9"}}]},
    {
        "estimators": None,
        "features": None,
        "preprocessing": None,
        "split": None,
        "tuning": None,
        "container": {"image": "x"},
    },
    {"tuning": {"trials": 21}},
    {"tuning": None},
    {
        "estimators": None,
        "features": None,
        "preprocessing": None,
        "split": None,
        "tuning": None,
        "container": {"image": "x"},
        "distributed": {"workers": 2},
    },
    {"calibration": "Sigmoid"},
    {"seed": 4},
    {"seed": None},
    {"evaluation": {"requirements": [{"metric": "F1", "minimum": "0.4"}]}},
    {"evaluation": None},
    {"output": {"uri": "pvc://models/other"}},
    {"tracking": {"experiment": "wine"}},
    {"tracking": None},
    {"resources": {"limits": {"memory": "2Gi"}}},
    {"resources": None},
    {"nodeSelector": None},
    {"nodeSelector": {"disktype": "hdd"}},
    {"tolerations": []},
    {"tolerations": None},
    {"serviceAccountName": "other"},
    {"serviceAccountName": None},
    {"backoffLimit": 3},
    {"activeDeadlineSeconds": 60},
]


@pytest.fixture(scope="module")
def merge(server: Server) -> Callable[[Json], Json]:
    server.create(FULL)
    return lambda patch: server.merge("TrainingJob", "full", patch)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_no_field_can_change_appear_or_disappear(merge: Callable[[Json], Json], change: Json) -> None:
    with pytest.raises(ApiError) as caught:
        merge({"spec": change})
    assert says_only(str(caught.value), "spec", MESSAGE), caught.value


def test_every_field_was_tried() -> None:
    assert {field for change in CHANGES for field in change} == {*FULL["spec"]} | {
        "backoffLimit",
        "activeDeadlineSeconds",
        "container",
        "distributed",
        "calibration",
    }
    assert {field.alias for field in TrainingJobSpec.model_fields.values()} == {
        *(field for change in CHANGES for field in change),
        "suspend",
        "ttlSecondsAfterFinished",
    }


def test_a_run_can_be_suspended_and_kept_for_another_time(merge: Callable[[Json], Json]) -> None:
    for spec in ({"suspend": True}, {"suspend": False}, {"ttlSecondsAfterFinished": 0}):
        assert merge({"spec": spec})["spec"].items() >= spec.items()


def test_labels_and_annotations_can_change(merge: Callable[[Json], Json]) -> None:
    before = merge({})["metadata"]["generation"]
    changed = merge({"metadata": {"labels": {"team": "wine"}, "annotations": {"note": "x"}}})
    assert changed["metadata"]["labels"] == {"team": "wine"}
    assert changed["metadata"]["generation"] == before


def test_the_same_manifest_can_be_applied_again(server: Server) -> None:
    manifest = training_job("again")
    server.apply(manifest, manager="git")
    first = server.apply(manifest, manager="git")  # this one stores the status that was only read as its default
    second = server.apply(manifest, manager="git")
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]
    assert first["metadata"]["generation"] == 1


def test_spelling_a_default_out_is_no_change(server: Server) -> None:
    server.apply(training_job("defaults"), manager="git")
    spelled_out = training_job(
        "defaults", seed=0, backoffLimit=2, activeDeadlineSeconds=86400, ttlSecondsAfterFinished=604800, suspend=False
    )
    assert server.apply(spelled_out, manager="git")["metadata"]["generation"] == 1


def test_a_new_run_is_a_new_name_or_a_new_object(server: Server) -> None:
    server.create(training_job("again-2", seed=1))
    server.kubectl("delete", "tjob", "again-2")
    assert server.create(training_job("again-2", seed=2))["spec"]["seed"] == 2


BATCH = batch_inference("full", keepColumns=["id"], nodeSelector={"disktype": "ssd"}, resources={})
BATCH_CHANGES: list[Json] = [
    {"model": {"modelDeploymentRef": {"name": "other"}}},
    {"input": {"uri": "pvc://lake/other/"}},
    {"output": {"uri": "pvc://lake/other"}},
    {"keepColumns": ["id", "other"]},
    {"keepColumns": None},
    {"batchRows": 1},
    {"maxBadRowsPerMille": 1},
    {"parallelism": 2},
    {"resources": None},
    {"nodeSelector": None},
    {"tolerations": [{"key": "batch"}]},
    {"serviceAccountName": "batch"},
    {"backoffLimit": 3},
    {"activeDeadlineSeconds": 60},
]


def test_no_field_of_a_batch_can_change_but_two(server: Server) -> None:
    server.create(BATCH)
    for change in BATCH_CHANGES:
        with pytest.raises(ApiError) as caught:
            server.merge("BatchInference", "full", {"spec": change})
        assert says_only(str(caught.value), "spec", MESSAGE.replace("TrainingJob", "BatchInference")), caught.value
    changed = server.merge("BatchInference", "full", {"spec": {"suspend": True, "ttlSecondsAfterFinished": 0}})
    assert changed["metadata"]["generation"] == 2
    assert {field.alias for field in BatchInferenceSpec.model_fields.values()} == {
        *(field for change in BATCH_CHANGES for field in change),
        "suspend",
        "ttlSecondsAfterFinished",
    }
