"""DataStable, PerformanceStable, and what status tells beside them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.plan import worlds
from tests.unit.plan.world import World

from holdfast.api.modeldeployment import ModelDeploymentReason, ModelDeploymentStatus
from holdfast.plan import drift, monitoring
from holdfast.plan.drift import DAY, Findings, Labels, NoSignal, Signal, Wish
from holdfast.stats.drift import Counts, Reference, Series

BOTH = {"drift": {"toleratedPSIPerMille": 100}, "performance": {"maxDropPerMille": 20}}
EVEN = {str(place): 0.1 for place in range(10)} | {"missing": 0.0}
FAR = {str(place): 0.02 * (place + 0.5) for place in range(10)} | {"missing": 0.0}
BROKEN = {str(place): 0.06 for place in range(10)} | {"missing": 0.4}
LABELS_EVEN, LABELS_FAR = {"0": 0.5, "1": 0.5}, {"0": 0.1, "1": 0.9}
SURE, UNSURE = {"10": 0.1, "19": 0.9}, {"10": 0.7, "19": 0.3}
ACCURACY = {"10": 0.6, "19": 0.98}
NO_LABELS = Labels(0, 0)


ERRORS, LARGER = {"0": 0.5, "1": 0.4, "2": 0.1}, {"0": 0.3, "1": 0.4, "2": 0.3}
MEAN_ERRORS = {"0": 5.0, "1": 10.0, "2": 35.0}


def series(shares: Counts, *windows: Counts, rows: float = 2000, reference: float = 5000) -> Series:
    counts = tuple({name: share * rows for name, share in window.items()} for window in windows)
    return Series(Reference(shares, reference), counts)


def signal(
    revision: str = "",
    alcohol: tuple[Counts, ...] = (EVEN,) * 3,
    said: tuple[Counts, ...] = (LABELS_EVEN,) * 3,
    confidence: tuple[Counts, ...] = (SURE,) * 3,
    labels: Labels = NO_LABELS,
    watched: tuple[float, ...] = (1.0, 1.0, 1.0),
    **given: Any,
) -> Signal:
    """Two features, of which `ash` never moves."""
    return Signal(
        revision=revision,
        window_seconds=DAY,
        profile="complete",
        features={"alcohol": series(EVEN, *alcohol, **given), "ash": series(EVEN, EVEN, EVEN, EVEN, **given)},
        prediction=series(LABELS_EVEN, *said, **given),
        confidence=series(SURE, *confidence, **given),
        accuracy=ACCURACY,
        labels=(labels,) * 3,
        watched=watched,
    )


def regression(errors: Counts = ERRORS, labels: float = 400) -> Signal:
    """It predicts a number, of which so many true ones come back in each window."""
    return replace(
        signal(),
        confidence=None,
        accuracy={},
        errors=series(ERRORS, errors, errors, errors, rows=labels),
        mean_errors=MEAN_ERRORS,
    )


def world(spec: dict[str, Any] | None = None) -> World:
    """It has served for two days."""
    found = worlds.serving()
    found.spec["monitoring"] = spec or BOTH
    found.now += timedelta(days=2)
    return found


def look(at: World, found: Signal) -> None:
    """A pass after an answer of Prometheus."""
    wish = drift.wish(at.spec)
    assert wish
    at.monitoring = drift.found(wish, replace(found, revision=at.status["stableRevision"]))
    at.converge()


def data(at: World) -> tuple[str, str]:
    return at.says("DataStable")


def quality(at: World) -> tuple[str, str]:
    return at.says("PerformanceStable")


def message(at: World, type_: str = "DataStable") -> str:
    return str(next(c["message"] for c in at.status["conditions"] if c["type"] == type_))


def test_a_spec_says_what_is_to_be_watched() -> None:
    assert drift.wish({}) is None
    assert drift.wish({"monitoring": {}}) is None
    found = drift.wish({"monitoring": {"drift": {"features": ["ash"], "toleratedPSIPerMille": 250}}})
    assert found == Wish(drift.DriftWish(frozenset({"ash"}), 0.25), None)
    assert drift.wish({"monitoring": {"performance": {"maxDropPerMille": 5}}}) == Wish(None, 0.005)


def test_without_monitoring_nothing_is_said() -> None:
    at = worlds.serving()
    types = {condition["type"] for condition in at.status["conditions"]}
    assert not types & {"DataStable", "PerformanceStable"}
    assert not {"drift", "performance"} & at.status.keys()


def test_rows_as_the_held_out_ones_are_stable_and_status_shows_how_much_they_are() -> None:
    at = world()
    look(at, signal())
    assert data(at) == ("True", "NoDrift")
    assert quality(at) == ("True", "WithinTolerance")
    assert at.status["drift"]["rows"] == 2000
    assert at.status["drift"]["windowSeconds"] == DAY
    assert {each["name"] for each in at.status["drift"]["features"]} == {"alcohol", "ash"}
    assert at.status["drift"]["prediction"]["psiPerMille"] == 0
    assert at.status["drift"]["prediction"]["limitPerMille"] > 100
    assert at.status["performance"] == {
        "metric": "Accuracy", "baselinePerMille": 942, "estimatedPerMille": 942, "rows": 2000,
    }  # fmt: skip
    ModelDeploymentStatus.parse(at.status)


def test_a_drift_is_told_once_with_its_numbers() -> None:
    at = world()
    look(at, signal())
    look(at, signal(alcohol=(FAR, FAR, EVEN)))
    assert data(at) == ("False", "FeatureDrift")
    assert message(at).startswith("alcohol PSI 0.")
    assert "2 of 3 windows (2,000 rows in 1 d); 1 of 2 features" in message(at)
    worst = at.status["drift"]["features"][0]
    assert worst["name"] == "alcohol"
    assert worst["psiPerMille"] > worst["limitPerMille"]
    decision = at.status["decisions"][0]
    assert (decision["action"], decision["reason"]) == ("Notified", "FeatureDrift")
    assert decision["fromRevision"] == at.status["stableRevision"]
    assert decision["evidence"].startswith("PSI alcohol 0.")
    told = [event for event in at.events if event.reason == "FeatureDrift"]
    assert [event.type for event in told] == ["Warning"]
    look(at, signal(alcohol=(FAR, FAR, FAR)))
    assert [event for event in at.events if event.reason == "FeatureDrift"] == told
    look(at, signal())
    assert data(at) == ("True", "NoDrift")
    ModelDeploymentStatus.parse(at.status)


def test_one_window_alone_is_no_drift() -> None:
    at = world()
    look(at, signal(alcohol=(FAR, EVEN, EVEN)))
    assert data(at) == ("True", "NoDrift")


def test_features_that_nobody_asks_for_do_not_count() -> None:
    at = world({"drift": {"features": ["ash", "colour"], "toleratedPSIPerMille": 100}})
    look(at, signal(alcohol=(FAR, FAR, FAR)))
    assert data(at) == ("True", "NoDrift")
    assert "not in the profile: colour" in message(at)
    assert [each["name"] for each in at.status["drift"]["features"]] == ["ash"]


def test_what_is_tolerated_is_no_drift() -> None:
    at = world({"drift": {"toleratedPSIPerMille": 1000}})
    look(at, signal(alcohol=(FAR, FAR, FAR)))
    assert data(at) == ("True", "NoDrift")


def test_predictions_drift_by_themselves() -> None:
    at = world()
    look(at, signal(said=(LABELS_FAR, LABELS_FAR, LABELS_EVEN)))
    assert data(at) == ("False", "PredictionDrift")
    assert message(at).startswith("prediction PSI")


def test_lost_values_are_a_fault_at_once_and_named() -> None:
    at = world()
    look(at, signal(alcohol=(BROKEN, EVEN, EVEN)))
    assert data(at) == ("False", "UpstreamFault")
    assert message(at) == "alcohol has lost values (2,000 rows in 1 d); 1 of 2 features"
    assert at.status["decisions"][0]["reason"] == "UpstreamFault"


def test_a_fault_counts_before_drift_elsewhere() -> None:
    at = world()
    look(at, signal(alcohol=(BROKEN,) * 3, said=(LABELS_FAR,) * 3))
    assert data(at) == ("False", "UpstreamFault")


def test_few_rows_are_said() -> None:
    at = world()
    look(at, signal(alcohol=(FAR,) * 3, rows=300))
    assert data(at) == ("Unknown", "InsufficientData")
    assert message(at) == "300 rows in 1 d; 500 would tell"
    assert quality(at) == ("Unknown", "InsufficientData")


def test_windows_that_prometheus_has_not_seen_are_no_evidence() -> None:
    """Of half a day the cycle is missing, and with an outage between them two windows would have moved."""
    at = world()
    look(at, signal(alcohol=(FAR, FAR, EVEN), confidence=(UNSURE, UNSURE, SURE), watched=(0.6, 0.7, 1.0)))
    assert data(at) == quality(at) == ("Unknown", "InsufficientData")
    for type_ in ("DataStable", "PerformanceStable"):
        assert message(at, type_) == "Prometheus could not see the pods for more than a tenth of the last 1 d"
    assert at.status["drift"]["rows"] == 2000
    look(at, signal(alcohol=(EVEN, FAR, FAR), confidence=(SURE, UNSURE, UNSURE), watched=(1.0, 0.6, 0.7)))
    assert (data(at)[1], quality(at)[1]) == ("NoDrift", "WithinTolerance")


def test_a_small_reference_shows_and_never_acts() -> None:
    at = world()
    look(at, signal(alcohol=(FAR,) * 3, confidence=(UNSURE,) * 3, reference=36))
    assert data(at) == quality(at) == ("Unknown", "InsufficientReference")
    assert at.status["drift"]["features"][0]["name"] == "alcohol"
    assert "decisions" not in at.status


def test_a_model_without_a_profile_says_so() -> None:
    at = world()
    bare = replace(signal(), profile="none", features={}, prediction=None, confidence=None, accuracy={})
    look(at, bare)
    assert data(at) == quality(at) == ("Unknown", "NoProfile")
    assert "drift" not in at.status


def test_a_model_without_confidence_is_not_calibrated() -> None:
    at = world()
    look(at, replace(signal(), confidence=None, accuracy={}))
    assert data(at) == ("True", "NoDrift")
    assert quality(at) == ("Unknown", "NotCalibrated")


def test_errors_of_numbers_are_measured_by_labels() -> None:
    at = world({"performance": {"maxDropPerMille": 100}})
    look(at, regression())
    assert quality(at) == ("True", "WithinTolerance")
    assert at.status["performance"] == {
        "metric": "MAE", "baseline": "10", "measured": "10", "labels": 400, "rows": 2000,
    }  # fmt: skip
    look(at, regression(LARGER))
    assert quality(at) == ("False", "MeasuredDrop")
    assert message(at, "PerformanceStable") == "MAE 16 measured, 10 held-out, tolerated 10.0% more (400 labels)"
    decision = at.status["decisions"][0]
    assert (decision["action"], decision["reason"]) == ("Notified", "MeasuredDrop")
    assert decision["evidence"].startswith("growth 0.600, standard error 0.0")
    assert decision["evidence"].endswith("n=400 labels")
    ModelDeploymentStatus.parse(at.status)
    at.spec["monitoring"] = {"performance": {"maxDropPerMille": 500}}
    look(at, regression())
    assert quality(at) == ("True", "WithinTolerance")
    look(at, regression(LARGER))
    assert quality(at) == ("True", "WithinTolerance")  # not certainly half as much again


def test_without_labels_nothing_is_said_of_a_regression() -> None:
    at = world({"performance": {"maxDropPerMille": 100}})
    for labels in (0.0, 33.0):
        look(at, regression(LARGER, labels))
        assert quality(at) == ("Unknown", "InsufficientData")
        assert message(at, "PerformanceStable").startswith(f"{3 * labels:.0f} labels in 3 d, and 100 of rows that")
    assert at.status["performance"] == {"metric": "MAE", "labels": 99, "rows": 2000}
    look(at, regression(LARGER, 34.0))
    assert quality(at) == ("False", "MeasuredDrop")
    assert at.status["performance"]["labels"] == 102
    ModelDeploymentStatus.parse(at.status)


def test_labels_of_rows_that_come_together_tell_less_of_a_regression() -> None:
    at = world({"performance": {"maxDropPerMille": 100}})
    found = regression(LARGER, 400)
    assert found.errors
    assert found.prediction
    look(at, replace(found, errors=replace(found.errors, effect=13.0)))
    assert quality(at) == ("Unknown", "InsufficientData")
    look(at, replace(found, prediction=replace(found.prediction, effect=13.0)))
    assert quality(at) == ("Unknown", "InsufficientData")
    look(at, replace(found, errors=replace(found.errors, effect=11.0)))
    assert quality(at) == ("False", "MeasuredDrop")


def test_a_drop_is_estimated_from_confidence() -> None:
    at = world({"performance": {"maxDropPerMille": 20}})
    look(at, signal(confidence=(UNSURE, UNSURE, SURE)))
    assert quality(at) == ("False", "EstimatedDrop")
    assert message(at, "PerformanceStable") == (
        "Accuracy 0.714 estimated, 0.942 held-out, tolerated 0.020 (2,000 rows)"
    )
    assert at.status["performance"]["estimatedPerMille"] == 714
    assert at.status["decisions"][0]["reason"] == "EstimatedDrop"
    look(at, signal())
    assert quality(at) == ("True", "WithinTolerance")


def telling(found: Signal, **excess: Counts) -> Signal:
    """Features say where predictions of the same confidence are right more or less often."""
    features = {name: replace(each, excess=excess.get(name, {})) for name, each in found.features.items()}
    return replace(found, features=features)


LESS_OFTEN = {str(place): 0.1 if place < 5 else -0.1 for place in range(10)}


def test_the_feature_that_has_moved_most_corrects_the_estimate() -> None:
    at = world({"performance": {"maxDropPerMille": 20}})
    look(at, signal(alcohol=(FAR, FAR, EVEN)))
    assert quality(at) == ("True", "WithinTolerance")
    look(at, telling(signal(alcohol=(FAR, FAR, EVEN)), alcohol=LESS_OFTEN))
    assert quality(at) == ("False", "EstimatedDrop")
    assert at.status["performance"]["estimatedPerMille"] == 892
    assert at.status["performance"]["baselinePerMille"] == 942
    look(at, telling(signal(alcohol=(FAR, FAR, EVEN)), ash=LESS_OFTEN))
    assert at.status["performance"]["estimatedPerMille"] == 942


def test_a_feature_that_has_not_moved_beyond_chance_corrects_nothing() -> None:
    at = world({"performance": {"maxDropPerMille": 20}})
    little = {name: share * (1.1 if name in "56789" else 0.9) for name, share in EVEN.items()}
    look(at, telling(signal(alcohol=(little,) * 3), alcohol=LESS_OFTEN))
    assert at.status["performance"]["estimatedPerMille"] == 942
    look(at, telling(signal(alcohol=(BROKEN, FAR, FAR)), alcohol=LESS_OFTEN))
    assert "estimatedPerMille" not in at.status["performance"]


def test_one_window_of_a_drop_is_none() -> None:
    at = world()
    look(at, signal(confidence=(UNSURE, SURE, SURE)))
    assert quality(at) == ("True", "WithinTolerance")


def test_windows_of_a_broken_producer_tell_nothing_about_the_model() -> None:
    at = world({"performance": {"maxDropPerMille": 20}})
    look(at, signal(alcohol=(BROKEN, BROKEN, EVEN), confidence=(UNSURE, UNSURE, SURE)))
    assert quality(at) == ("Unknown", "UpstreamFault")
    assert message(at, "PerformanceStable").startswith("alcohol has lost values: ")
    judged = monitoring.judged(at.observe())
    assert judged
    assert judged.broken
    look(at, signal(alcohol=(EVEN, BROKEN, BROKEN), confidence=(SURE, UNSURE, UNSURE)))
    assert quality(at) == ("True", "WithinTolerance")
    look(at, signal(alcohol=(BROKEN, EVEN, EVEN), labels=Labels(600, 400)))
    assert quality(at) == ("False", "MeasuredDrop")


def test_labels_see_what_confidence_cannot() -> None:
    at = world()
    look(at, signal(labels=Labels(600, 400)))
    assert quality(at) == ("False", "MeasuredDrop")
    assert at.status["performance"]["measuredPerMille"] == 600
    assert at.status["performance"]["labels"] == 1000
    assert "Accuracy 0.600 measured" in message(at, "PerformanceStable")


def test_labels_that_are_right_beat_an_estimate_that_is_not() -> None:
    at = world()
    look(at, signal(confidence=(UNSURE,) * 3, labels=Labels(945, 55)))
    assert quality(at) == ("True", "WithinTolerance")
    look(at, signal(confidence=(UNSURE,) * 3, labels=Labels(3, 1)))
    assert quality(at) == ("False", "EstimatedDrop")


def test_a_loss_that_one_window_of_labels_is_not_certain_of_is_seen_in_all_of_them() -> None:
    at = world()
    look(at, signal(labels=Labels(628, 72)))
    assert quality(at) == ("False", "MeasuredDrop")
    assert at.status["performance"]["labels"] == 2100
    look(at, signal(labels=Labels(665, 35)))
    assert quality(at) == ("True", "WithinTolerance")
    assert at.status["performance"]["labels"] == 700


def test_few_labels_of_each_window_count_together() -> None:
    at = world()
    look(at, signal(labels=Labels(20, 20)))
    assert at.status["performance"]["labels"] == 120
    assert quality(at) == ("False", "MeasuredDrop")


@pytest.mark.parametrize(
    "answer", [drift.NOT_CONFIGURED, drift.SCALED_TO_ZERO, NoSignal("MetricsUnavailable", "Prometheus is away")]
)
def test_without_an_answer_nothing_is_claimed_and_the_last_numbers_stand(answer: NoSignal) -> None:
    at = world()
    look(at, signal(alcohol=(FAR,) * 3))
    before = at.status
    at.monitoring = answer
    at.converge()
    assert data(at) == quality(at) == ("Unknown", answer.reason)
    assert (at.status["drift"], at.status["decisions"]) == (before["drift"], before["decisions"])


def test_a_new_process_leaves_the_last_word_until_it_has_asked() -> None:
    at = world()
    look(at, signal(alcohol=(FAR,) * 3))
    before = at.status
    at.monitoring = None
    at.converge()
    assert at.status == before


def test_before_anything_serves_nothing_is_known() -> None:
    at = worlds.model_deployment()
    at.spec["monitoring"] = BOTH
    at.monitoring = None
    at.converge()
    assert data(at) == quality(at) == ("Unknown", "InsufficientData")


def promoted(source: str, ago: timedelta, replaced: str = "0123456789") -> World:
    """One whose stable revision took over from another one so long ago."""
    at = world()
    record = at.children["ControllerRevision", f"wine-{at.status['stableRevision']}"]
    record["spec"]["data"]["model"]["source"] = source
    for annotation in ("promoted-at", "verdict-time"):
        moment = (at.now - ago).strftime("%Y-%m-%dT%H:%M:%SZ")
        record["metadata"]["annotations"][f"holdfast.dev/{annotation}"] = moment
    record["metadata"]["annotations"]["holdfast.dev/replaced"] = replaced
    return at


def test_what_has_just_taken_over_has_to_settle() -> None:
    at = promoted("URI", timedelta(hours=6))
    look(at, signal(alcohol=(FAR,) * 3, confidence=(UNSURE,) * 3))
    assert data(at) == quality(at) == ("Unknown", "Settling")
    at.now += timedelta(hours=18)
    look(at, signal(alcohol=(FAR,) * 3, confidence=(UNSURE,) * 3))
    assert (data(at)[1], quality(at)[1]) == ("FeatureDrift", "EstimatedDrop")


def test_the_first_revision_has_nothing_to_settle_from() -> None:
    at = promoted("URI", timedelta(hours=6), replaced="")
    look(at, signal(alcohol=(FAR,) * 3))
    assert data(at) == ("False", "FeatureDrift")


def test_findings_about_another_revision_are_none() -> None:
    at = world()
    look(at, signal(alcohol=(FAR,) * 3))
    assert isinstance(at.monitoring, Findings)
    at.monitoring = replace(at.monitoring, revision="0123456789")
    at.converge()
    assert data(at) == ("Unknown", "Settling")


def test_a_retrained_model_that_drifts_at_once_is_not_to_be_trained_again() -> None:
    at = promoted("Retraining", timedelta(days=2))
    look(at, signal(alcohol=(FAR, FAR, EVEN)))
    assert data(at) == ("False", "DriftPersistent")
    at.now += timedelta(days=30)
    look(at, signal(alcohol=(FAR, FAR, FAR)))
    assert data(at) == ("False", "DriftPersistent")
    look(at, signal())
    assert data(at) == ("True", "NoDrift")
    look(at, signal(alcohol=(FAR, FAR, FAR)))
    assert data(at) == ("False", "FeatureDrift")


def test_another_model_that_drifts_at_once_has_drifted() -> None:
    at = promoted("URI", timedelta(days=2))
    look(at, signal(alcohol=(FAR, FAR, EVEN)))
    assert data(at) == ("False", "FeatureDrift")


def test_every_reason_is_one_of_the_api() -> None:
    said = {"NoDrift", "WithinTolerance", "MetricsUnavailable", "PrometheusNotConfigured", *monitoring.DRIFTING}
    assert said <= set(ModelDeploymentReason)


def test_a_step_is_a_quarter_of_a_window_and_never_less_than_a_minute() -> None:
    assert [drift.step(seconds) for seconds in (60, 120, 3600, DAY)] == [60, 60, 900, 21_600]
    assert [drift.seasons(seconds) for seconds in (60, DAY, 7 * DAY)] == [(DAY, 7 * DAY), (7 * DAY,), ()]
