"""A field with a default that a later version adds does not make old objects unchangeable."""

import copy
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.api.server import APPLY, MERGE, Json, Server, training_job

from holdfast.api.crd import custom_resource_definition
from holdfast.api.trainingjob import TRAINING_JOB
from holdfast_devcluster.api import ApiError

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture(scope="module")
def present() -> Json:
    """The CRD of TrainingJob as it is, under another name."""
    return custom_resource_definition(replace(TRAINING_JOB, kind="OldRun", plural="oldruns", short_name="oldrun"))


@pytest.fixture
def objects(server: Server, present: Json) -> Iterator[str]:
    """The path of objects whose CRD does not know `spec.seed` yet."""
    smaller = copy.deepcopy(present)
    del smaller["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["seed"]
    name = present["metadata"]["name"]
    server.plane.api.request("POST", CRDS, smaller)
    server.plane.kubectl("wait", "--for=condition=Established", f"crd/{name}")
    yield f"/apis/holdfast.dev/v1alpha1/namespaces/{server.namespace}/oldruns"
    server.plane.api.request("DELETE", f"{CRDS}/{name}")


def test_an_object_from_before_a_new_default_stays_what_it_is_and_can_be_applied_again(
    server: Server, present: Json, objects: str
) -> None:
    api = server.plane.api
    manifest = {**training_job("old"), "kind": "OldRun"}
    before = api.request("PATCH", f"{objects}/old?fieldManager=git", manifest, content=APPLY)
    assert "seed" not in before["spec"]

    crd = present["metadata"]["name"]
    api.request("PATCH", f"{CRDS}/{crd}", {"spec": present["spec"]}, content=MERGE)
    deadline = time.monotonic() + 60
    while "seed" not in api.request("GET", f"{objects}/old")["spec"]:
        assert time.monotonic() < deadline, "the API server did not take up the new schema"
        time.sleep(0.1)

    after = api.request("PATCH", f"{objects}/old?fieldManager=git", manifest, content=APPLY)
    assert after["spec"] == {**before["spec"], "seed": 0}
    assert after["metadata"]["generation"] == 1
    labelled = api.request("PATCH", f"{objects}/old", {"metadata": {"labels": {"a": "b"}}}, content=MERGE)
    assert labelled["metadata"]["generation"] == 1
    with pytest.raises(ApiError, match="a TrainingJob is one run and cannot change"):
        api.request("PATCH", f"{objects}/old", {"spec": {"seed": 1}}, content=MERGE)
