"""A certificate from a Secret: missing, there, and changed under load, in real pods with the kubelet's own files."""

from __future__ import annotations

import base64
import json
import time

from tests.e2e.kube import JsonObject, Kube
from tests.e2e.models import ModelServer
from tests.e2e.test_bad_models import deployment
from tests.unit.serving.authority import Authority, Identity

CA = "/tmp/ca.crt"


def secret(name: str, identity: Identity) -> JsonObject:
    files = {"tls.crt": identity.certificate, "tls.key": identity.key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": name},
        "data": {key: base64.b64encode(content).decode() for key, content in files.items()},
    }


def shown(kube: Kube, name: str) -> str:
    """The certificate that a new connection is shown."""
    code = f"import ssl; print(ssl.get_server_certificate(('{name}', 443)))"
    return kube("exec", "deploy/models", "--", "python", "-c", code).strip()


def test_a_certificate_is_missed_taken_and_changed(kube: Kube, models: ModelServer) -> None:
    authority = Authority()
    first, second = authority.issue("secured", days=10), authority.issue("secured", days=20)
    kube("exec", "-i", "deploy/models", "--", "sh", "-c", f"cat > {CA}", stdin=authority.certificate.decode())
    kube("delete", "mdep/secured", "secret/secured-tls", "--ignore-not-found")  # of a try before
    tls = {"secretRef": {"name": "secured-tls"}}
    kube.apply(deployment("secured", {"uri": models.url("good.onnx")}, tls=tls))
    ready = kube.wait_reason("mdep", "secured", "Ready", "SecretNotFound")
    assert "Secret secured-tls does not exist" in ready["message"]

    kube.apply(secret("secured-tls", first))
    status = kube.wait_ready("secured", seconds=300)["status"]
    assert status["url"] == f"https://secured.{kube.namespace}.svc"
    answer = models.ask(kube, "secured", "https", "--ca", CA)
    assert answer["model_version"] == status["stableRevision"]
    assert shown(kube, "secured") == first.certificate.decode().strip()

    [pod] = kube.list("pods", "holdfast.dev/model-deployment=secured,app.kubernetes.io/component=serving")
    traffic = models.traffic(kube, "secured", 900, 50, "https", "--ca", CA)
    kube.apply(secret("secured-tls", second))
    # The kubelet looks at a pod's Secrets once a minute, and whenever the pod changes.
    kube("annotate", "pod", pod["metadata"]["name"], "tests/look=now")
    deadline = time.monotonic() + 300
    while shown(kube, "secured") != second.certificate.decode().strip():
        assert time.monotonic() < deadline, "the new certificate was never used"
        time.sleep(1)
    time.sleep(3)
    result = traffic.finish()
    assert result["failed"] == 0, json.dumps(result)
    assert result["requests"] > 100
    [same] = kube.list("pods", "holdfast.dev/model-deployment=secured,app.kubernetes.io/component=serving")
    assert same["metadata"]["uid"] == pod["metadata"]["uid"]
    restarts = [each["status"]["containerStatuses"][0]["restartCount"] for each in (pod, same)]
    assert restarts[0] == restarts[1]
    kube("delete", "mdep", "secured", "--wait=false")
