"""A model in an S3 store: real pods, a Secret that is wrong and then mended, a cache; and nothing is given away."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest
from tests.e2e.kube import JsonObject, Kube, condition
from tests.e2e.models import (
    RESTRICTED_CONTAINER,
    RESTRICTED_POD,
    TRAINING_IMAGE,
    ModelServer,
    good_model,
    onnx_digest,
)

from holdfast_devcluster import binaries

KEY_ID, KEY = "canary-key-id", "canary-secret-key"
WRONG_KEY = "canary-wrong-key"
URI = "s3://models/wine.onnx"
LABELS = {"app": "store"}
START = f"""
mkdir -p /data/store/models /data/sidecar
until [ -e /data/complete ]; do sleep 0.2; done
exec /data/versitygw --access {KEY_ID} --secret {KEY} --port :7070 posix --sidecar /data/sidecar /data/store
"""


def into_pod(kube: Kube, path: str, content: bytes) -> None:
    """Write a file in the store's pod."""
    command = [str(kube.program), f"--kubeconfig={kube.kubeconfig}", "-n", kube.namespace, "exec", "-i", "deploy/store"]
    done = subprocess.run(
        [*command, "--", "sh", "-c", f"cat > {path} && chmod 755 {path}"],
        input=content,
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def store(kube: Kube) -> None:
    """An S3 server with a model, in the module's namespace."""
    container = {
        "name": "store",
        "image": TRAINING_IMAGE,
        "command": ["sh", "-c", START],
        "readinessProbe": {"tcpSocket": {"port": 7070}, "periodSeconds": 1},
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    pod = {**RESTRICTED_POD, "containers": [container], "volumes": [{"name": "data", "emptyDir": {}}]}
    template = {"metadata": {"labels": LABELS}, "spec": {**pod, "terminationGracePeriodSeconds": 1}}
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "store"},
            "spec": {"selector": LABELS, "ports": [{"port": 7070}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "store"},
            "spec": {"selector": {"matchLabels": LABELS}, "template": template},
        },
    )
    kube.wait("deploy", "store", lambda o: o["status"].get("updatedReplicas") == 1, "it has a pod")
    kube("wait", "pod", "-l", "app=store", "--for=jsonpath={.status.phase}=Running", "--timeout=230s")
    into_pod(kube, "/data/versitygw", binaries.find("versitygw")["versitygw"].path.read_bytes())
    into_pod(kube, "/data/store/models/wine.onnx", good_model())
    into_pod(kube, "/data/complete", b"")
    kube("rollout", "status", "deploy/store", "--timeout=230s")


def secret(name: str, key: str) -> JsonObject:
    keys = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": key, "AWS_ENDPOINT_URL": "http://store:7070"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": keys}


CACHE: JsonObject = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "models-cache"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}


def deployment(name: str, secret_name: str, **serving: object) -> JsonObject:
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"model": {"uri": URI}, "serving": {"storageSecretRef": {"name": secret_name}, **serving}},
    }


@pytest.fixture
def _clean(kube: Kube) -> Iterator[None]:
    yield
    kube("delete", "mdep", "--all", "--wait=false")


def everything(kube: Kube) -> str:
    """All that anybody can read about the models but the Secrets themselves: objects, Events, logs."""
    objects = kube("get", "mdep,deploy,rs,job,pod,svc,events", "-o", "yaml")
    pods = kube.list("pods", "holdfast.dev/model-deployment")
    logs = [kube("logs", pod["metadata"]["name"], "--all-containers", check=False) for pod in pods]
    operator = Kube(kube.program, kube.kubeconfig, "holdfast-system")("logs", "deploy/holdfast-operator", check=False)
    assert any("ready after" in log for log in logs)
    return "\n".join([objects, operator, *logs])


@pytest.mark.usefixtures("_clean")
def test_a_slow_fetch_says_how_far_it_is(kube: Kube, models: ModelServer) -> None:
    url, digest = models.url("slow.onnx"), onnx_digest(good_model())
    for name, pinned in {"slow-helper": {}, "slow-server": {"digest": digest}}.items():
        kube.apply(
            {
                "apiVersion": "holdfast.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": name},
                "spec": {"model": {"uri": url, **pinned}},
            }
        )
    for name, reason in {"slow-helper": "Resolving", "slow-server": "Starting"}.items():

        def told(found: JsonObject, reason: str = reason) -> bool:
            progressing = condition(found, "Progressing")
            return progressing.get("reason") == reason and bool(re.search(r"; fetched .*%\)", progressing["message"]))

        kube.wait("mdep", name, told, f"{reason} says how far the fetch is")
    kube("exec", "deploy/models", "--", "touch", "/tmp/hurry")
    kube.wait_ready("slow-server")


@pytest.mark.usefixtures("store", "_clean")
def test_a_wrong_key_is_said_and_a_mended_secret_heals_without_a_word(kube: Kube, models: ModelServer) -> None:
    kube.apply(CACHE, secret("models-read", WRONG_KEY))
    kube.apply(deployment("wine", "models-read", cacheClaimRef={"name": "models-cache"}))
    kube.apply(deployment("bereft", "models-write"))
    ready = kube.wait_reason("mdep", "wine", "Ready", "ModelAccessDenied")
    assert f"{URI}: the server answered 403 (keys of Secret models-read)" in ready["message"]
    missing = kube.wait_reason("mdep", "bereft", "Ready", "SecretNotFound")
    assert "Secret models-write does not exist in this namespace, or is empty; create it" in missing["message"]
    assert condition(kube.get("mdep", "wine"), "Available")["reason"] == "NeverServed"

    kube.apply(secret("models-read", KEY))
    served = kube.wait_ready("wine", seconds=480)
    assert served["status"]["model"] == served["status"]["model"] | {"uri": URI, "digest": onnx_digest(good_model())}
    assert models.ask(kube, "wine")["model_name"] == "wine"

    [pod] = kube.list("pods", f"holdfast.dev/revision={served['status']['stableRevision']}")
    assert "comes from the cache on claim models-cache" in kube("logs", pod["metadata"]["name"])
    # The store's own pod has the keys in its command; nothing of ours has them anywhere.
    kube("delete", "deploy", "store", "--cascade=foreground", "--timeout=230s")
    told = everything(kube)
    for canary in (KEY, WRONG_KEY, "X-Amz-Signature"):
        assert canary not in told
