"""Clients with certificates, receipts, feedback and the counters of rows, through a Service to two real pods."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from pathlib import Path

from sklearn.datasets import load_wine
from tests.e2e import certified
from tests.e2e.client import ROW
from tests.e2e.kube import JsonObject, Kube
from tests.e2e.models import bring_grpcio, good_model, grpc_request, start_model_server
from tests.e2e.test_bad_models import deployment
from tests.unit.serving.authority import CLIENT, Authority, Identity

from holdfast_bundle import manifest
from holdfast_bundle.manifest import Tensor

NAME = "guarded"
ALCOHOL = 13.0
PROFILE = {
    "rows": 40,
    "features": {
        "alcohol": {"kind": "numeric", "input": "X", "column": 0, "edges": [ALCOHOL], "ratios": [0.5, 0.5]},
    },
    "prediction": {"labels": [0, 1, 2], "ratios": [0.3, 0.4, 0.3]},
}


def bundle(folder: Path) -> tuple[str, dict[str, bytes]]:
    """(digest, files) of the wine model with a profile."""
    (folder / "model.onnx").write_bytes(good_model())
    (folder / "profile.json").write_bytes(manifest.canonical_json(PROFILE))
    digest = manifest.write(
        folder,
        name="wine",
        framework="scikit-learn",
        opset=21,
        inputs=[Tensor("X", "FP32", (-1, 13))],
        outputs=[Tensor("label", "INT64", (-1,)), Tensor("probabilities", "FP32", (-1, 3))],
        metrics={},
        lineage={},
    )
    return digest, {f"bundle/{file.name}": file.read_bytes() for file in folder.iterdir()}


def secret(name: str, **files: bytes) -> JsonObject:
    data = {key.replace("_", "."): base64.b64encode(content).decode() for key, content in files.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


def counted(kube: Kube, pods: list[str]) -> Counter[tuple[str, str]]:
    """Sums over the pods, by metric and the last of the labels that tell what was counted."""
    found: Counter[tuple[str, str]] = Counter()
    for pod in pods:
        text = kube("get", "--raw", f"/api/v1/namespaces/{kube.namespace}/pods/{pod}:8081/proxy/metrics")
        for name, labels, value in re.findall(r"^holdfast_(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            told = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if name == "inference_requests_total" and told["outcome"] == "ok":
                found[name, told["protocol"]] += float(value)
            elif name == "feedback_rows_total":
                found[name, told["outcome"]] += float(value)
            elif name.endswith("_bin_total"):
                found[name, told["bin"]] += float(value)
    return found


def test_only_certified_clients_are_answered_and_what_they_say_is_counted(kube: Kube, tmp_path: Path) -> None:
    digest, files = bundle(tmp_path)
    models = start_model_server(kube, files)
    authority, others = Authority(), Authority("others")
    server = authority.issue(NAME)
    kube.apply(
        secret("guarded-tls", tls_crt=server.certificate, tls_key=server.key, ca_crt=authority.certificate),
        secret("guarded-feedback", key=b"0123456789abcdef" * 4),
        deployment(
            NAME,
            {"uri": models.url("bundle"), "digest": digest},
            replicas=2,
            tls={"secretRef": {"name": "guarded-tls"}, "clientAuth": "Required"},
            feedback={"secretRef": {"name": "guarded-feedback"}, "clientAuth": "Required"},
        ),
    )
    bring_grpcio(kube)
    kube.wait_ready(NAME)
    rows = load_wine().data[::6].tolist()
    given = {
        "authority": authority.certificate.decode(),
        "ours": pem(authority.issue("somebody", CLIENT)),
        "theirs": pem(others.issue("somebody", CLIENT)),
        "grpc": base64.b64encode(grpc_request(NAME)).decode(),
        "rows": rows,
    }
    code = Path(certified.__file__).read_text()
    python = ("exec", "-i", "deploy/models", "--", "env", "PYTHONPATH=/tmp/packages", "python", "-c", code, NAME)
    said = json.loads(kube(*python, stdin=json.dumps(given)))

    refused = re.compile("SSL.*Error|Connection.*Error")
    assert refused.fullmatch(said["without"]), said["without"]
    assert refused.fullmatch(said["theirs"]), said["theirs"]
    assert said["grpc"] > 0
    assert said["feedback"] == [[200, {"rows": 1, "refused": []}]] * len(rows)
    assert set(said["labels"]) == {0, 1, 2}

    pods = kube.list("pods", f"holdfast.dev/model-deployment={NAME},app.kubernetes.io/component=serving")
    names = [pod["metadata"]["name"] for pod in pods]
    everything = [*rows, ROW]  # the last one was asked for over gRPC

    def complete(_: JsonObject) -> bool:
        """What is counted when an answer has left may be there after it came."""
        found = counted(kube, names)
        kinds = ("inference_requests_total", "feedback_rows_total", "model_feature_bin_total")
        return [sum(found[key] for key in found if key[0] == kind) for kind in kinds] == [
            len(everything),
            len(rows),
            len(everything),
        ]

    kube.wait("mdep", NAME, complete, "all is counted", 60)
    sums = counted(kube, names)
    assert (sums["inference_requests_total", "rest"], sums["inference_requests_total", "grpc"]) == (len(rows), 1)
    assert sums["feedback_rows_total", "correct"] == len(rows) - 1
    assert sums["feedback_rows_total", "wrong"] == 1
    low = sum(row[0] <= ALCOHOL for row in everything)
    assert [sums["model_feature_bin_total", each] for each in ("0", "1")] == [low, len(everything) - low]
    labels = Counter([*said["labels"], 0])
    assert [sums["model_prediction_bin_total", str(label)] for label in range(3)] == [labels[n] for n in range(3)]
    kube("delete", "mdep", NAME, "--wait=false")


def pem(identity: Identity) -> list[str]:
    return [identity.certificate.decode(), identity.key.decode()]
