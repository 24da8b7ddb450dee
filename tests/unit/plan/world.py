"""A small world for plans: it stores what they write, as the API server would, and runs pods as it is told to.

What is simulated is the cluster, never the operator: plans are made by the real functions from what they ask for, and
children are what the real builders rendered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.build import labels
from holdfast.plan.drift import NOT_CONFIGURED as NOTHING_WATCHED
from holdfast.plan.drift import Answer as MonitoringAnswer
from holdfast.plan.observed import (
    Amend,
    Apply,
    Child,
    Claim,
    Create,
    Delete,
    Event,
    Foreign,
    Json,
    Metadata,
    Needs,
    Observed,
    Plan,
    Pod,
    Route,
    Scale,
    Served,
    Settings,
    Training,
    TrainingOutput,
    Write,
)
from holdfast.plan.slo import NOT_CONFIGURED
from holdfast.plan.slo import Answer as SloAnswer
from holdfast.plan.traffic import Report


def _content(manifest: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What the API server keeps: a Service gets an address, and a ControllerRevision has no spec."""
    if manifest["kind"] == "ControllerRevision":
        assert not before or before["data"] == manifest["data"], "the data of a ControllerRevision changed"
        return {"data": manifest["data"], "revision": manifest["revision"]}
    if manifest["kind"] == "ConfigMap":
        return {"data": manifest["data"]}
    if manifest["kind"] == "Service":
        return {**manifest["spec"], "clusterIP": f"10.0.0.{len(manifest['metadata']['name'])}"}
    return dict(manifest["spec"])


START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
NAMESPACE = "team"
Key = tuple[str, str]


@dataclass
class World:
    """One custom resource, its children and their pods. `plan_of` and `needs_of` are the kind's own functions."""

    needs_of: Callable[[Observed], Needs]
    plan_of: Callable[[Observed], Plan]
    spec: dict[str, Any]
    name: str = "wine"
    uid: str = "uid-of-wine"
    generation: int = 1
    now: datetime = START
    settings: Settings = field(default_factory=lambda: Settings("localhost/serving:1", "localhost/training:1"))
    status: Mapping[str, Any] = field(default_factory=dict)
    children: dict[Key, dict[str, Any]] = field(default_factory=dict)
    foreign: set[Key] = field(default_factory=set)
    missing_claims: set[str] = field(default_factory=set)
    access_modes: tuple[str, ...] = ("ReadWriteMany",)
    config_maps: dict[Key, str] = field(default_factory=dict)
    training: TrainingOutput | None = None
    served: Served | None = None
    trainings: dict[str, Training] = field(default_factory=dict)
    """TrainingJobs that were made, by name."""
    recipes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """The spec of each that was ever made."""
    running_trainings: int = 0
    """Of others."""
    data_event: datetime | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    slo: SloAnswer = NOT_CONFIGURED
    progress: Json | None = None
    """What a pod says when it is asked how far it is."""
    asked: int = 0
    monitoring: MonitoringAnswer = NOTHING_WATCHED
    routers: dict[str, Report | None] = field(default_factory=dict)
    """By the uid of the pod."""
    routes: list[Route] = field(default_factory=list)
    """Leases of the last pass."""
    pods: dict[str, list[Pod]] = field(default_factory=dict)
    """By the name of the Deployment or the Job."""
    refusals: dict[str, str] = field(default_factory=dict)
    """By the name of the Job that cannot create pods."""
    refused: dict[Key, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    status_writes: int = 0
    uids: int = 0
    changes: int = 0
    """How many writes changed anything."""
    last: Plan | None = None
    applied: dict[str, Json] = field(default_factory=dict)
    """What was applied last, by name; Deployments have names of their own."""
    before_write: Callable[[], None] = lambda: None
    after_write: Callable[[], None] = lambda: None
    deliver: Callable[[Route, str], None] = lambda route, pod: None
    """A lease to a pod."""

    # --- The operator's side ----------------------------------------------------------------------------------------

    def observe(self) -> Observed:
        bare = self._observed(Needs())
        return self._observed(self.needs_of(bare))

    def plan(self) -> Plan:
        return self.plan_of(self.observe())

    def step(self, crash_after: int | None = None) -> bool:
        """Plan and carry it out. `crash_after`: only so many writes, and no status. Whether anything changed."""
        before = (self.changes, self.status)
        plan = self.last = self.plan()
        self.routes = []
        if plan.memory is not None:
            self.memory = json.loads(json.dumps(plan.memory))
        for write in plan.writes if crash_after is None else plan.writes[:crash_after]:
            self.before_write()
            self._write(write)
            self.after_write()
        if crash_after is None:
            if plan.status != self.status:
                self.status_writes += 1
                self.status = json.loads(json.dumps(plan.status))
            self.events.extend(plan.events)
        return (self.changes, self.status) != before

    def converge(self, most: int = 30) -> None:
        """Step until nothing changes any more, without time passing and without any pod changing."""
        for _ in range(most):
            if not self.step():
                return
        raise AssertionError(f"no fixpoint: {self.last}")

    def _write(self, write: Write) -> None:
        match write:
            case Apply(manifest):
                self.applied[manifest["metadata"]["name"]] = manifest
                self._apply(json.loads(json.dumps(manifest)))
            case Create(manifest) if manifest["kind"] == "TrainingJob":
                self._train(manifest)
            case Create(manifest):
                key = (manifest["kind"], manifest["metadata"]["name"])
                if key not in self.children and key not in self.refused:
                    self._apply(json.loads(json.dumps(manifest)))
            case Route(pods=pods):
                self.routes.append(write)
                for pod in pods:
                    self.before_write()
                    self.deliver(write, pod)
                    self.after_write()
            case Scale(name, replicas):
                child = self.children[("Deployment", name)]
                self.changes += child["spec"]["replicas"] != replicas
                child["spec"]["replicas"] = replicas
            case Amend(name, spec):
                child = self.children["Job", name]
                self.changes += child["spec"] != {**child["spec"], **spec}
                child["spec"].update(spec)
            case Delete("TrainingJob", name, uid):
                assert self.trainings.pop(name).uid == uid
                self.changes += 1
            case Delete(kind, name, uid):
                assert self.children[kind, name]["uid"] == uid
                del self.children[kind, name]
                self.pods.pop(name, None)
                self.changes += 1

    def _apply(self, manifest: dict[str, Any]) -> None:
        key = (manifest["kind"], manifest["metadata"]["name"])
        assert key not in self.foreign, f"wrote to somebody else's {key}"
        if key in self.refused:
            return
        if child := self.children.get(key):
            if key[0] == "Deployment":
                for fixed in ("selector", "template"):
                    assert child["spec"][fixed] == manifest["spec"][fixed], f"the {fixed} of {key} changed"
            content = _content(manifest, child["spec"])
            self.changes += (child["metadata"], child["spec"]) != (manifest["metadata"], content)
            child.update(metadata=manifest["metadata"], spec=content)
            return
        self.uids += 1
        self.changes += 1
        self.children[key] = {
            "uid": f"uid-{self.uids}",
            "metadata": manifest["metadata"],
            "spec": _content(manifest, {}),
            "status": {},
        }

    def _train(self, manifest: Json) -> None:
        name, metadata = manifest["metadata"]["name"], manifest["metadata"]
        if name in self.trainings or ("TrainingJob", name) in self.refused:
            return
        self.uids += 1
        self.changes += 1
        self.recipes[name] = manifest["spec"]
        self.trainings[name] = Training(
            name, f"uid-{self.uids}", metadata["labels"], metadata["annotations"], self.now, {}
        )  # fmt: skip

    def _observed(self, needs: Needs) -> Observed:
        self.asked += needs.progress
        return Observed(
            now=self.now,
            settings=self.settings,
            metadata=Metadata(self.name, NAMESPACE, self.uid, self.generation),
            spec=self.spec,
            status=self.status,
            annotations=self.annotations,
            memory=self.memory,
            slo=self.slo,
            progress=self.progress if needs.progress else None,
            monitoring=self.monitoring,
            routers={
                pod.uid: self.routers.get(pod.uid)
                for pods in self.pods.values()
                for pod in pods
                if pod.labels.get(labels.REVISION) in needs.routers
            },
            children=tuple(self._child(key) for key in self.children),
            foreign=tuple(Foreign(kind, name, "Deployment web") for kind, name in sorted(self.foreign)),
            pods=tuple(pod for pods in self.pods.values() for pod in pods)
            if needs.pods or needs.routers or needs.progress
            else (),
            claims=tuple(
                Claim(name, name not in self.missing_claims, self.access_modes, "Bound")
                for name in sorted(needs.claims)
            ),
            config_maps={key: self.config_maps.get(key) for key in needs.config_maps},
            refusals={
                stored["uid"]: self.refusals[name]
                for (_, name), stored in self.children.items()
                if stored["uid"] in needs.refusals and name in self.refusals
            },
            training_output=self.training,
            served=self.served,
            trainings=tuple(self.trainings.values()),
            running_trainings=self._running() if needs.running_trainings else 0,
            data_event=self.data_event,
            create_errors=dict(self.refused),
        )

    def _child(self, key: Key) -> Child:
        stored = self.children[key]
        metadata = stored["metadata"]
        return Child(
            kind=key[0],
            name=key[1],
            uid=stored["uid"],
            labels=metadata["labels"],
            annotations=metadata.get("annotations", {}),
            spec=stored["spec"],
            status=stored["status"],
        )

    # --- The user's side --------------------------------------------------------------------------------------------

    def change(self, **spec: Any) -> None:
        """Replace top-level fields of the spec."""
        self.spec = {**self.spec, **spec}
        self.generation += 1

    def scale(self, replicas: int) -> None:
        self.change(serving={**self.spec.get("serving", {}), "replicas": replicas})

    # --- The cluster's side -----------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def ready(self, revision: str | None = None, ready: bool = True) -> None:
        """All pods of a revision (None: of every one) become ready, or cease to be."""
        for (kind, name), child in self.children.items():
            if kind == "Deployment" and revision in (None, child["metadata"]["labels"][labels.REVISION]):
                asked = child["spec"]["replicas"]
                child["status"] = {"replicas": asked, "readyReplicas": asked if ready else 0}
                if ready:
                    self.pods.pop(name, None)

    def pod_says(self, child: str, **pod: Any) -> None:
        """The pods of a Deployment or a Job are one, like this."""
        key = next(key for key in self.children if key[1] == child and key[0] in {"Deployment", "Job"})
        stored = self.children[key]
        given: dict[str, Any] = {"phase": "Running", "created": self.now} | pod
        own = stored["metadata"]["labels"]
        self.pods[child] = [Pod(name=f"{child}-x1", owner_uid=stored["uid"], labels=own, **given)]

    def _running(self) -> int:
        own = sum(not training.status for training in self.trainings.values())
        return own + self.running_trainings

    def end_training(
        self,
        name: str,
        digest: str | None = None,
        *,
        version: str = "",
        failed: str = "",
        message: str = "words",
        **more: Any,
    ) -> None:
        """A TrainingJob ends: with a bundle of this digest, or failed for that reason. `more` is in its status too."""
        succeeded = {"type": "Succeeded", "status": "False" if failed else "True", "message": message}
        status: dict[str, Any] = {"conditions": [succeeded | {"reason": failed or "Completed"}], **more}
        if digest:
            status["model"] = {"uri": f"pvc://models/wine/{name}", "digest": digest}
            status["data"] = {"version": version} if version else {}
        self.trainings[name] = replace(self.trainings[name], status=status)

    def end_job(
        self, job: str, said: Mapping[str, Any] | None, *, failed: str | None = None, code: int = 3, at: str = ""
    ) -> None:
        """A Job comes to an end. `failed`: the reason in its condition; None: it is complete."""
        phase, code = ("Failed", code) if failed else ("Succeeded", 0)
        message = json.dumps(said) if said is not None else None
        self.pod_says(
            job, phase=phase, exit_code=code, termination_reason="Error" if code else "Completed",
            termination_message=message, image_id="localhost/training@sha256:aa",
        )  # fmt: skip
        condition = {"type": "Failed" if failed else "Complete", "status": "True", "reason": failed or "Done"}
        self.children["Job", job]["status"] = {
            "conditions": [
                condition | {"message": "the Job's own words", "lastTransitionTime": at or "2026-11-24T12:00:40Z"}
            ],
            "startTime": "2026-11-24T12:00:00Z",
        } | ({} if failed else {"completionTime": at or "2026-11-24T12:00:40Z"})

    # --- Looking ----------------------------------------------------------------------------------------------------

    def condition(self, type_: str) -> Mapping[str, Any] | None:
        return next((c for c in self.status.get("conditions", ()) if c["type"] == type_), None)

    def says(self, type_: str) -> tuple[str, str] | None:
        """Status and reason of a condition."""
        found = self.condition(type_)
        return (found["status"], found["reason"]) if found else None

    def message(self, type_: str = "Ready") -> str:
        found = self.condition(type_)
        return str(found["message"]) if found else ""

    @property
    def deployments(self) -> dict[str, dict[str, Any]]:
        """By revision."""
        return {
            child["metadata"]["labels"][labels.REVISION]: child
            for (kind, _), child in self.children.items()
            if kind == "Deployment"
        }

    @property
    def jobs(self) -> list[str]:
        return [name for kind, name in self.children if kind == "Job"]

    @property
    def selected(self) -> str | None:
        """The revision that the Service selects."""
        service = self.children.get(("Service", self.name))
        return service["spec"]["selector"][labels.REVISION] if service else None
