"""What is kept of an object: the parts that plans and comparisons read, as compressed JSON.

Whole objects would set the operator's memory; and what is not kept cannot wake anybody when it changes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from holdfast.build.labels import REFRESH, RETRAIN, ROLLOUT
from holdfast.kube.kinds import CHILDREN, MODEL_DEPLOYMENT, OWNERS, TRAINING_JOB, Key, controller_of

Object = Mapping[str, Any]
CONTENT = {"ControllerRevision": ("data", "revision"), "ConfigMap": ("data",)}
"""Kinds without a spec, and what is kept in its place."""
ORDERS = frozenset({ROLLOUT, REFRESH, RETRAIN})
"""Annotations by which people tell us what to do; of all others on their objects nothing is kept."""

_FOREIGN_PREFIXES = ("kubectl.kubernetes.io/", "deployment.kubernetes.io/")
_BAD = {"ReplicaFailure": "True", "Progressing": "False"}
"""Of a healthy rollout the conditions change several times and say nothing that the counts do not."""
_CONDITION_FIELDS = ("type", "status", "reason", "message", "lastTransitionTime")


def of_object(raw: Object) -> dict[str, Any]:
    """The kept parts of an object of one of the watched kinds."""
    kind = raw["kind"]
    if kind in OWNERS:
        metadata = raw["metadata"]
        kept = {
            "generation": metadata.get("generation", 0),
            "spec": raw.get("spec") or {},
            "status": raw.get("status") or {},
            "annotations": {name: text for name, text in _annotations(metadata).items() if name in ORDERS},
        }
        if maker_of(raw):  # our own: nothing in its metadata is a user's
            kept |= {name: metadata.get(name) or {} for name in ("labels", "annotations")}
            kept["creationTimestamp"] = metadata["creationTimestamp"]
            kept["maker"] = (controller_of(metadata) or {})["uid"]
        return kept
    if kind in CHILDREN:
        metadata = raw["metadata"]
        return {
            "labels": metadata.get("labels") or {},
            "annotations": _annotations(metadata),
            "ownerReferences": metadata.get("ownerReferences") or [],
            "spec": _content(raw),
            "status": _status(kind, raw.get("status") or {}),
        }
    return {}


def maker_of(raw: Object) -> Key | None:
    """Of a TrainingJob: the ModelDeployment that made it, if one did."""
    controller = controller_of(raw["metadata"]) if raw["kind"] == TRAINING_JOB.name else None
    if controller is None or controller["kind"] != MODEL_DEPLOYMENT.name:
        return None
    return Key(MODEL_DEPLOYMENT.name, raw["metadata"].get("namespace", ""), controller["name"])


def owner_of(raw: Object) -> Key | None:
    """The custom resource that a child belongs to: its controller, or without one the resource that its labels name."""
    metadata = raw["metadata"]
    namespace = metadata.get("namespace", "")
    controller = controller_of(metadata)
    if controller is not None:
        return Key(controller["kind"], namespace, controller["name"]) if controller["kind"] in OWNERS else None
    own = metadata.get("labels") or {}
    for kind in OWNERS.values():
        if kind.owner_label in own:
            return Key(kind.name, namespace, own[kind.owner_label])
    return None


def _content(raw: Object) -> Object:
    """What the object is about; of one without a spec all that is not metadata."""
    if raw["kind"] in CONTENT:
        return {name: raw[name] for name in CONTENT[raw["kind"]] if name in raw}
    return raw.get("spec") or {}


def _annotations(metadata: Object) -> dict[str, str]:
    annotations: Mapping[str, str] = metadata.get("annotations") or {}
    return {name: value for name, value in annotations.items() if not name.startswith(_FOREIGN_PREFIXES)}


def _status(kind: str, status: Object) -> dict[str, Any]:
    if kind == "Deployment":
        kept = {name: status[name] for name in ("replicas", "readyReplicas") if name in status}
        bad = [c for c in status.get("conditions") or () if _BAD.get(c["type"]) == c["status"]]
        return kept | ({"conditions": [_condition(c) for c in bad]} if bad else {})
    if kind == "Job":
        kept = {
            name: status[name]
            for name in ("active", "ready", "succeeded", "failed", "startTime", "completionTime")
            if name in status
        }
        return kept | {"conditions": [_condition(c) for c in status.get("conditions") or ()]}
    return {}


def _condition(condition: Object) -> dict[str, Any]:
    return {name: condition[name] for name in _CONDITION_FIELDS if name in condition}


class Packer:
    """Packs objects of one kind. The first is the dictionary for all: they differ in little, and pack to a tenth."""

    def __init__(self) -> None:
        self._dictionary = b""

    def pack(self, value: Mapping[str, Any]) -> bytes:
        data = json.dumps(value, separators=(",", ":")).encode()
        if not self._dictionary:
            self._dictionary = data
        compressor = zlib.compressobj(level=1, zdict=self._dictionary)
        return compressor.compress(data) + compressor.flush()

    def unpack(self, packed: bytes) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(zlib.decompressobj(zdict=self._dictionary).decompress(packed))
        return value
