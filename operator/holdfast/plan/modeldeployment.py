"""What to do for a ModelDeployment: read this file to understand how a model comes to be served.

    wanted model ─▶ wanted revision ─▶ its Deployment beside the one that serves ─▶ Service moved ─▶ old one deleted

The Service is the register of who is stable. A revision takes its place only when all pods that the spec asks for are
ready; one that never gets there leaves everything as it was, and status says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.api.modeldeployment import ModelDeploymentSpec
from holdfast.build import labels, names
from holdfast.build.deployment import RevisionManifest
from holdfast.build.job import resolve_job
from holdfast.build.pod import claim_of
from holdfast.build.poddisruptionbudget import pod_disruption_budget
from holdfast.build.service import service
from holdfast.plan import conditions, jobs, revisions, trouble
from holdfast.plan.conditions import RECONCILING, STALLED, Condition, Status
from holdfast.plan.observed import Apply, Child, Create, Delete, Event, Needs, Observed, Plan, Pod, Scale, Write
from holdfast.plan.revisions import Model, Revision
from holdfast.plan.trouble import Trouble

PROGRESS_DEADLINE = timedelta(seconds=600)
PATIENCE = timedelta(seconds=5)
"""So long pods are given before they are asked what is wrong; most are ready by then."""
POLL_SECONDS = 10.0
"""How often pods that are not ready are asked again: they are not watched, their number would set our memory."""

REASONS = frozenset(Reason)
HOPELESS = frozenset({Reason.DIGEST_MISMATCH, Reason.MODEL_INVALID, Reason.NAME_CONFLICT, Reason.TRAINING_JOB_FAILED})
"""Stalled at once: trying again cannot help. For all others, once the progress deadline has passed."""


@dataclass(frozen=True)
class Obstacle:
    """Why there is no wanted revision yet, and what to do about it."""

    status: Status
    reason: str
    message: str
    writes: tuple[Write, ...] = ()
    patient: bool = False
    """Waits for as long as it takes: never Stalled by itself."""


@dataclass(frozen=True)
class Verdict:
    """How far the spec is fulfilled."""

    status: Status
    reason: str
    message: str
    stalled: bool = False

    @property
    def settled(self) -> bool:
        return self.status == "True"


class View:
    """One ModelDeployment and its children, read for planning."""

    def __init__(self, observed: Observed) -> None:
        self.observed = observed
        self.metadata = observed.metadata
        self.spec = ModelDeploymentSpec.parse(observed.spec)
        self.replicas = self.spec.serving.replicas

    @cached_property
    def revisions(self) -> list[Revision]:
        """Our Deployments that are not being deleted."""
        own = (child for child in self.observed.children if child.kind == "Deployment" and not child.deleting)
        return [revision for revision in map(revisions.read, own) if revision]

    @cached_property
    def service(self) -> Child | None:
        return self._child("Service", self.metadata.name)

    @cached_property
    def budget(self) -> Child | None:
        return self._child("PodDisruptionBudget", self.metadata.name)

    @cached_property
    def stable(self) -> Revision | None:
        """The revision that the register names."""
        name = self.service.annotations.get(labels.STABLE_REVISION) if self.service else None
        return next((revision for revision in self.revisions if revision.name == name), None)

    @cached_property
    def has_served(self) -> bool:
        """Whether the stable revision ever was ready. The first one is in the register before that."""
        stable = self.stable
        return stable is not None and (
            self.observed.status.get("stableRevision") == stable.name or stable.has_ready(self.replicas)
        )

    def job(self, name: str) -> Child | None:
        return self._child("Job", name)

    def pods_of(self, revision: Revision) -> list[Pod]:
        return [pod for pod in self.observed.pods if pod.labels.get(labels.REVISION) == revision.name]

    def waited(self) -> bool:
        """Whether the present work has gone on for longer than most work takes."""
        begun = conditions.since(self.observed.status, RECONCILING)
        return begun is not None and self.observed.now - begun >= PATIENCE

    def overdue(self, reason: str) -> bool:
        """Whether the present work has gone on for longer than the progress deadline."""
        before = conditions.find(self.observed.status, STALLED)
        if before and before["reason"] == reason and before.get("observedGeneration") == self.metadata.generation:
            return True
        begun = conditions.since(self.observed.status, RECONCILING)
        return begun is not None and self.observed.now - begun >= PROGRESS_DEADLINE

    def _child(self, kind: str, name: str) -> Child | None:
        found = (c for c in self.observed.children if c.kind == kind and c.name == name and not c.deleting)
        return next(found, None)


def needs(observed: Observed) -> Needs:
    """What has to be read before planning: little while all is well, the pods' own words when it is not."""
    view = View(observed)
    unready = any(revision.ready_replicas < revision.replicas for revision in view.revisions)
    helpers = [child for child in observed.children if child.kind == "Job"]
    asked = (unready or bool(helpers)) and view.waited()
    claim = claim_of(view.spec.model.uri or "")
    return Needs(
        pods=asked or any(jobs.finished(helper) for helper in helpers),
        claims=frozenset({claim}) if claim and (asked or not view.has_served) and view.waited() else frozenset(),
        config_maps=frozenset(_config_map_keys(view).values()),
    )


def plan(observed: Observed) -> Plan:
    """All that is to be done now."""
    view = View(observed)
    found = wanted_revision(view)
    if isinstance(found, Obstacle):
        writes = (*keep_stable(view), *found.writes)
        verdict = _of_obstacle(view, found)
        wanted = None
    else:
        wanted = found
        writes = tuple(towards(view, wanted))
        verdict = judge(view, wanted)
    status = render_status(view, verdict, wanted)
    return Plan(status, writes, tuple(_events(view, verdict)), _requeue(verdict))


# --- What is wanted -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """The revision that the spec asks for: how it would be rendered now, and its Deployment if it has one."""

    manifest: RevisionManifest
    existing: Revision | None

    @property
    def name(self) -> str:
        return self.manifest.revision


def wanted_revision(view: View) -> Wanted | Obstacle:
    """The revision that the spec asks for. One that exists for the same intent is it, with the image that it has."""
    model = wanted_model(view)
    if isinstance(model, Obstacle):
        return model
    env = environment(view)
    if isinstance(env, Obstacle):
        return env
    intent = revisions.intent(model, view.spec.serving, env)
    same = [revision for revision in view.revisions if revision.intent == intent]
    existing = next((revision for revision in same if revision is view.stable), same[0] if same else None)
    manifest = revisions.manifest(view.metadata, view.observed.settings, model, view.spec.serving, env, existing)
    return Wanted(manifest, existing)


def wanted_model(view: View) -> Model | Obstacle:
    """The model that the spec asks for, pinned to a digest."""
    asked = view.spec.model
    if asked.training_job_ref:
        return _trained_model(view, asked.training_job_ref.name)
    uri = asked.uri or ""
    if asked.digest:
        return Model(uri, asked.digest)
    if view.has_served and view.stable and view.stable.model.uri == uri and view.stable.model.source == "URI":
        return view.stable.model  # resolved once per wish: what lies behind the URI by now is another matter
    return _resolved_model(view, uri)


def _trained_model(view: View, name: str) -> Model | Obstacle:
    output = view.observed.training_output
    if output and output.state == "Succeeded" and output.uri and output.digest:
        return Model(output.uri, output.digest, "TrainingJob", name)
    if view.stable and view.stable.model.training_job_name == name:
        return view.stable.model  # once resolved, the TrainingJob is needed no more
    if output is None or output.state == "Missing":
        message = f"TrainingJob {name} does not exist in this namespace; apply it"
        return Obstacle("False", Reason.TRAINING_JOB_NOT_FOUND, message)
    if output.state == "Failed":
        message = f"TrainingJob {name} failed: {output.message}. Give a new run a new name and refer to that"
        return Obstacle("False", Reason.TRAINING_JOB_FAILED, message)
    message = f"TrainingJob {name} has no output yet: {output.message}"
    return Obstacle("Unknown", Reason.WAITING_FOR_TRAINING_JOB, message, patient=True)


def _resolved_model(view: View, uri: str) -> Model | Obstacle:
    observed, metadata, serving = view.observed, view.metadata, view.spec.serving
    name = names.helper_job(metadata.name, metadata.uid, "resolve", uri)
    helper = view.job(name)
    message = f"finding out what {uri} is (Job {name})"
    if helper is None:
        tolerations = [toleration.to_json() for toleration in serving.tolerations or ()]
        manifest = resolve_job(
            metadata.name,
            metadata.namespace,
            metadata.uid,
            uri,
            observed.settings.serving_image,
            observed.settings.image_pull_policy,
            serving.node_selector,
            tolerations,
        )
        if conflict := _conflict(view, "Job", name):
            return conflict
        if refused := observed.create_errors.get(("Job", name)):
            return Obstacle("False", Reason.QUOTA_EXCEEDED, refused, (Create(manifest),))
        return Obstacle("Unknown", Reason.RESOLVING, message, (Create(manifest),))
    pods = [pod for pod in observed.pods if pod.owner_uid == helper.uid]
    if jobs.succeeded(helper):
        digests = [said["digest"] for said in map(trouble.report, pods) if "digest" in said]
        if digests:
            return Model(uri, digests[0])
        # Its pod, and what it said, are gone: ask again.
        return Obstacle("Unknown", Reason.RESOLVING, message, (Delete("Job", name, helper.uid),))
    newest_first = sorted(pods, key=lambda pod: pod.created, reverse=True)
    wrong = trouble.of_claims(observed.claims) or trouble.of_pods(newest_first, observed.claims, REASONS)
    if wrong is None:
        return Obstacle("Unknown", Reason.RESOLVING, message)
    again = "" if wrong.reason in HOPELESS else "; it is tried again"
    return Obstacle("False", wrong.reason, f"{uri}: {wrong.message}{again}")


def environment(view: View) -> dict[str, str] | Obstacle:
    """The server's variables, with ConfigMap keys read."""
    values: dict[str, str] = {}
    keys = _config_map_keys(view)
    for variable in view.spec.serving.env or ():
        if variable.name not in keys:
            values[variable.name] = variable.value or ""
            continue
        config_map, key = keys[variable.name]
        value = view.observed.config_maps.get((config_map, key))
        if value is None:
            message = (
                f"ConfigMap {config_map} with key {key}, for the variable {variable.name}, is not there; create it"
            )
            return Obstacle("False", Reason.CONFIG_MAP_NOT_FOUND, message)
        values[variable.name] = value
    return values


def _config_map_keys(view: View) -> dict[str, tuple[str, str]]:
    return {
        variable.name: (variable.value_from.config_map_key_ref.name, variable.value_from.config_map_key_ref.key)
        for variable in view.spec.serving.env or ()
        if variable.value_from
    }


# --- What to write --------------------------------------------------------------------------------------------------


def towards(view: View, wanted: Wanted) -> Iterable[Write]:
    """The writes that lead to `wanted`, in an order in which any prefix is safe."""
    if _any_conflict(view, wanted):
        yield from keep_stable(view)
        return
    if view.stable and view.stable.name != wanted.name:
        yield from _scaled(view.stable, view.replicas)
    yield from _deployment(wanted, view.replicas)
    target = _target(view, wanted)
    yield Apply(service(view.metadata.name, view.metadata.namespace, view.metadata.uid, target))
    if view.stable is None or view.stable.name != target:
        return  # the rest waits until the Service was seen to point there
    yield from _budget(view, target)
    for revision in view.revisions:
        if revision.name not in {target, wanted.name}:
            yield Delete("Deployment", revision.child.name, revision.child.uid)


def keep_stable(view: View) -> Iterable[Write]:
    """Nothing new: what serves goes on serving, at the scale that is asked."""
    if view.stable:
        yield from _scaled(view.stable, view.replicas)
        yield from _budget(view, view.stable.name)


def _target(view: View, wanted: Wanted) -> str:
    """The revision that the Service is to select: the wanted one as soon as nothing is lost by it."""
    ready = wanted.existing is not None and wanted.existing.has_ready(view.replicas)
    if view.stable is None or ready or not view.has_served:
        return wanted.name
    return view.stable.name


def _deployment(wanted: Wanted, replicas: int) -> Iterable[Write]:
    manifest = wanted.manifest.render(replicas)
    existing = wanted.existing
    rendered = manifest["metadata"]["annotations"][labels.DESIRED_HASH]
    if existing is None or existing.child.annotations.get(labels.DESIRED_HASH) == rendered:
        yield Apply(manifest)
    else:  # rendered by an earlier operator: its template stays, or an upgrade would restart every model
        yield from _scaled(existing, replicas)


def _scaled(revision: Revision, replicas: int) -> Iterable[Write]:
    if revision.replicas != replicas:
        yield Scale(revision.child.name, replicas)


def _budget(view: View, stable: str) -> Iterable[Write]:
    metadata = view.metadata
    if view.replicas >= 2:
        if _conflict(view, "PodDisruptionBudget", metadata.name) is None:
            yield Apply(pod_disruption_budget(metadata.name, metadata.namespace, metadata.uid, stable))
    elif view.budget:
        yield Delete("PodDisruptionBudget", view.budget.name, view.budget.uid)


def _conflict(view: View, kind: str, name: str) -> Obstacle | None:
    for foreign in view.observed.foreign:
        if (foreign.kind, foreign.name) == (kind, name):
            message = f"{kind} {name} exists and belongs to {foreign.owner}; rename this ModelDeployment or remove it"
            return Obstacle("False", Reason.NAME_CONFLICT, message)
    return None


def _any_conflict(view: View, wanted: Wanted) -> Obstacle | None:
    return (
        _conflict(view, "Service", view.metadata.name)
        or _conflict(view, "Deployment", names.revision_deployment(view.metadata.name, wanted.name))
        or (_conflict(view, "PodDisruptionBudget", view.metadata.name) if view.replicas >= 2 else None)
    )


# --- What to say ----------------------------------------------------------------------------------------------------


def judge(view: View, wanted: Wanted) -> Verdict:
    """How far the wanted revision is."""
    if conflict := _any_conflict(view, wanted):
        return _of_obstacle(view, conflict)
    existing, replicas = wanted.existing, view.replicas
    stable = view.stable is not None and view.stable.name == wanted.name
    if existing and existing.has_ready(replicas) and stable:
        return Verdict("True", Reason.SERVING, _serving_message(view, existing))
    if existing and existing.has_ready(replicas):
        return Verdict("Unknown", Reason.PROMOTING, f"{wanted.name} is ready and takes over")
    ready = existing.ready_replicas if existing else 0
    counts = f"{wanted.name}: {ready} of {replicas} pods ready"
    wrong = _trouble(view, wanted)
    if stable and view.has_served:
        if wrong:
            return Verdict("False", Reason.PODS_NOT_READY, f"{counts}; {wrong.reason}: {wrong.message}")
        return Verdict("Unknown", Reason.SCALING, counts)
    overdue = existing is not None and trouble.deadline_passed(existing.child)
    if wrong is None and overdue:
        wrong = Trouble(Reason.PROGRESS_DEADLINE_EXCEEDED, f"{counts} after {PROGRESS_DEADLINE.seconds} s")
    if wrong is None:
        return Verdict("Unknown", Reason.STARTING, counts)
    return Verdict("False", wrong.reason, f"{wanted.name}: {wrong.message}", overdue or wrong.reason in HOPELESS)


def _trouble(view: View, wanted: Wanted) -> Trouble | None:
    name = names.revision_deployment(view.metadata.name, wanted.name)
    for kind, child in (("Deployment", name), ("Service", view.metadata.name)):
        if refused := view.observed.create_errors.get((kind, child)):
            return Trouble(Reason.QUOTA_EXCEEDED, refused)
    if wanted.existing is None:
        return None
    return (
        trouble.of_claims(view.observed.claims)
        or trouble.of_pods(view.pods_of(wanted.existing), view.observed.claims, REASONS)
        or trouble.of_replicas(wanted.existing.child)
    )


def _of_obstacle(view: View, obstacle: Obstacle) -> Verdict:
    stalled = obstacle.reason in HOPELESS or (not obstacle.patient and view.overdue(obstacle.reason))
    return Verdict(obstacle.status, obstacle.reason, obstacle.message, stalled)


def render_status(view: View, verdict: Verdict, wanted: Wanted | None) -> dict[str, Any]:
    """The whole status."""
    stable = view.stable if view.has_served else None
    found = [
        Condition("Ready", verdict.status, verdict.reason, verdict.message),
        _available(view, verdict),
        _progressing(verdict),
    ]
    if not verdict.settled:
        found.append(Condition(STALLED if verdict.stalled else RECONCILING, "True", verdict.reason, verdict.message))
    observed, metadata = view.observed, view.metadata
    status: dict[str, Any] = {
        "observedGeneration": metadata.generation,
        "conditions": conditions.rendered(found, observed.status, metadata.generation, observed.now),
        "replicas": int(stable.child.status.get("replicas") or 0) if stable else 0,
        "readyReplicas": stable.ready_replicas if stable else 0,
    }
    if stable:
        selector = labels.serving_selector(metadata.name, stable.name)
        status["selector"] = ",".join(f"{key}={value}" for key, value in selector.items())
        status["stableRevision"] = stable.name
        status["model"] = stable.model.to_json() | {"runtimeImage": stable.image}
    if wanted and (stable is None or stable.name != wanted.name):
        status["candidateRevision"] = wanted.name
    if view.service or stable:
        status["url"] = _url(view)
    return status


def _available(view: View, verdict: Verdict) -> Condition:
    stable = view.stable
    if stable and stable.ready_replicas:
        message = f"{min(stable.ready_replicas, stable.replicas)} of {stable.replicas} pods ready"
        return Condition("Available", "True", Reason.SERVING, message)
    if view.replicas == 0 and view.has_served:
        return Condition("Available", "False", Reason.SCALED_TO_ZERO, "serving.replicas is 0, as asked")
    if view.has_served:
        return Condition("Available", "False", Reason.NO_READY_PODS, f"no pod is ready; {verdict.message}")
    return Condition("Available", "False", Reason.NEVER_SERVED, "no revision has been ready yet")


def _progressing(verdict: Verdict) -> Condition:
    if verdict.settled:
        return Condition("Progressing", "False", Reason.COMPLETE, verdict.message)
    return Condition("Progressing", "False" if verdict.stalled else "True", verdict.reason, verdict.message)


def _serving_message(view: View, revision: Revision) -> str:
    digest = revision.model.digest[: len("sha256:") + 8]
    serves = f"{revision.name} serves {revision.model.uri} ({digest}…) at {_url(view)}"
    return f"{serves}; scaled to zero, as asked" if view.replicas == 0 else serves


def _url(view: View) -> str:
    return f"http://{view.metadata.name}.{view.metadata.namespace}.svc"


def _events(view: View, verdict: Verdict) -> Iterable[Event]:
    before: Mapping[str, Any] = conditions.find(view.observed.status, "Ready") or {}
    changed = (before.get("status"), before.get("reason")) != (verdict.status, verdict.reason)
    if changed and verdict.status != "Unknown":
        message = conditions.shortened(verdict.message)
        yield Event("Normal" if verdict.settled else "Warning", verdict.reason, message)


def _requeue(verdict: Verdict) -> float | None:
    """Pods and ConfigMaps are not watched, and no event tells that time has passed."""
    if verdict.settled:
        return None
    return PATIENCE.total_seconds() if verdict.status == "Unknown" else POLL_SECONDS
