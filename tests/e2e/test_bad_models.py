"""A model that cannot be served gets a clear answer, and nothing that served before stops."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.e2e.kube import JsonObject, Kube, condition
from tests.e2e.models import ModelServer, onnx_digest

ABSENT_DIGEST = "sha256:" + "0" * 64

BAD: dict[str, tuple[JsonObject, str, str]] = {
    # name: spec.model, the reason, words that the message must hold
    "answers-404": ({"uri": "http://models:8000/absent.onnx"}, "ModelNotFound", "404"),
    "answers-403": ({"uri": "http://models:8000/denied.onnx"}, "ModelAccessDenied", "403"),
    "times-out": ({"uri": "http://models:8000/hangs.onnx"}, "ModelUnreachable", "models"),
    "no-such-host": ({"uri": "http://nobody.invalid/m.onnx"}, "ModelUnreachable", "nobody.invalid"),
    "metadata-service": ({"uri": "http://169.254.169.254/m.onnx"}, "AddressRefused", "169.254.169.254"),
    "redirects-away": ({"uri": "http://models:8000/to-metadata.onnx"}, "AddressRefused", "169.254.169.254"),
    "other-digest": ({"uri": "http://models:8000/good.onnx", "digest": ABSENT_DIGEST}, "DigestMismatch", ABSENT_DIGEST),
    "not-onnx": ({"uri": "http://models:8000/text.onnx"}, "ModelInvalid", "ONNX"),
    "data-outside": ({"uri": "http://models:8000/outside.onnx"}, "ModelInvalid", "outside"),
    "file-altered": ({"uri": "http://models:8000/altered"}, "DigestMismatch", "model.onnx"),
    "file-missing": ({"uri": "http://models:8000/incomplete"}, "ModelInvalid", "model.onnx"),
    "run-missing": ({"trainingJobRef": {"name": "absent"}}, "TrainingJobNotFound", "absent"),
    "no-such-claim": ({"uri": "pvc://absent/m.onnx", "digest": ABSENT_DIGEST}, "ClaimNotFound", "absent"),
}


def deployment(name: str, model: JsonObject, **serving: object) -> JsonObject:
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"model": model, "serving": serving},
    }


@pytest.fixture(scope="module", autouse=True)
def bad_models(kube: Kube, models: ModelServer) -> Iterator[Kube]:
    """All of them at once, and before all tests: each takes its own time to fail."""
    kube.apply(*(deployment(name, model) for name, (model, _, _) in BAD.items()))
    yield kube
    kube("delete", "mdep", *BAD, "--wait=false")


def test_a_bad_new_revision_never_takes_the_place_of_the_one_that_serves(kube: Kube, models: ModelServer) -> None:
    kube.apply(deployment("steady", {"uri": models.url("good.onnx")}))
    first = kube.wait_ready("steady")["status"]["stableRevision"]
    kube.apply(deployment("steady", {"uri": models.url("good.onnx"), "digest": ABSENT_DIGEST}))
    kube.wait_reason("mdep", "steady", "Stalled", "DigestMismatch")
    found = kube.get("mdep", "steady")
    assert found["status"]["stableRevision"] == first
    assert condition(found, "Available")["status"] == "True"
    answer = models.ask(kube, "steady")
    assert answer["model_version"] == first
    # The wish is taken back: the old revision is the wanted one again, without a new pod.
    kube.apply(deployment("steady", {"uri": models.url("good.onnx"), "digest": onnx_digest(models.files["good.onnx"])}))
    assert kube.wait_ready("steady")["status"]["stableRevision"] == first
    kube("delete", "mdep", "steady", "--wait=false")


def test_a_changed_spec_is_served_by_a_new_revision_while_the_old_one_answers(kube: Kube, models: ModelServer) -> None:
    kube.apply(deployment("moving", {"uri": models.url("good.onnx")}))
    first = kube.wait_ready("moving")["status"]["stableRevision"]
    traffic = models.traffic(kube, "moving", seconds=900)
    kube.apply(deployment("moving", {"uri": models.url("better.onnx")}))
    second = kube.wait_ready("moving", revision_not=first)["status"]["stableRevision"]
    # The one that it took over from stays warm, and answers nobody: what still reaches it is sent on.
    assert kube.get("mdep", "moving")["status"]["previousRevision"] == first
    traffic.goes_on(500)
    answer = models.ask(kube, "moving")
    assert answer["model_version"] == second
    assert kube.get("deploy", f"moving-{first}")["status"]["readyReplicas"] == 1
    result = traffic.finish()
    assert result["failed"] == 0, json.dumps(result)
    assert set(result["versions"]) == {first, second}
    kube("delete", "mdep", "moving", "--wait=false")


@pytest.mark.parametrize("name", BAD)
def test_a_model_that_cannot_be_had_is_said_in_words(bad_models: Kube, name: str) -> None:
    _, reason, words = BAD[name]
    ready = bad_models.wait_reason("mdep", name, "Ready", reason)
    assert ready["status"] != "True"
    assert words in ready["message"]
    assert condition(bad_models.get("mdep", name), "Available")["reason"] == "NeverServed"
