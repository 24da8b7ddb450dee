"""One ModelDeployment and its children, read for planning."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cached_property

from holdfast.api.meta import UNSEEN
from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.api.modeldeployment import ModelDeploymentSpec
from holdfast.build import labels, names
from holdfast.plan import conditions, orders, revisions
from holdfast.plan.observed import Child, Claim, Foreign, Observed, Pod
from holdfast.plan.orders import Orders
from holdfast.plan.revisions import Revision
from holdfast.plan.traffic import Report

PATIENCE = timedelta(seconds=5)
"""So long pods are given before they are asked what is wrong; most are ready by then."""
REASONS = frozenset(Reason)


class View:
    """Questions about what was observed. Children that are being deleted count as gone."""

    def __init__(self, observed: Observed) -> None:
        self.observed = observed
        self.now = observed.now
        self.metadata = observed.metadata
        seen = observed.status.get("observedGeneration", UNSEEN) != UNSEEN
        self.status = observed.status if seen else {}
        self.spec = ModelDeploymentSpec.parse(observed.spec)
        self.replicas = self.spec.serving.replicas

    @cached_property
    def revisions(self) -> list[Revision]:
        """All that are kept or run, the newest first. Those without a record come first: theirs is yet to be made."""
        owner = self.metadata.name
        records, deployments = self._by_name("ControllerRevision"), self._by_name("Deployment")
        read = [revisions.read(owner, deployments.get(name), records.get(name)) for name in {**deployments, **records}]
        found = [revision for revision in read if revision]
        return sorted(found, key=lambda r: (r.record is None, r.ordinal, r.name), reverse=True)

    @cached_property
    def next_ordinal(self) -> int:
        """For the next record."""
        return 1 + max((revision.ordinal for revision in self.revisions), default=0)

    @cached_property
    def service(self) -> Child | None:
        return self._child("Service", self.metadata.name)

    @cached_property
    def candidate_service(self) -> Child | None:
        return self._child("Service", names.candidate_service(self.metadata.name))

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
        promoted = [r for r in self.revisions if r.standing.verdict == "Promoted" and r.standing.promoted_at]
        return (
            self.revision(self.register)
            or self.revision(self.status.get("stableRevision"))
            or max(promoted, key=_promoted_at, default=None)
            or next((revision for revision in self.revisions if revision.ready_replicas), None)
        )

    @cached_property
    def previous(self) -> Revision | None:
        """The revision that stable took over from, while a rollback may return to it."""
        stable = self.stable
        if (
            stable is None
            or stable.standing.verdict != "Promoted"
            or not self.within(self.spec.guard.rollback_window_seconds)
        ):
            return None
        others = [r for r in self.revisions if r is not stable and r.standing.promoted_at]
        latest = max(others, key=_promoted_at, default=None)
        return latest if latest and latest.standing.verdict == "Promoted" else None

    def within(self, seconds: float) -> bool:
        """Whether stable took over less than so many seconds ago."""
        since = self.since_promotion
        return since is not None and since < timedelta(seconds=seconds)

    @cached_property
    def since_promotion(self) -> timedelta | None:
        """Since stable took over."""
        promoted = self.stable.standing.promoted_at if self.stable else None
        return self.now - promoted if promoted else None

    @cached_property
    def has_served(self) -> bool:
        """Whether there is traffic to lose. The first revision is in the register before it is ready."""
        if self.stable is None:
            return False
        if not self.status:  # lost, as by a restored backup: better to keep too much than to take pods from traffic
            return True
        if "stableRevision" in self.status or self.stable.standing.promoted_at:
            return True
        return self.stable.ready_replicas > 0 or self.replicas == 0

    @cached_property
    def orders(self) -> Orders:
        """What a person said."""
        remembered = {
            labels.HANDLED_ROLLOUT: self.status.get("lastHandledRollout", ""),
            labels.HANDLED_REFRESH: self.status.get("lastHandledRefresh", ""),
        }
        handled = self.service.annotations if self.service else {}
        return orders.read(self.observed.annotations, {**remembered, **handled})

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

    def helpers(self, purpose: str) -> list[Child]:
        """Helper Jobs for that purpose."""
        found = (c for c in self.observed.children if c.kind == "Job" and not c.deleting)
        return [child for child in found if child.labels.get(labels.PURPOSE) == purpose]

    def pods_of(self, revision: Revision) -> list[Pod]:
        """Its pods, the newest first, without those that were evicted and replaced."""
        own = (pod for pod in self.observed.pods if pod.labels.get(labels.REVISION) == revision.name)
        return newest_first(pod for pod in own if pod.phase not in {"Failed", "Succeeded"})

    def reports(self, revision: Revision) -> list[tuple[Pod, Report]]:
        """Of those of its pods that answered."""
        pods = [(pod, self.observed.routers.get(pod.uid)) for pod in self.pods_of(revision)]
        return [(pod, report) for pod, report in pods if report is not None and report.revision == revision.name]

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
        return self.now - datetime.fromisoformat(ready["lastTransitionTime"]) if ready else timedelta(0)

    @property
    def output_secret(self) -> str:
        """By which bundles are read that the template's runs make."""
        output = self.spec.retraining.template.spec.output if self.spec.retraining else None
        return output.secret_ref.name if output and output.secret_ref else ""

    @property
    def tolerance(self) -> float:
        """Excess of bad answers that counts as no worse."""
        return self.spec.rollout.tolerance_per_mille / 1000

    @property
    def poll_seconds(self) -> float:
        """Between two looks at the routers while something is being decided."""
        return self.observed.settings.poll_seconds

    @property
    def drain(self) -> timedelta:
        """For so long the pods of a revision outlive its traffic."""
        return timedelta(seconds=self.observed.settings.drain_seconds)

    @property
    def deadline(self) -> timedelta:
        """For pods of a revision to become ready."""
        return timedelta(seconds=self.spec.rollout.progress_deadline_seconds)

    def overdue(self) -> bool:
        """Whether something has been wrong for longer than the progress deadline."""
        return conditions.lasts(self.status, "Ready", "False", self.now, self.deadline)

    def _by_name(self, kind: str) -> dict[str, Child]:
        return {c.name: c for c in self.observed.children if c.kind == kind and not c.deleting}

    def _child(self, kind: str, name: str) -> Child | None:
        found = (c for c in self.observed.children if c.kind == kind and c.name == name and not c.deleting)
        return next(found, None)


def newest_first(pods: Iterable[Pod]) -> list[Pod]:
    """In an order that does not depend on the one in which they were listed."""
    return sorted(pods, key=lambda pod: (pod.created, pod.name), reverse=True)


def _promoted_at(revision: Revision) -> datetime:
    assert revision.standing.promoted_at
    return revision.standing.promoted_at
