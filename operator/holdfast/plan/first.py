"""A ModelDeployment without `spec.model`: its first model is trained, and again when the template learns otherwise."""

from __future__ import annotations

import hashlib

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.api.retraining import Trigger
from holdfast.build.hashing import canonical_json
from holdfast.plan import trainings
from holdfast.plan.observed import Write
from holdfast.plan.obstacle import Obstacle
from holdfast.plan.revisions import Model
from holdfast.plan.view import View

RUNS_ONLY = frozenset(
    {"output", "tracking", "resources", "nodeSelector", "tolerations", "serviceAccountName", "queueName"}
    | {"backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "distributed"}
)
"""Parts of a run's spec that say where and for how long it runs, and not what is learned."""


def wish(view: View) -> Model:
    """What the template asks for: no model yet, but what one would be made of."""
    assert view.spec.retraining
    spec = view.spec.retraining.template.spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    learned = {name: value for name, value in spec.items() if name not in RUNS_ONLY}
    return Model("", f"sha256:{hashlib.sha256(canonical_json(learned).encode()).hexdigest()}", "Retraining")


def model(view: View) -> Model | Obstacle:
    """What serves under this template; else what the newest run of it made; else the run that is to make it."""
    asked = wish(view)
    stable = view.stable
    if stable and stable.model.wish == asked.wish:
        return asked
    found = [run for run in trainings.of(view) if run.cause.wish.wish == asked.wish]
    made = next((run.model for run in found if run.model and run.state == "Succeeded"), None)
    if made:
        return made
    said = view.orders.retrain
    manual = said if said and said != view.status.get("lastHandledRetrain") else None
    if found and manual not in (None, found[0].cause.key) and found[0].state == "Failed":
        return _train(view, asked, Trigger.MANUAL, str(manual))
    if found and found[0].state == "Failed":
        message = (
            f"TrainingJob {found[0].name} failed: {found[0].message}. Change retraining.template, or annotate"
            " holdfast.dev/retrain with any text to try again"
        )
        return Obstacle("False", Reason.FIRST_TRAINING_FAILED, message, hopeless=True)
    if found:
        return Obstacle("Unknown", Reason.TRAINING, f"TrainingJob {found[0].name}: {found[0].message}")
    return _train(view, asked, Trigger.TEMPLATE_CHANGED if stable else Trigger.INITIAL, asked.digest)


def _train(view: View, asked: Model, trigger: Trigger, key: str) -> Obstacle:
    cause = trainings.Cause(asked, key, view.stable.name if view.stable else "")
    name = trainings.name_of(view, [], trigger, key)
    refused = trainings.refused(view, name)
    idle = view.spec.suspend or (refused is not None and refused[0] == Reason.NAME_CONFLICT)
    writes: tuple[Write, ...] = () if idle else (trainings.start(view, name, trigger, "Serve", cause),)
    if refused:
        return Obstacle("False", *refused, writes)
    return Obstacle("Unknown", Reason.TRAINING, f"TrainingJob {name} is started", writes)
