"""Retraining: what starts a run, what keeps it back, what becomes of its model, and what never happens."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.plan import worlds
from tests.unit.plan.test_monitoring import BOTH, BROKEN, EVEN, FAR, UNSURE, look, signal
from tests.unit.plan.world import World

from holdfast.api.modeldeployment import ModelDeploymentStatus
from holdfast.build import labels
from holdfast.plan import modeldeployment
from holdfast.plan.conditions import rfc3339
from holdfast.plan.drift import Labels, NoSignal
from holdfast.plan.observed import Create

TEMPLATE = {
    "data": {"uri": "pvc://lake/wine.csv"},
    "target": "quality",
    "task": "Classification",
    "estimators": [{"name": "RandomForestClassifier"}],
    "output": {"uri": "pvc://models/wine"},
    "seed": 0,
    "backoffLimit": 2,
    "activeDeadlineSeconds": 86400,
}
LIMITS = {"cooldownSeconds": 600, "maxRunsPerDay": 4, "maxConsecutiveFailures": 3}
GATE = {"comparison": "NonInferior", "maxLossPerMille": 10, "maxSliceLossPerMille": 30, "maxLatencyPercent": 120}
NEW_DATA = {"newData": {"action": "TrainAndRollout", "pollSeconds": 300}}
ROWS = [{"name": "Accuracy", "champion": "0.941", "challenger": "0.968", "limit": "0.931", "result": "Passed"}]
PASSED = {"result": "Completed", "passed": True, "message": "Accuracy 0.968 against 0.941", "rows": 400, "gate": ROWS}
FAILED = {**PASSED, "passed": False, "message": "worse", "gate": [{**ROWS[0], "result": "Failed"}]}


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def retraining(template: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """As the API server keeps it."""
    return {"template": {"spec": {**TEMPLATE, **(template or {})}}, "limits": LIMITS, "gate": GATE, **more}


def from_template(**more: Any) -> World:
    spec = {"serving": {"replicas": 1}, "retraining": retraining(**more)}
    return World(modeldeployment.needs, modeldeployment.plan, spec)


def serving(triggers: dict[str, Any] | None = None, **more: Any) -> World:
    """A model from a URI serves, and may be trained again. Its first poll is over."""
    world = worlds.model_deployment(digest=None)
    world.step()
    world.end_job(world.jobs[0], {"digest": worlds.PINNED})
    world.converge()
    rolled_out(world)
    given = {"triggers": triggers} if triggers else {}
    world.change(retraining=retraining(**given, **more))
    world.converge()
    if triggers and "newData" in triggers:
        polled(world, digest("1"))
    return world


WATCHED: dict[str, Any] = {
    "FeatureDrift": {"alcohol": (FAR,) * 3},
    "UpstreamFault": {"alcohol": (BROKEN, EVEN, EVEN)},
    "EstimatedDrop": {"confidence": (UNSURE,) * 3},
    "MeasuredDrop": {"labels": Labels(700, 300)},
}
"""What is counted where that is found."""


def watch(world: World, *found: str) -> None:
    """What Prometheus has counted, so that this is found. The newest promotion was two days ago."""
    world.spec["monitoring"] = BOTH
    world.wait(2 * 86400)
    counted: dict[str, Any] = {}
    for each in found:
        counted |= WATCHED[each]
    look(world, signal(**counted))
    for each in found:
        assert each in {world.says("DataStable")[1], world.says("PerformanceStable")[1]}  # type: ignore[index]


def helper(world: World, purpose: str) -> str | None:
    """The unfinished helper Job for that purpose."""
    for (kind, name), child in world.children.items():
        if kind == "Job" and child["metadata"]["labels"][labels.PURPOSE] == purpose and not child["status"]:
            return name
    return None


def polled(world: World, version: str | None, reason: str = "DataNotFound") -> None:
    """The helper that looks at the data says so."""
    name = helper(world, "poll")
    assert name, "nobody looks at the data"
    said = {"result": "Completed", "version": version} if version else {"reason": reason, "message": "words"}
    world.wait(1)
    world.end_job(name, said, failed=None if version else "PodFailurePolicy", at=rfc3339(world.now))
    world.converge()


def next_poll(world: World, version: str | None) -> None:
    world.wait(301)
    world.converge()
    polled(world, version)


def gated(world: World, said: dict[str, Any] = PASSED) -> None:
    name = helper(world, "gate")
    assert name, "nobody compares"
    world.wait(1)
    world.end_job(name, said)
    world.converge()


def trained(world: World, letter: str, version: str = "", **more: Any) -> str:
    """The run that is on its way ends."""
    world.wait(1)
    (name,) = [name for name, training in world.trainings.items() if not training.status]
    world.end_training(name, digest(letter), version=version, **more)
    world.converge()
    return name


def rolled_out(world: World) -> None:
    world.wait(1)
    world.ready()
    world.converge()
    world.ready()
    world.converge()


def retrained(world: World) -> None:
    """New data, of version 2, lead to a model, c, that takes over."""
    next_poll(world, digest("2"))
    trained(world, "c", digest("2"))
    gated(world)
    rolled_out(world)


def served(world: World) -> str:
    """The digest of the model that serves."""
    return str(world.status["model"]["digest"])


def actions(world: World) -> list[tuple[str, str]]:
    return [(each["action"], each["reason"]) for each in reversed(world.status.get("decisions", ()))]


def says(world: World) -> tuple[str, str] | None:
    ModelDeploymentStatus.parse(world.status)
    return world.says("Retraining")


# --- The first model ------------------------------------------------------------------------------------------------


def test_without_a_model_it_is_trained_first_and_then_served() -> None:
    world = from_template()
    world.converge()
    assert world.says("Ready") == ("Unknown", "Training")
    assert says(world) == ("True", "Training")
    (run,) = world.trainings.values()
    assert run.labels[labels.TRIGGER] == "Initial"
    trained(world, "c")
    rolled_out(world)
    assert world.says("Ready") == ("True", "Serving")
    assert served(world) == digest("c")
    assert (world.status["model"]["source"], world.status["model"]["trainingJobName"]) == ("Retraining", run.name)
    assert len(world.trainings) == 1
    assert says(world) == ("False", "Idle")


def test_a_first_training_that_fails_is_said_and_tried_again_when_a_person_says_so() -> None:
    world = from_template()
    world.converge()
    trained(world, "", failed="DataNotFound", message="no such file")
    assert world.says("Ready") == ("False", "FirstTrainingFailed")
    assert "no such file" in world.message()
    assert world.says("Stalled")
    world.wait(86400 * 3)
    world.converge()
    assert len(world.trainings) == 1
    world.annotations[labels.RETRAIN] = "again"
    world.converge()
    assert len(world.trainings) == 2
    trained(world, "c")
    rolled_out(world)
    assert served(world) == digest("c")
    assert world.status["lastHandledRetrain"] == "again"


def test_new_data_need_not_wait_after_the_first_model() -> None:
    world = from_template(triggers=NEW_DATA)
    world.converge()
    trained(world, "c", digest("1"))
    rolled_out(world)
    polled(world, digest("2"))
    assert [run.labels[labels.TRIGGER] for run in world.trainings.values()] == ["Initial", "NewData"]
    trained(world, "d", digest("2"))
    gated(world)
    rolled_out(world)
    assert served(world) == digest("d")


def test_another_template_trains_anew_unless_it_learns_the_same() -> None:
    world = from_template()
    world.converge()
    trained(world, "c")
    rolled_out(world)
    world.change(retraining=retraining({"resources": {"requests": {"cpu": "2"}}, "backoffLimit": 5}))
    world.converge()
    assert len(world.trainings) == 1
    world.change(retraining=retraining({"seed": 1}))
    world.converge()
    assert [run.labels[labels.TRIGGER] for run in world.trainings.values()] == ["Initial", "TemplateChanged"]
    assert served(world) == digest("c")
    trained(world, "d")
    rolled_out(world)
    assert served(world) == digest("d")


# --- New data -------------------------------------------------------------------------------------------------------


def test_new_data_train_a_challenger_that_passes_its_gate_and_takes_over() -> None:
    world = serving(NEW_DATA)
    assert says(world) == ("False", "Idle")
    assert world.trainings == {}  # the first look records what is there
    next_poll(world, digest("1"))
    assert world.trainings == {}
    next_poll(world, digest("2"))
    (name,) = world.trainings
    assert says(world) == ("True", "Training")
    trained(world, "c", digest("2"))
    assert says(world) == ("True", "Evaluating")
    assert served(world) == worlds.PINNED
    gated(world)
    assert says(world) == ("True", "RollingOut")
    assert world.says("Ready") == ("True", "Serving")  # the spec is fulfilled all the while
    assert world.says("Reconciling") is None
    rolled_out(world)
    assert served(world) == digest("c")
    assert world.status["retraining"]["gate"] == ROWS
    assert says(world) == ("False", "Idle")
    assert actions(world) == [
        ("TrainingStarted", "NewData"), ("GatePassed", "GatePassed"), ("Promoted", "Ready")
    ]  # fmt: skip
    assert world.status["retraining"]["lastTrainingJobName"] == name
    next_poll(world, digest("2"))
    assert len(world.trainings) == 1


def test_a_challenger_that_fails_its_gate_never_sees_traffic() -> None:
    world = serving(NEW_DATA)
    next_poll(world, digest("2"))
    trained(world, "c", digest("2"))
    gated(world, FAILED)
    assert says(world) == ("False", "GateFailed")
    assert ("Aborted", "GateFailed") in actions(world)
    assert world.says("Ready") == ("True", "Serving")
    for _ in range(20):
        world.wait(301)
        world.converge()
        polled(world, digest("2"))
        rolled_out(world)
    assert served(world) == worlds.PINNED
    assert len(world.deployments) == 1
    assert len(world.trainings) == 1


def test_what_could_not_be_compared_has_not_passed() -> None:
    world = serving(NEW_DATA)
    next_poll(world, digest("2"))
    trained(world, "c", digest("2"))
    name = helper(world, "gate")
    assert name
    world.end_job(name, {"reason": "DataNotFound", "message": "no rows"}, failed="PodFailurePolicy")
    world.converge()
    assert says(world) == ("False", "GateFailed")
    assert "no rows" in world.message("Retraining")
    rolled_out(world)
    assert served(world) == worlds.PINNED


@pytest.mark.parametrize("said", [{"result": "Completed"}, {"result": "Completed", "passed": "true"}, {"passed": True}])
def test_a_gate_that_does_not_say_passed_has_not_let_pass(said: dict[str, Any]) -> None:
    world = serving(NEW_DATA)
    next_poll(world, digest("2"))
    trained(world, "c", digest("2"))
    gated(world, said)
    rolled_out(world)
    assert served(world) == worlds.PINNED


def test_a_comparison_whose_report_is_lost_is_made_again() -> None:
    world = serving(NEW_DATA)
    next_poll(world, digest("2"))
    trained(world, "c", digest("2"))
    name = helper(world, "gate")
    assert name
    world.end_job(name, None)
    world.pods.pop(name)
    world.converge()
    gated(world)
    rolled_out(world)
    assert served(world) == digest("c")


def test_a_challenger_that_is_rejected_on_its_way_is_dropped() -> None:
    world = serving(NEW_DATA)
    next_poll(world, digest("2"))
    trained(world, "c", digest("2"))
    gated(world)
    world.annotations[labels.ROLLOUT] = f"abort {world.status['candidateRevision']}"
    world.converge()
    rolled_out(world)
    assert says(world) == ("False", "RolloutRejected")
    assert world.says("Ready") == ("True", "Serving")
    assert served(world) == worlds.PINNED
    world.scale(2)
    rolled_out(world)
    next_poll(world, digest("2"))
    rolled_out(world)
    assert served(world) == worlds.PINNED
    assert len(world.deployments) == 1


def test_action_train_ends_with_the_gate() -> None:
    world = serving({"newData": {"action": "Train", "pollSeconds": 300}})
    retrained(world)
    assert served(world) == worlds.PINNED
    assert "is kept" in world.message("Retraining")
    revision = world.status["revisions"][0]["name"]
    world.annotations[labels.ROLLOUT] = f"rollback {revision}"
    rolled_out(world)
    assert served(world) == digest("c")


def test_action_notify_tells_once_and_starts_nothing() -> None:
    world = serving({"newData": {"action": "Notify", "pollSeconds": 300}})
    for _ in range(3):
        next_poll(world, digest("2"))
    assert world.trainings == {}
    assert actions(world) == [("Notified", "NewData")]


def test_data_that_cannot_be_looked_at_are_said_and_nothing_is_started() -> None:
    world = serving(NEW_DATA)
    next_poll(world, None)
    assert "DataNotFound" in world.status["retraining"]["dataProblem"]
    assert world.trainings == {}
    next_poll(world, digest("2"))
    assert "dataProblem" not in world.status["retraining"]
    assert len(world.trainings) == 1


def test_an_event_about_the_data_hastens_the_look() -> None:
    world = serving(NEW_DATA)
    world.wait(20)
    world.converge()
    assert helper(world, "poll") is None
    world.data_event = world.now
    world.converge()
    polled(world, digest("2"))
    assert len(world.trainings) == 1


# --- Performance, drift, schedule -----------------------------------------------------------------------------------


def test_a_loss_of_performance_trains_on_new_data() -> None:
    world = serving({"performance": {"action": "TrainAndRollout"}})
    watch(world, "MeasuredDrop")
    world.converge()
    assert says(world) == ("True", "CheckingData")
    polled(world, digest("2"))
    (run,) = world.trainings.values()
    assert run.labels[labels.TRIGGER] == "Performance"


def test_unchanged_data_are_not_trained_on_again() -> None:
    world = serving({"performance": {"action": "TrainAndRollout"}})
    watch(world, "MeasuredDrop")
    world.converge()
    polled(world, digest("2"))
    trained(world, "c", digest("2"))
    gated(world)
    rolled_out(world)
    watch(world, "MeasuredDrop")
    for _ in range(10):
        world.wait(3601)
        world.converge()
        polled(world, digest("2"))
        assert says(world) == ("False", "NoNewData")
    assert len(world.trainings) == 1
    assert actions(world).count(("TrainingSkipped", "NoNewData")) == 1


def test_drift_alone_starts_nothing_unless_asked() -> None:
    world = serving({"drift": {"action": "Notify"}})
    watch(world, "FeatureDrift")
    for _ in range(5):
        world.wait(3601)
        world.converge()
    assert world.trainings == {}
    assert helper(world, "poll") is None
    world.change(retraining=retraining(triggers={"drift": {"action": "TrainAndRollout"}}))
    world.converge()
    polled(world, digest("2"))
    assert len(world.trainings) == 1


def test_data_that_an_upstream_fault_has_spoilt_are_not_learned_from() -> None:
    world = serving({"performance": {"action": "TrainAndRollout"}, "drift": {"action": "Train"}})
    watch(world, "UpstreamFault", "EstimatedDrop")
    for _ in range(3):
        world.wait(3601)
        world.converge()
        if name := helper(world, "poll"):
            world.end_job(name, {"result": "Completed", "version": digest("2")}, at=rfc3339(world.now))
            world.converge()
    assert says(world) == ("False", "UpstreamFault")
    assert world.trainings == {}


def test_a_broken_producer_is_seen_by_whoever_watches_performance_alone() -> None:
    world = serving({"performance": {"action": "TrainAndRollout"}})
    world.spec["monitoring"] = {"performance": {"maxDropPerMille": 20}}
    world.wait(2 * 86400)
    look(world, signal(alcohol=(BROKEN, EVEN, EVEN), labels=Labels(700, 300)))
    assert world.says("PerformanceStable") == ("False", "MeasuredDrop")
    for _ in range(3):
        world.wait(3601)
        world.converge()
    assert says(world) == ("False", "UpstreamFault")
    assert world.trainings == {}


def test_a_model_that_drifts_soon_after_it_was_trained_is_not_trained_again() -> None:
    world = serving({**NEW_DATA, "drift": {"action": "TrainAndRollout"}})
    retrained(world)
    world.spec["monitoring"] = BOTH
    world.wait(2 * 86400)
    look(world, signal(alcohol=(FAR,) * 3))
    assert world.says("DataStable") == ("False", "DriftPersistent")
    for _ in range(3):
        world.wait(3601)
        world.converge()
        polled(world, digest("2"))
    assert len(world.trainings) == 1
    assert says(world) == ("False", "DriftPersistent")


def test_wrong_answers_that_people_have_seen_are_learned_from_whatever_the_rows_look_like() -> None:
    world = serving({**NEW_DATA, "performance": {"action": "TrainAndRollout"}})
    retrained(world)
    world.spec["monitoring"] = BOTH
    world.wait(2 * 86400)
    look(world, signal(alcohol=(FAR,) * 3, labels=Labels(700, 300)))
    assert world.says("DataStable") == ("False", "DriftPersistent")
    polled(world, digest("3"))
    assert [run.labels[labels.TRIGGER] for run in world.trainings.values()] == ["NewData", "Performance"]


NOTHING_KNOWN = [NoSignal("MetricsUnavailable", "words"), NoSignal("PrometheusNotConfigured", "words")]


@pytest.mark.parametrize("answer", NOTHING_KNOWN)
def test_nothing_is_started_while_nothing_is_known(answer: NoSignal) -> None:
    world = serving({"performance": {"action": "TrainAndRollout"}, "drift": {"action": "TrainAndRollout"}})
    world.spec["monitoring"] = BOTH
    world.monitoring = answer
    for _ in range(5):
        world.wait(3601)
        world.converge()
    assert (world.trainings, helper(world, "poll")) == ({}, None)


def test_nothing_is_started_on_too_few_rows() -> None:
    world = serving({"performance": {"action": "TrainAndRollout"}, "drift": {"action": "TrainAndRollout"}})
    world.spec["monitoring"] = BOTH
    world.wait(2 * 86400)
    look(world, signal(alcohol=(FAR,) * 3, confidence=(UNSURE,) * 3, rows=100))
    for _ in range(5):
        world.wait(3601)
        world.converge()
    assert (world.trainings, helper(world, "poll")) == ({}, None)


def test_a_schedule_runs_once_for_all_times_that_were_missed() -> None:
    world = serving({"schedule": {"cron": "0 3 * * *", "timeZone": "Europe/Berlin", "action": "TrainAndRollout"}})
    assert world.status["retraining"]["nextScheduleTime"] == "2026-11-25T02:00:00Z"
    world.wait(3 * 86400)
    world.converge()
    polled(world, digest("2"))
    assert [run.labels[labels.TRIGGER] for run in world.trainings.values()] == ["Schedule"]
    trained(world, "c", digest("2"))
    gated(world)
    rolled_out(world)
    assert len(world.trainings) == 1
    world.wait(86400)
    world.converge()
    polled(world, digest("2"))
    world.converge()
    assert len(world.trainings) == 1  # the same data
    assert helper(world, "poll") is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cron": "99 * * * *", "timeZone": "Etc/UTC"}, "cannot be read"),
        ({"cron": "0 3 * * *", "timeZone": "Mars/X"}, "time zone"),
    ],
)
def test_a_schedule_that_cannot_be_read_is_said(given: dict[str, Any], words: str) -> None:
    world = serving({"schedule": {**given, "action": "Train"}})
    assert says(world) == ("False", "ScheduleInvalid")
    assert words in world.message("Retraining")


# --- Brakes ---------------------------------------------------------------------------------------------------------


def failing(world: World, version: str) -> None:
    polled(world, digest(version))
    trained(world, "", failed="DataInvalid", message="rows")


def test_runs_that_come_to_nothing_double_the_pause_each_time() -> None:
    world = serving(NEW_DATA)
    world.wait(301)
    for pause in (1200, 2400):
        world.converge()
        failing(world, "2")
        world.wait(pause - 10)
        world.converge()
        polled(world, digest("2"))
        assert says(world) == ("False", "CoolingDown")
        assert world.status["retraining"]["nextAllowedTime"] <= rfc3339(world.now + timedelta(seconds=10))
        world.wait(301)
    assert world.status["retraining"]["consecutiveFailures"] == 2


def test_after_too_many_failures_only_new_data_or_a_person_start_a_run() -> None:
    world = serving(NEW_DATA)
    for _ in range(3):
        world.wait(7 * 86400)
        world.converge()
        failing(world, "2")
    world.wait(8 * 86400)
    world.converge()
    polled(world, digest("2"))
    assert says(world) == ("False", "BreakerOpen")
    assert len(world.trainings) == 3
    world.annotations[labels.RETRAIN] = "now"
    world.converge()
    assert len(world.trainings) == 4
    trained(world, "", failed="DataInvalid", message="rows")
    world.wait(8 * 86400)
    world.converge()
    polled(world, digest("3"))
    assert len(world.trainings) == 5


def test_no_more_runs_a_day_than_the_budget_whatever_triggers() -> None:
    world = serving({**NEW_DATA, "performance": {"action": "TrainAndRollout"}})
    watch(world, "MeasuredDrop")
    starts = []
    for version in range(1, 97):  # two days, looked at every half hour, with new data each time
        world.wait(1800)
        world.converge()
        if name := helper(world, "poll"):
            said = {"result": "Completed", "version": f"sha256:{version:064x}"}
            world.end_job(name, said, at=rfc3339(world.now))
            world.converge()
        for name, run in list(world.trainings.items()):
            if not run.status:
                starts.append(run.created)
                world.end_training(name, f"sha256:{version:064x}", version=f"sha256:{version:064x}")
        world.converge()
        if name := helper(world, "gate"):
            world.end_job(name, PASSED)
        rolled_out(world)
    assert len(starts) == 8
    for first, fifth in zip(starts, starts[4:], strict=False):
        assert fifth - first >= timedelta(days=1)
    assert ("TrainingSkipped", "BudgetSpent") in actions(world)


def test_a_person_passes_every_brake_once() -> None:
    world = serving(NEW_DATA, template=None)
    retrained(world)
    watch(world, "UpstreamFault")
    world.annotations[labels.RETRAIN] = "try"
    world.converge()
    assert len(world.trainings) == 2
    trained(world, "c", digest("2"))
    world.converge()
    assert served(world) == digest("c")
    assert "made the model that serves" in world.message("Retraining")
    world.status = {}
    for _ in range(3):
        world.wait(86400)
        world.converge()
    assert sum(run.labels[labels.TRIGGER] == "Manual" for run in world.trainings.values()) == 1


def test_runs_of_the_whole_installation_are_bounded() -> None:
    world = serving(NEW_DATA)
    world.running_trainings = 8
    next_poll(world, digest("2"))
    assert says(world) == ("True", "Queued")
    assert world.trainings == {}
    world.running_trainings = 7
    world.converge()
    assert len(world.trainings) == 1


# --- Whose word counts ----------------------------------------------------------------------------------------------


def test_another_word_in_the_spec_beats_a_retrained_model() -> None:
    world = serving(NEW_DATA)
    retrained(world)
    assert served(world) == digest("c")
    world.change(model={"uri": "pvc://models/wine/2", "digest": worlds.OTHER})
    rolled_out(world)
    assert served(world) == worlds.OTHER
    world.change(model={"uri": worlds.URI, "digest": worlds.PINNED})
    rolled_out(world)
    assert served(world) == worlds.PINNED  # and not what was trained under that word before


def test_a_run_ends_that_another_word_overtook_and_its_model_is_not_rolled_out() -> None:
    world = serving(NEW_DATA)
    next_poll(world, digest("2"))
    world.change(model={"uri": "pvc://models/wine/2", "digest": worlds.OTHER})
    rolled_out(world)
    trained(world, "c", digest("2"))
    rolled_out(world)
    assert helper(world, "gate") is None
    assert served(world) == worlds.OTHER


def test_resources_are_changed_with_the_model_that_serves() -> None:
    world = serving(NEW_DATA)
    retrained(world)
    world.change(serving={"replicas": 1, "resources": {"requests": {"cpu": "1"}}})
    rolled_out(world)
    assert served(world) == digest("c")
    assert world.status["model"]["source"] == "Retraining"


def test_a_pinned_model_is_not_replaced_even_when_a_person_says_retrain() -> None:
    world = worlds.serving()
    world.change(retraining=retraining())
    world.annotations[labels.RETRAIN] = "now"
    world.converge()
    trained(world, "c")
    gated(world)
    rolled_out(world)
    assert served(world) == worlds.PINNED


def test_retraining_that_is_taken_out_of_the_spec_leaves_the_model_that_serves() -> None:
    world = serving(NEW_DATA)
    retrained(world)
    del world.spec["retraining"]
    world.change()
    rolled_out(world)
    assert served(world) == digest("c")
    assert says(world) is None


def test_while_suspended_nothing_is_started() -> None:
    world = serving(NEW_DATA)
    world.change(suspend=True)
    world.wait(3600)
    world.converge()
    assert helper(world, "poll") is None
    assert says(world) == ("False", "Suspended")


def test_runs_that_are_long_over_go_and_people_keep_theirs() -> None:
    world = serving(NEW_DATA)
    for number in range(14):
        world.wait(8 * 86400)
        world.converge()
        polled(world, f"sha256:{number + 100:064x}")
        trained(world, "", failed="DataInvalid", message="rows")
    world.wait(2 * 86400)
    world.converge()
    assert len(world.trainings) == 10


# --- Crashes --------------------------------------------------------------------------------------------------------


def story(world: World, step: Any) -> None:
    """A whole turn of the loop; `step` looks once."""
    for moment in range(14):
        world.wait(10 if moment % 2 else 291)
        for _ in range(5):
            step(world)
        if name := helper(world, "poll"):
            world.end_job(
                name, {"result": "Completed", "version": digest("2" if moment > 1 else "1")}, at=rfc3339(world.now)
            )
        for name, run in list(world.trainings.items()):
            if not run.status:
                world.end_training(name, digest("c"), version=digest("2"))
        if name := helper(world, "gate"):
            world.end_job(name, PASSED)
        world.ready()
    world.converge()


def test_a_crash_after_any_write_of_a_turn_starts_no_second_run_and_ends_the_same() -> None:
    def quietly(world: World) -> None:
        world.step()

    calm = serving(NEW_DATA)
    fresh = copy.deepcopy(calm)
    story(calm, quietly)
    assert served(calm) == digest("c")
    assert len(calm.trainings) == 1
    for point in range(1, 60, 2):
        world, count = copy.deepcopy(fresh), 0

        def crashing(world: World, point: int = point) -> None:
            nonlocal count
            writes = len(world.plan().writes)
            count += writes + 1
            if count - writes - 1 < point <= count:
                world.step(crash_after=point - (count - writes - 1) - 1)
                world.memory = {}
                return
            world.step()

        story(world, crashing)
        assert served(world) == digest("c"), point
        assert list(world.trainings) == list(calm.trainings), point


def test_a_lost_status_changes_nothing_that_was_decided() -> None:
    world = serving(NEW_DATA)
    retrained(world)
    before = world.status["retraining"]
    world.status = {}
    world.converge()
    next_poll(world, digest("2"))
    assert len(world.trainings) == 1
    assert served(world) == digest("c")
    for name in ("gate", "lastTrainingJobName", "lastTrigger", "runsInLastDay", "learnedDataVersion"):
        assert world.status["retraining"][name] == before[name], name


def test_a_run_from_which_our_words_were_taken_is_not_ours() -> None:
    world = serving(NEW_DATA)
    next_poll(world, digest("2"))
    (name,) = world.trainings
    run = world.trainings[name]
    for left in ({}, {labels.CAUSE: "{"}, {labels.CAUSE: json.dumps({"wish": 3})}):
        world.trainings[name] = replace(run, annotations=left)
        world.converge()


def test_the_cause_of_a_run_is_on_it() -> None:
    world = serving(NEW_DATA)
    next_poll(world, digest("2"))
    (run,) = world.trainings.values()
    cause = json.loads(run.annotations[labels.CAUSE])
    assert cause["wish"] == {"uri": worlds.URI, "digest": worlds.PINNED, "source": "URI"}
    assert cause["stable"] == world.status["stableRevision"]
    assert cause["dataVersion"] == digest("2")


def test_the_alias_of_a_model_that_is_to_replace_another_waits_for_the_gate() -> None:
    tracking = {"uri": "https://mlflow", "registeredModel": "wine", "alias": "champion"}
    world = from_template(template={"tracking": tracking}, triggers=NEW_DATA)
    world.converge()
    trained(world, "c", digest("1"))
    rolled_out(world)
    polled(world, digest("2"))
    first, second = (world.recipes[name]["tracking"] for name in world.trainings)
    assert first == tracking
    assert second == {"uri": "https://mlflow", "registeredModel": "wine"}
    trained(world, "d", digest("2"), tracking={"modelVersion": "7"})
    (container,) = world.children["Job", helper(world, "gate")]["spec"]["template"]["spec"]["containers"]
    told = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert json.loads(str(told["HOLDFAST_GATE"]))["tracking"] == tracking | {"modelVersion": "7"}


def test_runs_hold_out_the_same_rows_unless_the_template_says_otherwise() -> None:
    made = []
    last_rows = {"testPercent": 20, "orderColumn": "day"}
    for split in ({}, {"split": {"testPercent": 30, "method": "Random"}}, {"split": last_rows}):
        world = from_template(template=split)
        manifests = [write.manifest for write in world.plan().writes if isinstance(write, Create)]
        made.append(manifests[0]["spec"]["split"])
    assert made == [{"testPercent": 20, "method": "RowDigest"}, {"testPercent": 30, "method": "Random"}, last_rows]
