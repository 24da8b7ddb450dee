"""What people see with kubectl."""

import pytest
from tests.api.server import Json, Server, model_deployment, training_job

from holdfast_devcluster.errors import ClusterError

DIGEST = "sha256:" + "9d" * 32


@pytest.fixture(scope="module")
def objects(server: Server) -> Server:
    """One object of each kind with a status, and one without."""
    for body, status in (
        (
            model_deployment("wine"),
            {
                "observedGeneration": 1,
                "conditions": [condition("Ready", "Serving", "5f3a9c0d1e serves")],
                "readyReplicas": 2,
                "stableRevision": "5f3a9c0d1e",
                "url": "http://wine.default.svc",
                "model": {
                    "uri": "pvc://models/wine",
                    "digest": DIGEST,
                    "source": "URI",
                    "runtimeImage": "localhost/holdfast-serving:dev",
                },
            },
        ),
        (
            training_job("wine"),
            {
                "observedGeneration": 1,
                "conditions": [condition("Succeeded", "Completed", "Accuracy 0.972")],
                "metrics": [{"name": "Accuracy", "value": "0.972"}, {"name": "F1", "value": "0.9"}],
                "model": {"uri": "pvc://models/wine/wine-1c7d20aa4b", "digest": DIGEST},
            },
        ),
    ):
        server.create(body)
        server.create({**body, "metadata": {"name": "unseen"}})
        server.merge(body["kind"], "wine", {"status": status}, "status")
    return server


def condition(kind: str, reason: str, message: str) -> Json:
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-11-23T14:00:00Z",
    }


def table(text: str) -> list[dict[str, str]]:
    """The rows of `kubectl get` by the place of their headings, so that empty cells stay empty."""
    header, *lines = text.splitlines()
    names = header.split()
    starts = [header.index(name) for name in names]
    ends = [*starts[1:], None]
    return [{name: line[a:b].strip() for name, a, b in zip(names, starts, ends, strict=True)} for line in lines]


def test_get_shows_a_model_deployment_at_a_glance(objects: Server) -> None:
    unseen, wine = table(objects.kubectl("get", "mdep"))
    assert [*wine] == ["NAME", "READY", "REASON", "REVISION", "PODS", "AGE"]
    assert [*wine.values()][:-1] == ["wine", "True", "Serving", "5f3a9c0d1e", "2"]
    assert [*unseen.values()][:-1] == ["unseen", "", "", "", ""]


def test_wide_adds_model_address_and_message(objects: Server) -> None:
    _, wine = table(objects.kubectl("get", "mdep", "-o", "wide"))
    assert [*wine][6:] == ["MODEL", "URL", "MESSAGE"]
    assert [*wine.values()][6:] == ["pvc://models/wine", "http://wine.default.svc", "5f3a9c0d1e serves"]


def test_get_shows_a_training_job_at_a_glance(objects: Server) -> None:
    unseen, wine = table(objects.kubectl("get", "tjob"))
    assert [*wine] == ["NAME", "SUCCEEDED", "REASON", "METRIC", "SCORE", "AGE"]
    assert [*wine.values()][:-1] == ["wine", "True", "Completed", "Accuracy", "0.972"]
    assert [*unseen.values()][:-1] == ["unseen", "", "", "", ""]


def test_wide_adds_the_bundle_and_the_message(objects: Server) -> None:
    _, wine = table(objects.kubectl("get", "tjob", "-o", "wide"))
    assert [*wine][6:] == ["MODEL", "MESSAGE"]
    assert [*wine.values()][6:] == ["pvc://models/wine/wine-1c7d20aa4b", "Accuracy 0.972"]


def test_the_category_lists_both_kinds(objects: Server) -> None:
    names = objects.kubectl("get", "holdfast", "-o", "name").split()
    assert names == [
        "modeldeployment.holdfast.dev/unseen",
        "modeldeployment.holdfast.dev/wine",
        "trainingjob.holdfast.dev/unseen",
        "trainingjob.holdfast.dev/wine",
    ]


def test_wait_understands_the_conditions(objects: Server) -> None:
    assert "condition met" in objects.kubectl("wait", "--for=condition=Ready", "--timeout=10s", "mdep/wine")
    assert "condition met" in objects.kubectl("wait", "--for=condition=Succeeded", "--timeout=10s", "tjob/wine")


def test_wait_does_not_take_the_condition_of_an_older_spec(server: Server) -> None:
    server.create(model_deployment("changed"))
    status = {"observedGeneration": 1, "conditions": [condition("Ready", "Serving", "") | {"observedGeneration": 1}]}
    server.merge("ModelDeployment", "changed", {"status": status}, "status")
    server.merge("ModelDeployment", "changed", {"spec": {"serving": {"replicas": 2}}})
    with pytest.raises(ClusterError, match="timed out waiting"):
        server.kubectl("wait", "--for=condition=Ready", "--timeout=1s", "mdep/changed")
    server.kubectl("delete", "mdep/changed")


def test_explain_tells_what_a_field_is_for(objects: Server) -> None:
    assert "An autoscaler writes this" in objects.kubectl("explain", "mdep.spec.serving.replicas")
    assert "Class name." in objects.kubectl("explain", "tjob.spec.estimators.name")
