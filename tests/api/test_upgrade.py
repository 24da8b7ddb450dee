"""Objects from before a change of the API stay what they are, and usable."""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tests.api.server import APPLY, MERGE, Json, Server, model_deployment, training_job

from holdfast.api.crd import custom_resource_definition
from holdfast.api.meta import Kind
from holdfast.api.modeldeployment import MODEL_DEPLOYMENT, ModelDeploymentSpec, ModelDeploymentStatus
from holdfast.api.trainingjob import TRAINING_JOB
from holdfast_devcluster.api import ApiError

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
EARLIER = Path(__file__).parent / "earlier"
OLD_RUN = replace(TRAINING_JOB, kind="OldRun", plural="oldruns", short_name="oldrun")
OLD_DEPLOYMENT = replace(MODEL_DEPLOYMENT, kind="OldDeployment", plural="olddeployments", short_name="olddep")


@pytest.fixture
def runs(server: Server) -> Iterator[str]:
    """The path of TrainingJobs, under another name, whose CRD does not know `spec.seed` yet."""
    smaller = copy.deepcopy(custom_resource_definition(OLD_RUN))
    spec = smaller["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["seed"]
    spec["x-kubernetes-validations"] = [rule for rule in spec["x-kubernetes-validations"] if "seed" not in rule["rule"]]
    yield from established(server, OLD_RUN, smaller)


@pytest.fixture
def deployments(server: Server) -> Iterator[str]:
    """The path of ModelDeployments, under another name, with the CRD of the time before there were rollouts."""
    crd = yaml.safe_load((EARLIER / "modeldeployments.yaml").read_text(encoding="utf-8"))
    present = custom_resource_definition(OLD_DEPLOYMENT)
    crd["metadata"], crd["spec"]["names"] = present["metadata"], present["spec"]["names"]
    yield from established(server, OLD_DEPLOYMENT, crd)


def established(server: Server, kind: Kind, crd: Json) -> Iterator[str]:
    name = crd["metadata"]["name"]
    server.plane.api.request("POST", CRDS, crd)
    server.plane.kubectl("wait", "--for=condition=Established", "--timeout=150s", f"crd/{name}")
    yield f"/apis/holdfast.dev/v1alpha1/namespaces/{server.namespace}/{kind.plural}"
    server.plane.api.request("DELETE", f"{CRDS}/{name}")


def upgrade(server: Server, kind: Kind, taken_up: Callable[[], bool]) -> None:
    """To the CRD of now."""
    crd = custom_resource_definition(kind)
    server.plane.api.request("PATCH", f"{CRDS}/{crd['metadata']['name']}", {"spec": crd["spec"]}, content=MERGE)
    deadline = time.monotonic() + 150
    while not taken_up():
        assert time.monotonic() < deadline, "the API server did not take up the new schema"
        time.sleep(0.1)


def test_an_object_from_before_a_new_default_stays_what_it_is_and_can_be_applied_again(
    server: Server, runs: str
) -> None:
    api = server.plane.api
    manifest = {**training_job("old"), "kind": "OldRun"}
    before = api.request("PATCH", f"{runs}/old?fieldManager=git", manifest, content=APPLY)
    assert "seed" not in before["spec"]
    upgrade(server, OLD_RUN, lambda: "seed" in api.request("GET", f"{runs}/old")["spec"])

    after = api.request("PATCH", f"{runs}/old?fieldManager=git", manifest, content=APPLY)
    assert after["spec"] == {**before["spec"], "seed": 0}
    assert after["metadata"]["generation"] == 1
    labelled = api.request("PATCH", f"{runs}/old", {"metadata": {"labels": {"a": "b"}}}, content=MERGE)
    assert labelled["metadata"]["generation"] == 1
    with pytest.raises(ApiError, match="a TrainingJob is one run and cannot change"):
        api.request("PATCH", f"{runs}/old", {"spec": {"seed": 1}}, content=MERGE)


def test_a_model_that_was_served_before_there_were_rollouts_is_guarded_and_otherwise_what_it_was(
    server: Server, deployments: str
) -> None:
    api = server.plane.api
    manifest = {**model_deployment("wine", serving={"replicas": 2, "maxBatchRows": 8}), "kind": "OldDeployment"}
    before = api.request("PATCH", f"{deployments}/wine?fieldManager=git", manifest, content=APPLY)
    assert "rollout" not in before["spec"]
    served = {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "observedGeneration": 1,
                "lastTransitionTime": "2026-11-23T14:00:00Z",
                "reason": "Serving",
                "message": "5f3a9c0d1e serves",
            }
        ],
        "replicas": 2,
        "readyReplicas": 2,
        "selector": "holdfast.dev/revision=5f3a9c0d1e",
        "stableRevision": "5f3a9c0d1e",
    }
    api.request("PATCH", f"{deployments}/wine/status", {"status": served}, content=MERGE)
    upgrade(server, OLD_DEPLOYMENT, lambda: "rollout" in api.request("GET", f"{deployments}/wine")["spec"])

    after = api.request("PATCH", f"{deployments}/wine?fieldManager=git", manifest, content=APPLY)
    assert after["metadata"]["generation"] == 1
    assert after["status"] == served
    assert ModelDeploymentStatus.parse(served).to_json() == served
    spec = ModelDeploymentSpec.parse(after["spec"])
    assert (spec.suspend, spec.rollout.strategy, spec.guard.action, spec.slo) == (False, "Immediate", "Rollback", None)
    assert spec == ModelDeploymentSpec.parse(before["spec"])
    assert {name: after["spec"][name] for name in before["spec"]} == before["spec"]

    api.request("PATCH", f"{deployments}/wine/scale", {"spec": {"replicas": 3}}, content=MERGE)
    canary = {**manifest, "spec": {**manifest["spec"], "rollout": {"strategy": "Canary"}}}
    api.request("PATCH", f"{deployments}/wine?fieldManager=git&force=true", canary, content=APPLY)
    status = {**served, "lastHandledRefresh": "2", "slo": {"availabilityBudgetPercent": 100}}
    changed = api.request("PATCH", f"{deployments}/wine/status", {"status": status}, content=MERGE)
    assert (changed["spec"]["rollout"]["strategy"], changed["status"]) == ("Canary", status)
