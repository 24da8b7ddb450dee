"""The cluster itself: what Holdfast and its tests take for granted."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.cluster import devcluster
from tests.e2e.kube import Kube

IMAGES = {"operator": "holdfast", "serving": "holdfast_serving", "training": "holdfast_training"}

SERVE = """
import http.server, os, pathlib
pathlib.Path("/data/index.html").write_text("hello from uid %d" % os.getuid())
print("serving", flush=True)
os.chdir("/data")
http.server.ThreadingHTTPServer(("", 8080), http.server.SimpleHTTPRequestHandler).serve_forever()
"""

ASK_API = """
import json, ssl, sys, urllib.error, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount/"
tls = ssl.create_default_context(cafile=account + "ca.crt")
namespace = open(account + "namespace").read()
for resource in ("configmaps", "secrets"):
    request = urllib.request.Request(
        f"https://kubernetes.default.svc/api/v1/namespaces/{namespace}/{resource}",
        headers={"Authorization": "Bearer " + open(account + "token").read()},
    )
    try:
        print(resource, urllib.request.urlopen(request, context=tls, timeout=60).status)
    except urllib.error.HTTPError as error:
        print(resource, error.code)
"""

LOOK_AROUND = """
import importlib.util, json, os, pathlib, shutil, sys
importlib.import_module(sys.argv[1])
def have(module):
    try:
        return bool(importlib.util.find_spec(module))
    except ModuleNotFoundError:
        return False
packages = pathlib.Path(importlib.import_module(sys.argv[1]).__file__).parents[1]
print(json.dumps({
    "uid": os.getuid(),
    "installers": [name for name in ("pip", "ensurepip", "setuptools", "hatchling", "uv") if have(name)],
    "programs": [name for name in ("pip", "pip3", "gcc", "cc", "g++", "make", "git") if shutil.which(name)],
    "tests": sorted(str(p) for p in packages.rglob("tests")),
    "uncompiled": [str(p) for p in (packages / sys.argv[1]).rglob("*.py")
                   if not pathlib.Path(importlib.util.cache_from_source(str(p))).exists()],
}))
"""


def container(image: str, *command: str) -> dict[str, Any]:
    return {
        "name": "main",
        "image": f"localhost/holdfast-{image}:dev",
        "imagePullPolicy": "Never",
        "command": list(command),
        "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def pod_spec(main: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": 1,
        "containers": [main],
        **more,
    }


def run_once(kube: Kube, name: str, spec: dict[str, Any]) -> str:
    """What a pod printed that ran to its end."""
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {**spec, "restartPolicy": "Never"},
        }
    )
    ended = kube.wait("pod", name, lambda pod: pod["status"].get("phase") in ("Succeeded", "Failed"), "it has ended")
    log = kube("logs", name)
    assert ended["status"]["phase"] == "Succeeded", log
    return log


@pytest.fixture(scope="module")
def web(kube: Kube) -> Iterator[Kube]:
    """A Service `web` before a pod with a volume of the default class."""
    main = container("operator", "python", "-c", SERVE) | {
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod_spec(main, volumes=volumes)},
            },
        },
    )
    kube("wait", "--for=condition=Available", "deployment/web", "--timeout=230s")
    yield kube
    kube("delete", "deployment,pvc", "--all", "--wait=false")


def test_a_restricted_pod_writes_to_a_volume_of_the_default_class(web: Kube) -> None:
    assert web.get("pvc", "data")["status"]["phase"] == "Bound"
    assert web("exec", "deploy/web", "--", "cat", "/data/index.html") == "hello from uid 65532"


def test_a_service_is_found_by_its_name(web: Kube) -> None:
    ask = "import urllib.request; print(urllib.request.urlopen('http://web', timeout=60).read().decode())"
    assert web("exec", "deploy/web", "--", "python", "-c", ask).strip() == "hello from uid 65532"


def test_a_name_outside_of_the_cluster_is_refused_at_once(web: Kube) -> None:
    ask = (
        "import socket\n"
        "try:\n"
        "    print(socket.getaddrinfo('example.org', 80))\n"
        "except OSError as error:\n"
        "    print('no such name' if error.errno == socket.EAI_NONAME else error)\n"
    )
    # One that waits for an answer in vain says that the name server failed.
    assert web("exec", "deploy/web", "--", "python", "-c", ask).strip() == "no such name"


def test_logs_come_back(web: Kube) -> None:
    assert "serving" in web("logs", "deploy/web")


def test_a_pod_may_ask_the_api_for_what_rbac_grants_it(kube: Kube) -> None:
    kube("create", "serviceaccount", "reader")
    kube("create", "role", "reader", "--verb=list", "--resource=configmaps")
    kube("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={kube.namespace}:reader")
    log = run_once(kube, "asks", pod_spec(container("operator", "python", "-c", ASK_API), serviceAccountName="reader"))
    assert log.splitlines() == ["configmaps 200", "secrets 403"]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_our_package_compiled_and_nothing_to_install_build_or_test_with(kube: Kube, image: str) -> None:
    look = container(image, "python", "-c", LOOK_AROUND, IMAGES[image])
    assert json.loads(run_once(kube, f"look-{image}", pod_spec(look)).splitlines()[-1]) == {
        "uid": 65532,
        "installers": [],
        "programs": [],
        "tests": [],
        "uncompiled": [],
    }


def test_a_privileged_pod_is_not_admitted_to_a_restricted_namespace(kube: Kube) -> None:
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        kube("run", "privileged", "--image=localhost/holdfast-operator:dev", "--privileged")


def test_images_that_did_not_change_are_neither_built_nor_loaded_again(cluster: Kube) -> None:
    assert "operator is up to date" in devcluster("build-image", "operator")
    assert "operator is loaded already" in devcluster("load-image", "operator")
