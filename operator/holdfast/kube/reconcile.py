"""One pass over one custom resource: observe, plan, write in the plan's order, status, Events.

The pass decides nothing. What the API server refuses is told to the plan, which finds the words for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from holdfast.build import labels, names
from holdfast.kube import doing, errors
from holdfast.kube.apply import Applier, NameTaken
from holdfast.kube.client import Client
from holdfast.kube.events import Recorder
from holdfast.kube.kinds import MODEL_DEPLOYMENT, OWNERS, TRAINING_JOB, Key
from holdfast.kube.reads import Reader
from holdfast.kube.store import NOBODY, Live, Resource, Store, Wake
from holdfast.plan import batchinference, modeldeployment, trainingjob
from holdfast.plan.drift import Answer as MonitoringAnswer
from holdfast.plan.observed import (
    Amend,
    Apply,
    Child,
    Create,
    Delete,
    Foreign,
    Json,
    Metadata,
    Needs,
    Observed,
    Plan,
    Route,
    Scale,
    Served,
    Settings,
    Training,
    TrainingOutput,
    Write,
)
from holdfast.plan.slo import Answer as SloAnswer
from holdfast.signals.leases import Signer
from holdfast.signals.routers import Routers

SETTLE_SECONDS = 0.2
"""After writes to children: a moment for what others do next, so that one pass sees all of it."""
OWN_PREFIX = "holdfast.dev/"


class Planner(Protocol):
    """The planning of one kind, a module of holdfast.plan."""

    def needs(self, observed: Observed) -> Needs: ...
    def plan(self, observed: Observed) -> Plan: ...


PLANNERS: Mapping[str, Planner] = {
    "ModelDeployment": modeldeployment,
    "TrainingJob": trainingjob,
    "BatchInference": batchinference,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a pass ended."""

    requeue_after: float | None = None
    refused: bool = False
    """The API server refused a write: try again, later each time."""
    concerned: Wake = NOBODY
    """Other custom resources that look at this one: its status has changed."""


@dataclass(frozen=True)
class Obstacles:
    """What stood in the way of writes, kept between passes because nothing else remembers it."""

    foreign: Mapping[Key, Foreign] = field(default_factory=dict)
    refusals: Mapping[Key, str] = field(default_factory=dict)

    def without(self, key: Key) -> Obstacles:
        if key not in self.foreign and key not in self.refusals:
            return self
        return Obstacles(
            {other: foreign for other, foreign in self.foreign.items() if other != key},
            {other: words for other, words in self.refusals.items() if other != key},
        )


class Reconciler:
    """Carries out plans. `reconcile` raises errors.ApiError and NotLeading; the key is then to be tried again."""

    def __init__(
        self,
        client: Client,
        store: Store,
        recorder: Recorder,
        settings: Settings,
        slo: Callable[[Key], SloAnswer],
        monitoring: Callable[[Key], MonitoringAnswer],
        data_event: Callable[[Key, datetime], datetime | None],
        routers: Routers,
    ) -> None:
        """`slo`, `monitoring`: what Prometheus says of a ModelDeployment, and of the rows that it sees; `data_event`:
        when somebody said last that it has new data."""
        self._client = client
        self._store = store
        self._applier = Applier(client, store)
        self._reader = Reader(client)
        self._recorder = recorder
        self._settings = settings
        self._slo = slo
        self._monitoring = monitoring
        self._data_event = data_event
        self._routers = routers
        self._signer: Signer | None = None
        self._obstacles: dict[Key, Obstacles] = {}
        self._memories: dict[Key, tuple[str, Json]] = {}

    def open(self, signer: Signer, *, prometheus_rules: bool = False) -> None:
        """From now on passes may come.

        signer: new pods take leases from it. prometheus_rules: whether the cluster has the kind PrometheusRule.
        """
        self._signer = signer
        self._settings = replace(self._settings, router_public_key=signer.public_key, prometheus_rules=prometheus_rules)

    async def reconcile(self, key: Key) -> Outcome:
        """One pass."""
        resource = self._store.resource(key)
        if resource is None or resource.deleting or self._store.is_left_alone(key.namespace):
            self._obstacles.pop(key, None)
            self._memories.pop(key, None)
            return Outcome()
        planner = PLANNERS[key.kind]
        obstacles = before = await self._still_there(resource)
        children = await self._adopted(resource)
        observed = await self._read(resource, planner, self._observe(resource, children, obstacles))
        plan = self._planned(planner, observed, resource)
        wrote = refused = False
        for write in plan.writes:
            target = _target(resource, write)
            try:
                wrote |= await self._carry_out(resource, write, observed)
            except NameTaken as taken:
                obstacles = replace(obstacles, foreign={**obstacles.foreign, target: taken.foreign})
                break
            except errors.Refused as refusal:
                obstacles = replace(obstacles, refusals={**obstacles.refusals, target: str(refusal)})
                refused = True
                break
            obstacles = obstacles.without(target)
        self._remember(key, obstacles)
        if obstacles != before:
            plan = self._planned(planner, _with(observed, self._children(resource), obstacles), resource)
        concerned = await self._report(resource, plan)
        return Outcome(SETTLE_SECONDS if wrote else plan.requeue_after, refused, concerned)

    # --- Observing --------------------------------------------------------------------------------------------------

    def _observe(self, resource: Resource, children: list[Live], obstacles: Obstacles) -> Observed:
        key, now = resource.key, datetime.now(UTC)
        observed = Observed(
            now=now,
            settings=self._settings,
            metadata=Metadata(key.name, key.namespace, resource.uid, resource.generation),
            spec=resource.spec,
            status=resource.status,
            annotations=resource.annotations,
            training_output=self._training_output(resource),
            served=self._served(resource),
            trainings=self._trainings(resource),
            slo=self._slo(key),
            monitoring=self._monitoring(key),
            data_event=self._data_event(key, now),
            memory=self._memory(resource),
        )
        return _with(observed, children, obstacles)

    def _children(self, resource: Resource) -> list[Live]:
        return self._store.children(resource.key, resource.uid)

    async def _read(self, resource: Resource, planner: Planner, observed: Observed) -> Observed:
        needs = planner.needs(observed)
        namespace = resource.key.namespace
        if needs.pods or needs.routers or needs.progress:
            observed = replace(observed, pods=await self._reader.pods(resource.key))
        if needs.routers:
            asked = [pod for pod in observed.pods if pod.labels.get(labels.REVISION) in needs.routers]
            observed = replace(observed, routers=await self._routers.read(asked))
        if needs.progress:
            observed = replace(observed, progress=await doing.progress(observed.pods))
        if needs.claims:
            observed = replace(observed, claims=await self._reader.claims(namespace, needs.claims))
        if needs.config_maps:
            values = await self._reader.config_map_keys(namespace, needs.config_maps)
            observed = replace(observed, config_maps=values)
        if needs.refusals:
            observed = replace(observed, refusals=await self._reader.refusals(namespace, needs.refusals))
        if needs.running_trainings:
            observed = replace(observed, running_trainings=self._store.count_running())
        return observed

    def _trainings(self, resource: Resource) -> tuple[Training, ...]:
        if resource.key.kind != MODEL_DEPLOYMENT.name:
            return ()
        return tuple(_training(run) for run in self._store.trainings(resource.key) if run.maker_uid == resource.uid)

    def _training_output(self, resource: Resource) -> TrainingOutput | None:
        reference = (resource.spec.get("model") or {}).get("trainingJobRef")
        if not reference:
            return None
        name = reference["name"]
        run = self._store.resource(Key(TRAINING_JOB.name, resource.key.namespace, name))
        return training_output(name, run)

    def _served(self, resource: Resource) -> Served | None:
        reference = (resource.spec.get("model") or {}).get("modelDeploymentRef")
        if not reference:
            return None
        found = self._store.resource(Key(MODEL_DEPLOYMENT.name, resource.key.namespace, reference["name"]))
        return served(found) if found else None

    async def _still_there(self, resource: Resource) -> Obstacles:
        """Objects of others are not watched: those that stood in the way are looked at again."""
        obstacles = self._obstacles.get(resource.key, Obstacles())
        for key in obstacles.foreign:
            foreign = await self._applier.foreign(resource, key)
            if foreign is None:
                obstacles = obstacles.without(key)
            else:
                obstacles = replace(obstacles, foreign={**obstacles.foreign, key: foreign})
        return obstacles

    def _remember(self, key: Key, obstacles: Obstacles) -> None:
        if obstacles.foreign or obstacles.refusals:
            self._obstacles[key] = obstacles
        else:
            self._obstacles.pop(key, None)

    def _planned(self, planner: Planner, observed: Observed, resource: Resource) -> Plan:
        """The plan, whose memory is kept whatever becomes of its writes."""
        plan = planner.plan(observed)
        if plan.memory is not None:
            self._memories[resource.key] = (resource.uid, plan.memory)
        return plan

    def _memory(self, resource: Resource) -> Json:
        uid, memory = self._memories.get(resource.key, ("", {}))
        return memory if uid == resource.uid else {}

    # --- Writing ----------------------------------------------------------------------------------------------------

    async def _adopted(self, resource: Resource) -> list[Live]:
        """The children, of which none is without a controller any more."""
        children = self._children(resource)
        orphans = [live for live in children if live.controller is None and not live.deleting]
        for live in orphans:
            await self._applier.adopt(resource, live)
        return self._children(resource) if orphans else children

    async def _carry_out(self, resource: Resource, write: Write, observed: Observed) -> bool:
        """Whether anything was written to the API server."""
        match write:
            case Apply(manifest):
                return await self._applier.apply(resource, manifest)
            case Create(manifest):
                return await self._applier.create(resource, manifest)
            case Scale(_, replicas):
                return await self._applier.scale(resource, _target(resource, write), replicas)
            case Amend(_, spec):
                return await self._applier.amend(resource, _target(resource, write), spec)
            case Delete(_, _, uid):
                return await self._applier.delete(resource, _target(resource, write), uid)
            case Route():
                await self._lease(resource, write, observed)
                return False

    async def _lease(self, resource: Resource, route: Route, observed: Observed) -> None:
        """Put one lease to each of a route's pods. What they do is in their next reports."""
        assert self._signer is not None
        leases = [
            (pod, self._signer.envelope(route, resource.key.name, report))
            for pod in observed.pods
            if pod.uid in route.pods and (report := observed.routers.get(pod.uid)) is not None
        ]
        await asyncio.gather(*(self._routers.put(pod, envelope) for pod, envelope in leases))

    async def _report(self, resource: Resource, plan: Plan) -> Wake:
        """Status and Events. Says for whom else the status has changed: the watch tells nobody of our own writes."""
        key, concerned = resource.key, NOBODY
        if plan.status != resource.status and json.loads(json.dumps(plan.status)) != resource.status:
            answer = await self._client.set_status(OWNERS[key.kind], key, resource.uid, plan.status)
            concerned = self._store.put(answer) - {key}
        for event in plan.events:
            await self._recorder.post(resource, event)
        return concerned


def served(deployment: Resource) -> Served:
    """What a BatchInference sees of a ModelDeployment."""
    status = deployment.status
    ready: Mapping[str, Any] = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), {})
    message = ready.get("message", "it has not been looked at yet")
    model = status.get("model") or {}
    secret = (deployment.spec.get("serving") or {}).get("storageSecretRef") or {}
    return Served(
        model.get("uri"), model.get("digest"), status.get("stableRevision"), message, str(secret.get("name", ""))
    )


def training_output(name: str, run: Resource | None) -> TrainingOutput:
    """What another resource sees of a TrainingJob."""
    if run is None:
        return TrainingOutput(name, "Missing")
    succeeded = run.succeeded
    message = succeeded.get("message", "it has not started yet")
    model = run.status.get("model") or {}
    match succeeded.get("status"):
        case "True":
            secret = (run.spec.get("output") or {}).get("secretRef") or {}
            return TrainingOutput(
                name, "Succeeded", model.get("uri"), model.get("digest"), message, str(secret.get("name", ""))
            )
        case "False":
            return TrainingOutput(name, "Failed", message=message)
        case _:
            return TrainingOutput(name, "Running", message=message)


def _training(run: Resource) -> Training:
    own = {name: value for name, value in run.annotations.items() if name.startswith(OWN_PREFIX)}
    created = datetime.fromisoformat(run.created)
    return Training(run.key.name, run.uid, run.labels, own, created, run.status)


def _with(observed: Observed, children: list[Live], obstacles: Obstacles) -> Observed:
    return replace(
        observed,
        children=tuple(_child(live) for live in children),
        foreign=tuple(obstacles.foreign.values()),
        create_errors={(key.kind, key.name): words for key, words in obstacles.refusals.items()},
    )


def _child(live: Live) -> Child:
    own = {name: value for name, value in live.annotations.items() if name.startswith(OWN_PREFIX)}
    return Child(
        kind=live.key.kind,
        name=live.key.name,
        uid=live.uid,
        labels=live.labels,
        annotations=own,
        spec=live.spec,
        status=live.status,
        controlled=live.controller is not None,
        deleting=live.deleting,
    )


def _target(resource: Resource, write: Write) -> Key:
    """What a write changes."""
    namespace = resource.key.namespace
    match write:
        case Apply(manifest) | Create(manifest):
            return Key(manifest["kind"], namespace, manifest["metadata"]["name"])
        case Scale(name, _):
            return Key("Deployment", namespace, name)
        case Amend(name, _):
            return Key("Job", namespace, name)
        case Delete(kind, name, _):
            return Key(kind, namespace, name)
        case Route(revision=revision):
            return Key("Deployment", namespace, names.revision_deployment(resource.key.name, revision))
