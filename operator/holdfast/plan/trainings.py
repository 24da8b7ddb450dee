"""Training runs of a ModelDeployment: what each was started for, and what has come of it.

A run is an owned TrainingJob. What it was made for is written on it and never changes; what came of it is in its status
and in the records of the revisions that serve its model. So all of this outlasts the operator.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.api.retraining import Trigger
from holdfast.build import labels, names
from holdfast.build.trainingjob import training_job
from holdfast.plan import conditions, revisions
from holdfast.plan.observed import Create, Delete, Training
from holdfast.plan.revisions import Model, Revision
from holdfast.plan.view import View

State = Literal["Running", "Failed", "Succeeded"]
Outcome = Literal["Running", "Failed", "Evaluating", "Same", "Kept", "RollingOut", "GateFailed", "Rejected", "Promoted"]
BAD: frozenset[Outcome] = frozenset({"Failed", "GateFailed", "Rejected"})
"""Those that came to nothing."""
UNGATED = frozenset({Trigger.INITIAL, Trigger.TEMPLATE_CHANGED})
"""Of these the outcome is what the spec asks for: there is no champion to be compared with."""
HELD_OUT = "RowDigest"
"""How a run holds out rows where its template does not say: the same in every run, so that models can be compared."""
KEPT, KEPT_FOR = 10, timedelta(days=1)
"""Runs that are kept at least."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What a run was made for."""

    wish: Model
    """What the spec asked for then."""
    key: str
    """With the trigger: what makes it another run than those before."""
    stable: str = ""
    """The revision that served then."""
    data_version: str = ""
    """Of the data, when it was looked at last; empty where nobody looked."""

    def to_json(self) -> dict[str, Any]:
        return {"wish": self.wish.as_wish(), "key": self.key, "stable": self.stable, "dataVersion": self.data_version}


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is there."""

    training: Training
    cause: Cause
    state: State
    message: str
    """Of its condition Succeeded."""
    model: Model | None
    """What came out."""

    @property
    def name(self) -> str:
        return self.training.name

    @property
    def trigger(self) -> str:
        return self.training.labels.get(labels.TRIGGER, "")

    @property
    def created(self) -> datetime:
        return self.training.created

    @property
    def data_version(self) -> str:
        """Of the data that it learned from; empty where that is not known."""
        return str((self.training.status.get("data") or {}).get("version") or self.cause.data_version)


def of(view: View) -> list[Run]:
    """All runs, newest first. A TrainingJob from which somebody took what we wrote on it is none of them."""
    found = [run for training in view.observed.trainings if (run := _read(view, training))]
    return sorted(found, key=lambda run: (run.created, run.name), reverse=True)


def outcome(view: View, run: Run) -> Outcome:
    """What has come of it until now."""
    if run.state != "Succeeded":
        return run.state
    stable = view.stable
    if stable and run.model and stable.model.training_job_name != run.name and serves(stable, run):
        return "Same"
    recorded = [revision for revision in view.revisions if serves(revision, run) and revision.record]
    if any(revision.standing.verdict == "Rejected" for revision in recorded):
        gate_failed = all(revision.standing.reason == "GateFailed" for revision in recorded)
        return "GateFailed" if gate_failed else "Rejected"
    if any(revision.standing.verdict == "Promoted" for revision in recorded) or run.trigger in UNGATED:
        return "Promoted"
    if recorded:
        return "Kept" if all(revision.standing.gate.get("rollout") is False for revision in recorded) else "RollingOut"
    if stable and run.model and (stable.model.digest == run.model.digest or stable.model.wish != run.model.wish):
        return "Same"  # what serves is no worse than this one, or was asked for since
    return "Evaluating"


def serves(revision: Revision, run: Run) -> bool:
    """Whether the revision's model is what came out of the run: by content, since the same data give the same model."""
    return run.model is not None and (revision.model.source, revision.model.digest) == ("Retraining", run.model.digest)


def failures(view: View, found: list[Run]) -> int:
    """Runs in a row that came to nothing, up to the last that did not, or that a person asked for."""
    count = 0
    for run in found:
        came_to = outcome(view, run)
        if run.trigger == Trigger.MANUAL or came_to in ("Promoted", "Kept"):
            break
        count += came_to in BAD
    return count


def name_of(view: View, found: list[Run], trigger: Trigger, key: str) -> str:
    """Of the run for that cause: the same until it has failed."""
    failed = sum((run.trigger, run.cause.key, run.state) == (trigger, key, "Failed") for run in found)
    return names.made_training(view.metadata.name, view.metadata.uid, trigger, key, failed)


def start(view: View, name: str, trigger: Trigger, action: str, cause: Cause) -> Create:
    """A run by the template of now."""
    metadata, spec = view.metadata, template(view)
    if trigger not in UNGATED:
        spec = without_alias(spec)
    return Create(
        training_job(name, metadata.name, metadata.namespace, metadata.uid, spec, trigger, action, cause.to_json())
    )


def refused(view: View, name: str) -> tuple[Reason, str] | None:
    """Why a run cannot be made: somebody else's TrainingJob has its name, or the API server says no."""
    if foreign := view.foreign("TrainingJob", name):
        return Reason.NAME_CONFLICT, f"TrainingJob {name} exists and belongs to {foreign.owner}; remove it"
    words = view.observed.create_errors.get(("TrainingJob", name))
    return (Reason.QUOTA_EXCEEDED, words) if words else None


def template(view: View) -> dict[str, Any]:
    """The spec of a run by the template of now."""
    spec = dict(view.observed.spec["retraining"]["template"]["spec"])
    split = spec.get("split") or {}
    method = {} if "orderColumn" in split else {"method": HELD_OUT}
    return spec | {"split": {"testPercent": 20, **method, **split}}


def without_alias(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec of a run whose model is gated: the alias waits for the gate."""
    tracking = {name: value for name, value in (spec.get("tracking") or {}).items() if name != "alias"}
    return spec | {"tracking": tracking} if tracking else spec


def superfluous(view: View, found: list[Run]) -> list[Delete]:
    """Runs of which nothing is to be known any more. Their bundles stay."""
    manual = view.orders.retrain
    return [
        Delete("TrainingJob", run.name, run.training.uid)
        for run in found[KEPT:]
        if view.now - run.created > KEPT_FOR and run.state != "Running" and run.cause.key != manual
    ]


def _read(view: View, training: Training) -> Run | None:
    try:
        said = json.loads(training.annotations.get(labels.CAUSE, ""))
        wish = revisions.wished(said["wish"])
        cause = Cause(wish, str(said["key"]), str(said["stable"]), str(said["dataVersion"])) if wish else None
    except (ValueError, KeyError, TypeError):
        return None
    if cause is None:
        return None
    succeeded = conditions.find(training.status, "Succeeded") or {"status": "Unknown", "message": "it has not started"}
    state: State = {"True": "Succeeded", "False": "Failed"}.get(succeeded["status"], "Running")  # type: ignore[assignment]
    return Run(training, cause, state, succeeded["message"], _model(view, training, cause.wish))


def _model(view: View, training: Training, wish: Model) -> Model | None:
    made = training.status.get("model") or {}
    if "uri" not in made or "digest" not in made:
        return None
    return Model(
        made["uri"], made["digest"], "Retraining", training.name, secret=view.output_secret, asked=wish
    )  # fmt: skip
