"""One ModelDeployment and its children, read for planning."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.api.modeldeployment import ModelDeploymentSpec
from holdfast.build import labels
from holdfast.plan import conditions, revisions
from holdfast.plan.conditions import RECONCILING, STALLED
from holdfast.plan.observed import Child, Foreign, Observed, Pod
from holdfast.plan.revisions import Revision

PROGRESS_DEADLINE = timedelta(seconds=600)
PATIENCE = timedelta(seconds=5)
"""So long pods are given before they are asked what is wrong; most are ready by then."""
REASONS = frozenset(Reason)


class View:
    """Questions about what was observed. Children that are being deleted count as gone."""

    def __init__(self, observed: Observed) -> None:
        self.observed = observed
        self.metadata = observed.metadata
        self.status = observed.status
        self.spec = ModelDeploymentSpec.parse(observed.spec)
        self.replicas = self.spec.serving.replicas

    @cached_property
    def revisions(self) -> list[Revision]:
        """Our Deployments."""
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
        """The revision that the register names; without a register, the one that status remembers."""
        named = self.service.annotations.get(labels.STABLE_REVISION) if self.service else None
        return self.revision(named or self.status.get("stableRevision"))

    @cached_property
    def has_served(self) -> bool:
        """Whether there is traffic to lose. The first revision is in the register before it is ready."""
        stable = self.stable
        return stable is not None and ("stableRevision" in self.status or stable.has_ready(self.replicas))

    def revision(self, name: str | None) -> Revision | None:
        return next((revision for revision in self.revisions if revision.name == name), None)

    def job(self, name: str) -> Child | None:
        return self._child("Job", name)

    def pods_of(self, revision: Revision) -> list[Pod]:
        return [pod for pod in self.observed.pods if pod.labels.get(labels.REVISION) == revision.name]

    def foreign(self, kind: str, name: str) -> Foreign | None:
        """Somebody else's object under a name that we want."""
        return next((found for found in self.observed.foreign if (found.kind, found.name) == (kind, name)), None)

    def waited(self) -> bool:
        """Whether the present work has gone on for longer than most work takes."""
        return conditions.lasts(self.status, RECONCILING, "True", self.observed.now, PATIENCE) or bool(
            conditions.find(self.status, STALLED)
        )

    def overdue(self) -> bool:
        """Whether something has been wrong for longer than the progress deadline."""
        return conditions.lasts(self.status, "Ready", "False", self.observed.now, PROGRESS_DEADLINE)

    def _child(self, kind: str, name: str) -> Child | None:
        found = (c for c in self.observed.children if c.kind == kind and c.name == name and not c.deleting)
        return next(found, None)
