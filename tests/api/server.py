"""What the tests of this tier say to the API server."""

import re
from dataclasses import dataclass
from typing import Any

from holdfast_devcluster import ControlPlane
from holdfast_devcluster.api import ApiError

API_VERSION = "holdfast.dev/v1alpha1"
PLURALS = {"ModelDeployment": "modeldeployments", "TrainingJob": "trainingjobs", "BatchInference": "batchinferences"}
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

Json = dict[str, Any]


def model_deployment(name: str = "wine", **spec: Any) -> Json:
    """A valid one, its spec's top-level fields replaced by those given; None removes one."""
    return _object("ModelDeployment", name, {"model": {"uri": "pvc://models/wine"}, **spec})


def training_job(name: str = "wine", **spec: Any) -> Json:
    """A valid one, its spec's top-level fields replaced by those given; None removes one."""
    minimal = {
        "data": {"uri": "https://data.example.com/wine.csv"},
        "target": "quality",
        "task": "Classification",
        "estimators": [{"name": "RandomForestClassifier"}],
        "output": {"uri": "pvc://models/wine"},
    }
    return _object("TrainingJob", name, {**minimal, **spec})


def batch_inference(name: str = "wine", **spec: Any) -> Json:
    """A valid one, its spec's top-level fields replaced by those given; None removes one."""
    minimal = {
        "model": {"modelDeploymentRef": {"name": "wine"}},
        "input": {"uri": "pvc://lake/wine/"},
        "output": {"uri": "pvc://lake/scored"},
    }
    return _object("BatchInference", name, {**minimal, **spec})


def _object(kind: str, name: str, spec: Json) -> Json:
    spec = {key: value for key, value in spec.items() if value is not None}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


@dataclass(frozen=True)
class Server:
    """One namespace of a real API server."""

    plane: ControlPlane
    namespace: str

    def create_namespace(self) -> None:
        self.plane.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})

    def delete_namespace(self) -> None:
        self.plane.api.request("DELETE", f"/api/v1/namespaces/{self.namespace}")

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return self.plane.kubectl(f"--namespace={self.namespace}", *arguments, input=input)

    def path(self, kind: str, name: str = "", subresource: str = "") -> str:
        parts = [f"/apis/{API_VERSION}/namespaces/{self.namespace}/{PLURALS[kind]}", name, subresource]
        return "/".join(part for part in parts if part)

    def create(self, body: Json, *, dry_run: bool = False, strict: bool = True) -> Json:
        """Raises ApiError where the API server refuses."""
        query = f"?fieldValidation={'Strict' if strict else 'Ignore'}" + ("&dryRun=All" if dry_run else "")
        return self.plane.api.request("POST", self.path(body["kind"]) + query, body)

    def get(self, kind: str, name: str, subresource: str = "") -> Json:
        return self.plane.api.request("GET", self.path(kind, name, subresource))

    def merge(self, kind: str, name: str, patch: Json, subresource: str = "") -> Json:
        """A JSON merge patch: None removes a field."""
        return self.plane.api.request("PATCH", self.path(kind, name, subresource), patch, content=MERGE)

    def apply(self, body: Json, subresource: str = "", *, manager: str = "holdfast") -> Json:
        """Server-side apply."""
        path = self.path(body["kind"], body["metadata"]["name"], subresource)
        return self.plane.api.request(
            "PATCH", f"{path}?fieldManager={manager}&force=true&fieldValidation=Strict", body, content=APPLY
        )

    def accepts(self, body: Json) -> Json:
        """The object as it would be stored. Raises ApiError where the API server refuses."""
        return self.create(body, dry_run=True)

    def refusal(self, body: Json) -> str:
        """The words in which the API server refuses `body`. Fails where it does not."""
        try:
            self.create(body, dry_run=True)
        except ApiError as error:
            return str(error)
        raise AssertionError(f"the API server took {body}")


def says_only(text: str, field: str, message: str) -> bool:
    """Whether a refusal names one fault and no other: this field, and these words at the end of it."""
    fault = rf"{re.escape(field)}: Invalid value: ((\".*\"|[0-9]+): )?{re.escape(message)}"
    return re.fullmatch(rf'422: \S+ "[^"]*" is invalid: {fault}', text) is not None
