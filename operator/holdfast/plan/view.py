"""One ModelDeployment and its children, read for planning."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cached_property

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.api.modeldeployment import ModelDeploymentSpec
from holdfast.build import labels
from holdfast.plan import conditions, revisions
from holdfast.plan.observed import Child, Claim, Foreign, Observed, Pod
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
        read = (revisions.read(child, self.metadata.name) for child in own)
        return [revision for revision in read if revision]

    @cached_property
    def service(self) -> Child | None:
        return self._child("Service", self.metadata.name)

    @cached_property
    def budget(self) -> Child | None:
        return self._child("PodDisruptionBudget", self.metadata.name)

    @cached_property
    def register(self) -> str | None:
        """The revision that the Service was seen to name."""
        return self.service.annotations.get(labels.STABLE_REVISION) if self.service else None

    @cached_property
    def stable(self) -> Revision | None:
        """The revision that the register names; without a register, the one that status remembers, or that answers."""
        return (
            self.revision(self.register)
            or self.revision(self.status.get("stableRevision"))
            or next((revision for revision in self.revisions if revision.ready_replicas), None)
        )

    @cached_property
    def has_served(self) -> bool:
        """Whether there is traffic to lose. The first revision is in the register before it is ready."""
        if self.stable is None:
            return False
        if not self.status:  # lost, as by a restored backup: better to keep too much than to take pods from traffic
            return True
        return "stableRevision" in self.status or self.stable.ready_replicas > 0 or self.replicas == 0

    @cached_property
    def had(self) -> str | None:
        """What status said last of the progress: the reason of Progressing."""
        progressing = conditions.find(self.status, "Progressing")
        return progressing["reason"] if progressing else None

    def asked(self, revision: str) -> int:
        """Pods that a revision has to show. To take over from another it shows one even where none is asked for."""
        if not self.has_served or (self.stable and self.stable.name == revision):
            return self.replicas
        return max(1, self.replicas)

    def revision(self, name: str | None) -> Revision | None:
        return next((revision for revision in self.revisions if revision.name == name), None)

    def job(self, name: str) -> Child | None:
        return self._child("Job", name)

    def pods_of(self, revision: Revision) -> list[Pod]:
        """Its pods, the newest first, without those that were evicted and replaced."""
        own = (pod for pod in self.observed.pods if pod.labels.get(labels.REVISION) == revision.name)
        return newest_first(pod for pod in own if pod.phase not in {"Failed", "Succeeded"})

    def claims_of(self, child: Child) -> list[Claim]:
        """The claims that its pods mount, if they were read."""
        return [claim for claim in self.observed.claims if claim.name in revisions.claims_of(child)]

    def foreign(self, kind: str, name: str) -> Foreign | None:
        """Somebody else's object under a name that we want."""
        return next((found for found in self.observed.foreign if (found.kind, found.name) == (kind, name)), None)

    def waited(self) -> bool:
        """Whether something is wrong, or the present work has gone on for longer than most work takes."""
        ready = conditions.find(self.status, "Ready")
        if ready is None:
            return False
        return ready["status"] == "False" or self.waited_for() >= PATIENCE

    def waited_for(self) -> timedelta:
        """How long Ready has been what it is."""
        ready = conditions.find(self.status, "Ready")
        return self.observed.now - datetime.fromisoformat(ready["lastTransitionTime"]) if ready else timedelta(0)

    def overdue(self) -> bool:
        """Whether something has been wrong for longer than the progress deadline."""
        return conditions.lasts(self.status, "Ready", "False", self.observed.now, PROGRESS_DEADLINE)

    def _child(self, kind: str, name: str) -> Child | None:
        found = (c for c in self.observed.children if c.kind == kind and c.name == name and not c.deleting)
        return next(found, None)


def newest_first(pods: Iterable[Pod]) -> list[Pod]:
    """In an order that does not depend on the one in which they were listed."""
    return sorted(pods, key=lambda pod: (pod.created, pod.name), reverse=True)
