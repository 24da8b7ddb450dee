"""ModelDeployment's `retraining`: what a model is trained from again, when, how often, and what it must reach."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from holdfast.api.meta import Count, Digest, Model, ShortText, Text, Time, atomic_list, rules, validated
from holdfast.api.trainingjob import RUN_RULES, Rows, RunSpec

TriggerAction = Literal["Notify", "Train", "TrainAndRollout"]


class Trigger(StrEnum):
    """Why a run was started."""

    INITIAL = "Initial"
    TEMPLATE_CHANGED = "TemplateChanged"
    MANUAL = "Manual"
    PERFORMANCE = "Performance"
    DRIFT = "Drift"
    NEW_DATA = "NewData"
    SCHEDULE = "Schedule"


class TemplateRun(RunSpec):
    """A TrainingJob's spec, without suspend."""

    model_config = validated(*RUN_RULES)


class RunTemplate(Model):
    """A TrainingJob to be."""

    spec: TemplateRun = Field(description="As of a TrainingJob (kubectl explain tjob.spec), without suspend.")


class PerformanceTrigger(Model):
    """When PerformanceStable is False."""

    action: TriggerAction = Field("TrainAndRollout", description="What follows.")


class DriftTrigger(Model):
    """When DataStable is False. It trains only where there are new data, or performance has fallen, too."""

    action: TriggerAction = Field("Notify", description="What follows.")


class NewDataTrigger(Model):
    """When template.spec.data.uri holds other data than the last run learned from."""

    action: TriggerAction = Field("TrainAndRollout", description="What follows.")
    poll_seconds: int = Field(300, ge=60, le=86400, description="How often a helper Job looks.")


class ScheduleTrigger(Model):
    """By the clock. Times that were missed run once."""

    cron: Annotated[
        str,
        Field(
            max_length=100,
            json_schema_extra=rules(
                (
                    r"self.matches('^[^ ]+( [^ ]+){4}$')",
                    "cron needs five fields: minute hour day month weekday; the time zone goes to timeZone",
                )
            ),
        ),
    ] = Field(description="Minute, hour, day of the month, month, day of the week.")
    time_zone: str = Field(
        "Etc/UTC", max_length=64, pattern="^[A-Za-z0-9_+/-]+$", description="Of the time zone database."
    )
    action: TriggerAction = Field("TrainAndRollout", description="What follows.")


class Triggers(Model):
    """What starts a run. Absent: only a person, or a model that is not there yet."""

    performance: PerformanceTrigger | None = Field(None, description="When PerformanceStable is False.")
    drift: DriftTrigger | None = Field(None, description="When DataStable is False.")
    new_data: NewDataTrigger | None = Field(None, description="When there are new data.")
    schedule: ScheduleTrigger | None = Field(None, description="By the clock.")


class Limits(Model):
    """Brakes on triggers; a person's `retrain` passes them."""

    cooldown_seconds: int = Field(
        21600,
        ge=600,
        le=2_592_000,
        description="Between two starts; twice as long after each run that came to nothing, 7 days at most.",
    )
    max_runs_per_day: int = Field(4, ge=1, le=48, description="Runs in any 24 hours.")
    max_consecutive_failures: int = Field(
        3, ge=1, le=20, description="Runs in a row that came to nothing; then it waits for new data, or a person."
    )


class Gate(Model):
    """What a challenger must reach against the champion before it sees any traffic."""

    comparison: Literal["NonInferior", "Superior"] = Field(
        "NonInferior", description="No worse than maxLoss allows, or better beyond chance."
    )
    max_loss_per_mille: int = Field(10, ge=0, le=500, description="Loss on all rows that is tolerated.")
    max_slice_loss_per_mille: int = Field(
        30, ge=0, le=500, description="Loss on any of template.spec.evaluation.slices that is tolerated."
    )
    max_latency_percent: int = Field(120, ge=50, le=1000, description="p95, against the champion's.")
    data: Rows | None = Field(
        None, description="Recent labelled rows. Absent: those of template.spec.data that are held out."
    )


def _no_rollout(trigger: str, default: str) -> str:
    action = f"has(self.retraining.triggers.{trigger}.action) ? self.retraining.triggers.{trigger}.action : '{default}'"
    return f"(!has(self.retraining.triggers.{trigger}) || ({action}) != 'TrainAndRollout')"


class Retraining(Model):
    """How the model is trained again. A change makes no revision."""

    model_config = validated(
        (
            "!has(self.triggers) || !has(self.template.spec.data.digest)",
            "data pinned by digest never changes, so triggers would train the same model again: remove"
            " template.spec.data.digest or triggers",
        ),
    )

    template: RunTemplate = Field(description="What to run.")
    triggers: Triggers | None = Field(None, description="When. Absent: when a person says retrain.")
    limits: Limits = Field(default_factory=Limits, description="How often.", json_schema_extra={"default": {}})
    gate: Gate = Field(
        default_factory=Gate, description="What a challenger must reach.", json_schema_extra={"default": {}}
    )


def _needs_watch(trigger: str) -> tuple[str, str]:
    watched = f"has(self.monitoring) && has(self.monitoring.{trigger})"
    has = f"has(self.retraining) && has(self.retraining.triggers) && has(self.retraining.triggers.{trigger})"
    return f"!({has}) || {watched}", f"triggers.{trigger} needs monitoring.{trigger}"


SPEC_RULES = (
    (
        "has(self.model) || has(self.retraining)",
        "give model (uri or trainingJobRef) to serve one, or retraining.template to train the first one",
    ),
    (
        "!has(self.model) || !has(self.model.digest) || !has(self.retraining) || !has(self.retraining.triggers)"
        f" || {_no_rollout('performance', 'TrainAndRollout')} && {_no_rollout('drift', 'Notify')}"
        f" && {_no_rollout('newData', 'TrainAndRollout')} && {_no_rollout('schedule', 'TrainAndRollout')}",
        "model.digest pins the model, so a retrained one could never take its place: remove digest, or use action"
        " Train or Notify",
    ),
    _needs_watch("drift"),
    _needs_watch("performance"),
)
"""Of a ModelDeployment's spec."""


class GateRow(Model):
    """One comparison of challenger and champion."""

    name: ShortText = Field(description="What was compared.")
    champion: Annotated[str, Field(max_length=32)] | None = Field(None, description="The champion's.")
    challenger: Annotated[str, Field(max_length=32)] | None = Field(None, description="The challenger's.")
    limit: Annotated[str, Field(max_length=32)] | None = Field(None, description="What it had to reach.")
    result: Literal["Passed", "Failed", "Skipped"] = Field(description="How it ended.")


class RetrainingStatus(Model):
    """How retraining stands."""

    training_job_name: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="The run that is on its way, to its end or to the traffic."
    )
    last_training_job_name: Annotated[str, Field(max_length=63)] | None = Field(None, description="The last run.")
    last_trigger: ShortText | None = Field(None, description="Why it was started.")
    last_data_version: Digest | None = Field(None, description="Version of the data that the last poll saw.")
    learned_data_version: Digest | None = Field(
        None, description="Version of the data that is not new: the last run's, or the first that a poll saw."
    )
    last_poll_time: Time | None = Field(None, description="When the last poll ended.")
    data_problem: Text | None = Field(None, description="Why the last poll came to nothing.")
    last_schedule_time: Time | None = Field(None, description="Times of the schedule up to this one are dealt with.")
    runs_in_last_day: Count = Field(description="Runs that were started in the last 24 hours.")
    consecutive_failures: Count = Field(description="Runs in a row that came to nothing.")
    next_allowed_time: Time | None = Field(None, description="No trigger starts a run before.")
    next_schedule_time: Time | None = Field(None, description="The next time of the schedule.")
    gate: Annotated[tuple[GateRow, ...], atomic_list(16)] | None = Field(
        None, description="How the last challenger compared."
    )
