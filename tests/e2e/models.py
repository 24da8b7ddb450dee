"""Models, good and bad, behind a web server in the cluster; and a client that asks served models from there."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import tarfile
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
from examples.wine.users import users
from skl2onnx import to_onnx
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.e2e import client
from tests.e2e.kube import PATIENCE, JsonObject, Kube

from holdfast_serving.grpc import messages
from holdfast_training import datasets

TRAINING_IMAGE = "localhost/holdfast-training:dev"
HERE = Path(__file__).parent
PACKAGES = "/tmp/packages"
CLIENT = ("env", f"PYTHONPATH={PACKAGES}", "python", "/code/client.py")
RESTRICTED_POD = {
    "automountServiceAccountToken": False,
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}
RESTRICTED_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@cache
def good_model(strength: float = 1.0) -> bytes:
    """A pipeline for the wine data as ONNX: input X of shape [-1, 13], FP32."""
    data = load_wine()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=strength)).fit(data.data, data.target)
    converted = to_onnx(pipeline, data.data[:1].astype(np.float32), options={"zipmap": False})
    return bytes(converted.SerializeToString())


def onnx_digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def data_outside() -> bytes:
    """A model whose only weight lies in a file outside its own folder."""
    weight = onnx.TensorProto(name="W", data_type=onnx.TensorProto.FLOAT, dims=[1])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/hostname")
    node = onnx.helper.make_node("Add", ["X", "W"], ["Y"])
    tensor = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None, 1]) for n in "XY"]
    graph = onnx.helper.make_graph([node], "outside", tensor[:1], tensor[1:], [weight])
    return bytes(onnx.helper.make_model(graph).SerializeToString())


def manifest(files: dict[str, bytes]) -> bytes:
    """A manifest that lists `files` as they are given."""
    listed = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in files.items()
    }
    described = {
        "schemaVersion": 1,
        "name": "wine",
        "framework": "scikit-learn",
        "opset": 21,
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 13]}],
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
        "metrics": {},
        "lineage": {},
        "files": listed,
    }
    return (json.dumps(described, sort_keys=True, separators=(",", ":")) + "\n").encode()


def wine_csv() -> str:
    """The wine data with its column names, and the class as `cultivar`."""
    with tempfile.TemporaryDirectory() as folder:
        datasets.write("wine", Path(folder, "wine.csv"))
        return Path(folder, "wine.csv").read_text()


def tables() -> dict[str, bytes]:
    """The wine data, and what can be wrong with a table."""
    good = wine_csv()
    header, *rows = good.splitlines()
    one_class = [row for row in rows if row.endswith(",0")]
    with_text = [row.replace(row.split(",")[0], "plenty", 1) if n == 4 else row for n, row in enumerate(rows)]
    lines = {
        "wine": [header, *rows],
        "one-class": [header, *one_class],
        "empty": [header],
        "text": [header, *with_text],
    }
    return {f"{name}.csv": ("\n".join(content) + "\n").encode() for name, content in lines.items()}


def all_files() -> dict[str, bytes]:
    """What the web server offers, by path."""
    good = good_model()
    altered = good[:-1] + bytes([good[-1] ^ 1])
    return {
        "good.onnx": good,
        "better.onnx": good_model(0.5),
        "text.onnx": b"this is not a model\n",
        "outside.onnx": data_outside(),
        "altered/manifest.json": manifest({"model.onnx": good}),
        "altered/model.onnx": altered,
        "incomplete/manifest.json": manifest({"model.onnx": good}),
        **tables(),
    }


@dataclass(frozen=True)
class Traffic:
    """Requests that are being sent."""

    process: subprocess.Popen[str]
    kube: Kube

    def requests(self) -> int:
        """How many have been sent by now."""
        return int(self.kube("exec", "deploy/models", "--", "cat", "/tmp/requests") or 0)

    def goes_on(self, more: int) -> None:
        """Until so many more have been sent."""
        before, deadline = self.requests(), time.monotonic() + PATIENCE
        while self.requests() < before + more:
            assert time.monotonic() < deadline, f"no {more} requests more"
            time.sleep(0.5)

    def finish(self) -> dict[str, Any]:
        """Stop, and return `{requests, grpc_requests, failed, again, versions, errors}`."""
        self.kube("exec", "deploy/models", "--", "touch", "/tmp/stop")
        output, _ = self.process.communicate(timeout=PATIENCE)
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
        if answer := base64.b64decode(result.pop("grpc_answer")):
            said = messages.inference("ModelInferResponse").FromString(answer)
            assert [list(output.contents.int64_contents) for output in said.outputs if output.name == "label"] == [[0]]
        return result


@dataclass(frozen=True)
class ModelServer:
    """The web server's Deployment and Service `models` in a test's namespace."""

    files: dict[str, bytes]

    def url(self, path: str) -> str:
        return f"http://models:8000/{path}"

    def ask(self, kube: Kube, name: str, scheme: str = "http", *arguments: str) -> JsonObject:
        """One request to the ModelDeployment's Service; `arguments` are the client's."""
        url = f"{scheme}://{name}/v2/models/{name}"
        answer: JsonObject = json.loads(kube("exec", "deploy/models", "--", *CLIENT, url, "once", *arguments))
        return answer

    def traffic(
        self, kube: Kube, name: str, seconds: float, rate: float = 100, scheme: str = "http", *arguments: str
    ) -> Traffic:
        """Send requests until `finish` is called, or for `seconds`; `arguments` are the client's."""
        kube("exec", "deploy/models", "--", "rm", "-f", "/tmp/stop")
        command = [str(kube.program), f"--kubeconfig={kube.kubeconfig}", "-n", kube.namespace, "exec", "deploy/models"]
        url = f"{scheme}://{name}/v2/models/{name}"
        command += ["--", *CLIENT, url, str(seconds), f"--rate={rate}", *arguments]
        return Traffic(subprocess.Popen(command, stdout=subprocess.PIPE, text=True), kube)

    def mixed_traffic(self, kube: Kube, name: str, seconds: float, rate: float = 100) -> Traffic:
        """The same over HTTP and over gRPC."""
        bring_grpcio(kube)
        request = base64.b64encode(grpc_request(name)).decode()
        return self.traffic(kube, name, seconds, rate, "http", f"--grpc={request}")


def grpc_request(name: str) -> bytes:
    """A ModelInferRequest that is answered with label 0."""
    contents = {"fp32_contents": client.ROW}
    tensor = {"name": "X", "datatype": "FP32", "shape": [1, len(client.ROW)], "contents": contents}
    request = messages.inference("ModelInferRequest")(model_name=name, inputs=[tensor], outputs=[{"name": "label"}])
    return bytes(request.SerializeToString())


def bring_grpcio(kube: Kube) -> None:
    """Put the tests' own grpcio into the client's pod: no image of ours has it."""
    parent = Path(grpc.__file__).parents[1]
    parts = [parent / name for name in ("grpc", "typing_extensions.py")]
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for part in parts:
                tar.add(part, part.name, filter=lambda found: None if found.name.endswith(".pyc") else found)
        archive.seek(0)
        kube("exec", "-i", "deploy/models", "--", "mkdir", "-p", PACKAGES)
        command = [str(kube.program), f"--kubeconfig={kube.kubeconfig}", "-n", kube.namespace, "exec", "-i"]
        command += ["deploy/models", "--", "tar", "-x", "-o", "-C", PACKAGES]
        subprocess.run(command, stdin=archive, check=True, timeout=PATIENCE)


def start_model_server(kube: Kube, files: dict[str, bytes] | None = None) -> ModelServer:
    """Start it and wait until it is ready; without `files` it has the usual ones."""
    files = files or all_files()
    encoded = {path.replace("/", "__"): base64.b64encode(content).decode() for path, content in files.items()}
    code = {file.name: file.read_text() for file in (HERE / "webserver.py", HERE / "client.py", Path(users.__file__))}
    labels = {"app": "models"}
    container = {
        "name": "models",
        "image": TRAINING_IMAGE,
        "command": ["python", "-u", "/code/webserver.py", "/models"],
        "ports": [{"containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": f"/{next(iter(files))}", "port": 8000}, "periodSeconds": 1},
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [
            {"name": "models", "mountPath": "/models"},
            {"name": "code", "mountPath": "/code"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    volumes = [
        {"name": "models", "configMap": {"name": "models"}},
        {"name": "code", "configMap": {"name": "models-code"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    pod = {**RESTRICTED_POD, "containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 1}
    kube.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "models"}, "binaryData": encoded},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "models-code"}, "data": code},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "models"},
            "spec": {"selector": labels, "ports": [{"port": 8000}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "models"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
    )
    kube("rollout", "status", "deploy/models", "--timeout=230s")
    return ModelServer(files)
