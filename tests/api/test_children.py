"""Children as rendered, on a real API server: it stores what was sent, and admits their pods where rules are strict."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.build import samples

from holdfast.build.quantities import canonical
from holdfast.kube.kinds import CHILDREN
from holdfast_devcluster import ControlPlane

Json = dict[str, Any]
NAMESPACE = "api-children"
APPLY = "application/apply-patch+yaml"
LONGEST = "w" * 52
CHILD_NAMES = sorted(samples.every_manifest())


@pytest.fixture(scope="module")
def namespace(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """A namespace that enforces the restricted Pod Security Standard."""
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    control_plane.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": enforced}})
    # The admission of pods asks for their service account, which a controller makes a moment later.
    waited = ("--for=create", "serviceaccount/default", "--timeout=150s", f"--namespace={NAMESPACE}")
    control_plane.kubectl("wait", *waited)
    control_plane.kubectl("create", "serviceaccount", samples.NAME, f"--namespace={NAMESPACE}")
    yield control_plane
    control_plane.api.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}")


def write(plane: ControlPlane, manifest: Json) -> Json:
    """As the operator does: Jobs are created, all else is applied."""
    if manifest["kind"] == "Job":
        path = CHILDREN["Job"].path(NAMESPACE)
        return plane.api.request("POST", path + "?fieldManager=holdfast&fieldValidation=Strict", manifest)
    path = CHILDREN[manifest["kind"]].path(NAMESPACE, manifest["metadata"]["name"])
    query = "?fieldManager=holdfast&force=true&fieldValidation=Strict"
    return plane.api.request("PATCH", path + query, manifest, content=APPLY)


def missing(desired: Any, live: Any, path: str = "") -> Iterator[str]:
    """Paths of what was sent and is not there; items of lists are matched by name, or by place where they have none."""
    if isinstance(desired, dict):
        for key, value in desired.items():
            yield from missing(value, live.get(key) if isinstance(live, dict) else None, f"{path}.{key}")
    elif isinstance(desired, list) and isinstance(live, list) and len(desired) == len(live):
        stored = named(live)
        for key, item in named(desired).items():
            yield from missing(item, stored.get(key), f"{path}[{key}]")
    elif (desired, type(desired)) != (live, type(live)):
        yield f"{path}: sent {desired!r}, stored {live!r}"


def named(items: list[Any]) -> dict[str | int, Any]:
    return {item.get("name", index) if isinstance(item, dict) else index: item for index, item in enumerate(items)}


@pytest.mark.parametrize("name", [samples.NAME, LONGEST])
@pytest.mark.parametrize("child", CHILD_NAMES)
def test_the_api_server_stores_every_field_as_it_was_sent(namespace: ControlPlane, child: str, name: str) -> None:
    manifest = samples.every_manifest(NAMESPACE, name)[child]
    assert list(missing(manifest, write(namespace, manifest))) == []


@pytest.mark.parametrize("child", ["service", "budget", "deployment"])
def test_a_second_apply_changes_nothing(namespace: ControlPlane, child: str) -> None:
    manifest = samples.every_manifest(NAMESPACE, "twice")[child]
    deadline = time.monotonic() + 60
    before = write(namespace, manifest)
    # Controllers write the status some times at first.
    while (after := write(namespace, manifest))["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]:
        assert time.monotonic() < deadline, list(missing(before, after))
        before = after


@pytest.mark.parametrize("child", ["deployment", "resolve job", "training job"])
def test_pods_are_admitted_under_the_restricted_standard(namespace: ControlPlane, child: str) -> None:
    template = samples.every_manifest(NAMESPACE)[child]["spec"]["template"]
    pod = {"metadata": {"name": "one", "labels": template["metadata"]["labels"]}, "spec": template["spec"]}
    admitted = namespace.api.request(
        "POST", f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All&fieldValidation=Strict", pod
    )
    mounts = admitted["spec"]["containers"][0]["volumeMounts"]
    assert not any("serviceaccount" in mount["mountPath"] for mount in mounts)


def test_canonical_quantities_are_stored_as_they_are(namespace: ControlPlane) -> None:
    given = ["0", "+1", "01", "5.", ".5", "1.5", "0.0001", "1000", "1500", "1.1Ki", "0.5Ki", "1.5Gi", "16Ei", "7.5Ei"]
    given += ["1e3", "1e0", "12e-1", "1e-9", "1e30", "10E", "9.9E", "123456789.123456789", "12345678901234567890m"]
    for quantity in given:
        resources = {"requests": {"memory": canonical(quantity), "cpu": canonical(quantity)}}
        manifest = samples.revision("quantities", NAMESPACE, resources=resources).render(0)
        path = CHILDREN["Deployment"].path(NAMESPACE) + "?dryRun=All"
        stored = namespace.api.request("POST", path, manifest)
        assert stored["spec"]["template"]["spec"]["containers"][0]["resources"] == resources, quantity
