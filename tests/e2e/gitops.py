"""A GitOps tool: it applies the same manifests again and again, and notes whatever somebody else made of them."""

from __future__ import annotations

import json
import threading
from types import TracebackType
from typing import Self

import yaml
from tests.e2e.kube import JsonObject, Kube

MANAGER = "argocd-controller"
OPERATOR = "holdfast"
WRITTEN_BY_PEOPLE = {"holdfast.dev/rollout", "holdfast.dev/refresh", "holdfast.dev/retrain"}


class Syncer:
    """Server-side apply every `seconds`, with a field manager of its own and without force, until the block ends.

    `drifts` has, in words, each change that an apply made, met or was refused for. What people write into their own
    annotations is none. `seen` has every version of the objects that it met.
    """

    def __init__(self, kube: Kube, *manifests: JsonObject, seconds: float = 5.0) -> None:
        self.drifts: list[str] = []
        self.seen: list[JsonObject] = []
        self.applied = 0
        """Turns since the manifests were last changed."""
        self._kube = kube
        self._seconds = seconds
        self._manifests = manifests
        self._last: dict[tuple[str, str], JsonObject] = {}
        self._turn = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="syncer")

    def __enter__(self) -> Self:
        self.sync()
        self._thread.start()
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def change(self, *manifests: JsonObject) -> None:
        """Something else lies in Git from now on; applied when this returns."""
        with self._turn:
            self._manifests = manifests
            self._last.clear()
            self.applied = 0
        self.sync()

    def sync(self) -> None:
        """Apply once. Raises AssertionError with kubectl's complaint, a conflict with another manager among them."""
        with self._turn:
            for manifest in self._manifests:
                self._apply(manifest)
            self.applied += 1

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            try:
                self.sync()
            except Exception as error:  # it would be lost in this thread
                self.drifts.append(str(error))

    def _apply(self, manifest: JsonObject) -> None:
        key = (manifest["kind"], manifest["metadata"]["name"])
        met = self._last.get(key)
        if met:
            before, met = met, self._printed("get", *key)
            self._note(f"{key} was changed", before, met)
            if written := operator_writes(met):
                self.drifts.append(f"{key} was written to by the operator: {written}")
        manager = f"--field-manager={MANAGER}"
        after = self._printed("apply", "--server-side", manager, "-f", "-", stdin=yaml.safe_dump(manifest))
        if met:
            self._note(f"{key} was changed by applying it again", met, after)
        self._last[key] = after
        if all(after["metadata"]["resourceVersion"] != one["metadata"]["resourceVersion"] for one in self.seen):
            self.seen.append(after)

    def _printed(self, *arguments: str, stdin: str | None = None) -> JsonObject:
        found: JsonObject = json.loads(self._kube(*arguments, "-o", "json", "--show-managed-fields", stdin=stdin))
        return found

    def _note(self, what: str, before: JsonObject, after: JsonObject) -> None:
        old, new = mine(before), mine(after)
        self.drifts += [f"{what}: {part}: {old[part]} → {new[part]}" for part in old if old[part] != new[part]]


def mine(found: JsonObject) -> JsonObject:
    """What Git says of an object, and what tells that it was touched."""
    metadata = found["metadata"]
    annotations = {k: v for k, v in metadata.get("annotations", {}).items() if k not in WRITTEN_BY_PEOPLE}
    return {
        "spec": found["spec"],
        "labels": metadata.get("labels", {}),
        "annotations": annotations,
        "finalizers": metadata.get("finalizers", []),
        "generation": metadata["generation"],
    }


def operator_writes(found: JsonObject) -> list[JsonObject]:
    """Fields that are the operator's, beside those of status."""
    managers = found["metadata"].get("managedFields", [])
    return [one["fieldsV1"] for one in managers if one["manager"] == OPERATOR and one.get("subresource") != "status"]
