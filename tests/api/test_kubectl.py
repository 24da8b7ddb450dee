"""What people see with kubectl."""

import json
import re
import shlex
from pathlib import Path

import pytest
from tests.api.server import Json, Server, batch_inference, model_deployment, training_job

from holdfast_devcluster.errors import ClusterError

DIGEST = "sha256:" + "9d" * 32
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
REVISION = {
    "name": "0b77aa61f4",
    "ordinal": 3,
    "modelDigest": DIGEST,
    "source": "URI",
    "verdict": "Rejected",
    "reason": "MoreFailures",
    "message": "0b77aa61f4 answered worse than 5f3a9c0d1e",
}
DECISION = {
    "time": "2026-11-23T13:01:10Z",
    "action": "Aborted",
    "reason": "MoreFailures",
    "fromRevision": "0b77aa61f4",
    "toRevision": "5f3a9c0d1e",
    "message": "0b77aa61f4 answered worse than 5f3a9c0d1e",
    "evidence": "0b77aa61f4 21/104 failed, 5f3a9c0d1e 1/935, e=5.1e+03 (>= 1000 rejects)",
}


@pytest.fixture(scope="module")
def objects(server: Server) -> Server:
    """One object of each kind with a status, and one without."""
    for body, status in (
        (
            model_deployment("wine"),
            {
                "observedGeneration": 1,
                "conditions": [
                    condition("Ready", "Serving", "5f3a9c0d1e serves"),
                    condition("SLOHealthy", "FastBurn", "availability: 3 % bad in 1h") | {"status": "False"},
                    condition("DataStable", "NoDrift", "13 features are as the held-out rows"),
                ],
                "readyReplicas": 2,
                "stableRevision": "5f3a9c0d1e",
                "candidateRevision": "c41d7e0a92",
                "rollout": ROLLOUT,
                "revisions": [REVISION],
                "decisions": [DECISION],
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
        (
            batch_inference("wine"),
            {
                "observedGeneration": 1,
                "conditions": [condition("Succeeded", "Completed", "1,250 rows")],
                "rowsWritten": 1250,
                "shardsSucceeded": 16,
                "outputURI": "pvc://lake/scored/wine-77c0de1a2b",
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
    assert [*wine] == ["NAME", "READY", "REASON", "REVISION", "CANDIDATE", "WEIGHT", "PODS", "SLO", "DATA", "AGE"]
    values = ["wine", "True", "Serving", "5f3a9c0d1e", "c41d7e0a92", "10", "2", "False", "True"]
    assert [*wine.values()][:-1] == values
    assert [*unseen.values()][:-1] == ["unseen", "", "", "", "", "", "", "", ""]


def test_wide_adds_model_address_and_message(objects: Server) -> None:
    _, wine = table(objects.kubectl("get", "mdep", "-o", "wide"))
    assert [*wine][10:] == ["MODEL", "URL", "MESSAGE"]
    assert [*wine.values()][10:] == ["pvc://models/wine", "http://wine.default.svc", "5f3a9c0d1e serves"]


def test_get_shows_a_training_job_at_a_glance(objects: Server) -> None:
    unseen, wine = table(objects.kubectl("get", "tjob"))
    assert [*wine] == ["NAME", "SUCCEEDED", "REASON", "METRIC", "SCORE", "AGE"]
    assert [*wine.values()][:-1] == ["wine", "True", "Completed", "Accuracy", "0.972"]
    assert [*unseen.values()][:-1] == ["unseen", "", "", "", ""]


def test_wide_adds_the_bundle_and_the_message(objects: Server) -> None:
    _, wine = table(objects.kubectl("get", "tjob", "-o", "wide"))
    assert [*wine][6:] == ["MODEL", "MESSAGE"]
    assert [*wine.values()][6:] == ["pvc://models/wine/wine-1c7d20aa4b", "Accuracy 0.972"]


def test_get_shows_a_batch_at_a_glance(objects: Server) -> None:
    unseen, wine = table(objects.kubectl("get", "binf"))
    assert [*wine] == ["NAME", "SUCCEEDED", "REASON", "ROWS", "SHARDS", "AGE"]
    assert [*wine.values()][:-1] == ["wine", "True", "Completed", "1250", "16"]
    assert [*unseen.values()][:-1] == ["unseen", "", "", "", ""]
    _, wide = table(objects.kubectl("get", "binf", "-o", "wide"))
    assert [*wide.items()][6:] == [("OUTPUT", "pvc://lake/scored/wine-77c0de1a2b"), ("MESSAGE", "1,250 rows")]


def test_the_category_lists_all_kinds(objects: Server) -> None:
    names = objects.kubectl("get", "holdfast", "-o", "name").split()
    assert names == [
        "batchinference.holdfast.dev/unseen",
        "batchinference.holdfast.dev/wine",
        "modeldeployment.holdfast.dev/unseen",
        "modeldeployment.holdfast.dev/wine",
        "trainingjob.holdfast.dev/unseen",
        "trainingjob.holdfast.dev/wine",
    ]


def test_wait_understands_the_conditions(objects: Server) -> None:
    assert "condition met" in objects.kubectl("wait", "--for=condition=Ready", "--timeout=150s", "mdep/wine")
    assert "condition met" in objects.kubectl("wait", "--for=condition=Succeeded", "--timeout=150s", "tjob/wine")


def test_wait_does_not_take_the_condition_of_an_older_spec(server: Server) -> None:
    server.create(model_deployment("changed"))
    status = {"observedGeneration": 1, "conditions": [condition("Ready", "Serving", "") | {"observedGeneration": 1}]}
    server.merge("ModelDeployment", "changed", {"status": status}, "status")
    server.merge("ModelDeployment", "changed", {"spec": {"serving": {"replicas": 2}}})
    with pytest.raises(ClusterError, match="timed out waiting"):
        server.kubectl("wait", "--for=condition=Ready", "--timeout=1s", "mdep/changed")
    server.kubectl("delete", "mdep/changed")


def test_the_commands_of_the_page_about_rollouts_show_decisions_and_revisions(objects: Server) -> None:
    page = (Path(__file__).parents[2] / "docs" / "rollouts.md").read_text(encoding="utf-8")
    shown = [objects.kubectl(*shlex.split(line)) for line in re.findall("^kubectl (get mdep wine -o .*)$", page, re.M)]
    rollout, decisions, revisions = shown
    assert json.loads(rollout) == ROLLOUT
    assert decisions.split(maxsplit=3) == [
        DECISION["time"],
        "Aborted",
        "MoreFailures:",
        f"{DECISION['message']} {DECISION['evidence']}\n",
    ]
    assert revisions == f"3 0b77aa61f4 Rejected MoreFailures {REVISION['message']}\n"
    annotate = re.search("^kubectl (annotate .*)$", page, re.M)
    assert annotate
    objects.kubectl(*shlex.split(annotate[1]))
    annotations = objects.get("ModelDeployment", "wine")["metadata"]["annotations"]
    assert re.fullmatch("abort [0-9a-f]{10}", annotations["holdfast.dev/rollout"])


def test_explain_tells_what_a_field_is_for(objects: Server) -> None:
    assert "An autoscaler writes this" in objects.kubectl("explain", "mdep.spec.serving.replicas")
    assert "Steps of a Canary." in objects.kubectl("explain", "mdep.spec.rollout.steps")
    assert "Class name." in objects.kubectl("explain", "tjob.spec.estimators.name")
