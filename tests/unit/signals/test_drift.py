"""Rows by bin, by a real Prometheus with a history."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.bundle.loopback import Origin, serve
from tests.unit.signals.metrics_server import Series, history, prometheus
from tests.unit.signals.test_slo import Script, questions

from holdfast.plan import drift
from holdfast.plan.drift import Labels, Signal
from holdfast.signals.drift import Asked, DriftReader, Seen
from holdfast.signals.prometheus import Fault
from holdfast.signals.slo import Model
from holdfast.stats.drift import Reference

HOUR, DAY = 3600, 86_400
WINDOW = HOUR
WINE = Asked(Model("shop", "wine"), "aaaa")
OTHER = Asked(Model("shop", "wine"), "bbbb")
BARE = Asked(Model("lab", "iris"), "cccc")
MOVED_AT = 2 * HOUR + 900
"""So many seconds before now rows begin to fall into another bin. Windows end at quarters of an hour."""


def name(metric: str, asked: Asked, **labels: str) -> str:
    """Text of a series as a Prometheus has it that scrapes one pod."""
    own = {"namespace": asked.model.namespace, "model": asked.model.name, "revision": asked.revision, "pod": "p-0"}
    return f"{metric}{{{','.join(f'{key}={json.dumps(value)}' for key, value in (own | labels).items())}}}"


def growing(per_second: Callable[[float], float], start: int, step: int = 60) -> Callable[[float], float]:
    """A counter that has grown so much every second, by the seconds before now."""
    sums = [0.0]
    for before in range(start, -step, -step):
        sums.append(sums[-1] + per_second(before) * step)

    def at(before: float) -> float:
        whole, part = divmod(max(0.0, start - before), step)
        place = min(int(whole), len(sums) - 2)
        return sums[place] + (sums[place + 1] - sums[place]) * part / step

    return at


def profiled(
    asked: Asked,
    rows: Mapping[str, Callable[[float], float]],
    start: int,
    rows_held_out: int = 2000,
    feature: str = "alcohol",
) -> Series:
    """All series of a revision: rows by bin of one feature, two labels, and its confidence."""
    shares = {"0": 0.5, "1": 0.5, "missing": 0.0}
    found: dict[str, Callable[[float], float | None]] = {
        name("holdfast_model_info", asked, profile="complete", digest="sha256:1"): lambda _: 1.0,
        name("up", asked): lambda _: 1.0,
    }
    parts: list[tuple[str, dict[str, str], Mapping[str, Callable[[float], float]], dict[str, float]]] = [
        ("feature", {"feature": feature}, rows, shares),
        ("prediction", {}, {"0": lambda _: 0.3, "1": lambda _: 0.7}, {"0": 0.25, "1": 0.75, "other": 0.0}),
        ("confidence", {}, {"9": lambda _: 0.4, "19": lambda _: 0.6}, {"9": 0.5, "19": 0.5, "10": 0.0}),
    ]
    for kind, own, rates, ratios in parts:
        for bin_, ratio in ratios.items():
            rate = rates.get(bin_, lambda _: 0.0)
            counter = growing(rate, start)
            found[name(f"holdfast_model_{kind}_bin_total", asked, **own, bin=bin_)] = counter
            found[name(f"holdfast_model_{kind}_reference_ratio", asked, **own, bin=bin_)] = _always(ratio)
        found[name(f"holdfast_model_{kind}_reference_count", asked, **own)] = _always(rows_held_out)
    for bin_, excess in {"0": -0.05, "1": 0.05}.items():
        found[name("holdfast_model_feature_reference_excess", asked, feature=feature, bin=bin_)] = _always(excess)
    for bin_, accuracy in {"9": 0.6, "19": 0.95}.items():
        found[name("holdfast_model_confidence_reference_accuracy", asked, bin=bin_)] = _always(accuracy)
    return found


def predicting(asked: Asked, errors: Mapping[str, Callable[[float], float]], start: int) -> Series:
    """Of a revision that predicts numbers: errors by bin of those whose true ones have come back."""
    metric = "holdfast_model_absolute_error"
    found: dict[str, Callable[[float], float | None]] = {name(f"{metric}_reference_count", asked): _always(2000)}
    for bin_, (share, mean) in {"0": (0.75, 1.0), "1": (0.25, 5.0), "missing": (0.0, None)}.items():
        found[name(f"{metric}_bin_total", asked, bin=bin_)] = growing(errors.get(bin_, lambda _: 0.0), start)
        found[name(f"{metric}_reference_ratio", asked, bin=bin_)] = _always(share)
        if mean is not None:
            found[name(f"{metric}_reference_mean", asked, bin=bin_)] = _always(mean)
    return found


def _always(value: float) -> Callable[[float], float]:
    return lambda _: value


def moved(before: float) -> float:
    return 1.0 if before > MOVED_AT else 0.0


def still(before: float) -> float:
    return 1.0 - moved(before)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    start = DAY + 4 * HOUR
    series = {
        **profiled(WINE, {"0": moved, "1": still}, start),
        **profiled(OTHER, {"0": lambda _: 5.0}, start),
        **predicting(OTHER, {"0": lambda _: 0.1, "1": lambda _: 0.3}, start),
        name("holdfast_model_info", BARE, profile="none"): _always(1.0),
        name("holdfast_feedback_rows_total", OTHER, counted_revision="aaaa", outcome="correct"): growing(
            lambda _: 0.09, start
        ),
        name("holdfast_feedback_rows_total", OTHER, counted_revision="aaaa", outcome="wrong"): growing(
            lambda _: 0.01, start
        ),
        name("holdfast_feedback_rows_total", OTHER, counted_revision="bbbb", outcome="wrong"): growing(
            lambda _: 1.0, start
        ),
    }
    with prometheus(folder, history(folder, series, start)) as url:
        yield url


async def look(url: str, *wanted: Asked, reader: DriftReader | None = None) -> tuple[Seen, dict[Asked, Signal | None]]:
    reader = reader or DriftReader(WINDOW)
    async with questions(url) as session:
        seen = await reader.seen(session)
        return seen, {asked: signal async for asked, signal in reader.read(session, wanted, seen)}


async def test_rows_are_counted_by_bin_and_window_of_one_revision(real: str) -> None:
    seen, found = await look(real, WINE)
    signal = found[WINE]
    assert signal
    assert seen.end % 900 == 0
    assert (signal.revision, signal.window_seconds, signal.profile) == ("aaaa", WINDOW, "complete")
    alcohol = signal.features["alcohol"]
    assert alcohol.reference == Reference({"0": 0.5, "1": 0.5, "missing": 0.0}, 2000)
    assert alcohol.excess == {"0": -0.05, "1": 0.05}
    assert [sum(window.values()) for window in alcohol.windows] == pytest.approx([HOUR] * 3, rel=0.05)
    assert alcohol.windows[0]["1"] == pytest.approx(HOUR, rel=0.05)
    assert alcohol.windows[2]["0"] > 2000
    assert {name: windows.keys() for name, windows in enumerate(alcohol.windows)} == {
        index: {"0", "1", "missing"} for index in range(3)
    }


async def test_the_same_hour_of_the_day_before_is_asked_for_and_all_since_then(real: str) -> None:
    _, found = await look(real, WINE)
    signal = found[WINE]
    assert signal
    day, week = signal.features["alcohol"].seasons
    assert day.windows[0]["0"] == pytest.approx(HOUR, rel=0.05)
    assert sum(day.whole.values()) == pytest.approx(DAY, rel=0.05)
    assert day.whole["0"] / DAY == pytest.approx(1 - 2.25 / 24, abs=0.03)
    assert week.windows[0] == {}


async def test_predictions_confidence_and_labels_belong_to_the_revision_that_said_so(real: str) -> None:
    _, found = await look(real, WINE)
    signal = found[WINE]
    assert signal
    assert signal.prediction
    assert signal.confidence
    assert signal.prediction.windows[0]["1"] == pytest.approx(0.7 * HOUR, rel=0.05)
    assert signal.confidence.reference.shares == {"9": 0.5, "19": 0.5, "10": 0.0}
    assert signal.accuracy == {"9": 0.6, "19": 0.95}
    labels = signal.labels[0]
    assert (labels.right, labels.wrong) == (pytest.approx(0.09 * HOUR, rel=0.05), pytest.approx(0.01 * HOUR, rel=0.05))


async def test_errors_of_numbers_are_counted_by_bin_beside_what_each_of_them_counts(real: str) -> None:
    _, found = await look(real, WINE, OTHER)
    wine, other = found[WINE], found[OTHER]
    assert wine
    assert other
    assert (wine.errors, wine.mean_errors) == (None, {})
    assert other.errors
    assert other.errors.reference == Reference({"0": 0.75, "1": 0.25, "missing": 0.0}, 2000)
    assert other.errors.windows[2] == pytest.approx({"0": 0.1 * HOUR, "1": 0.3 * HOUR, "missing": 0.0}, rel=0.05)
    assert other.mean_errors == {"0": 1.0, "1": 5.0}
    assert other.accuracy == {"9": 0.6, "19": 0.95}


async def test_rows_that_flow_evenly_count_each_for_itself(real: str) -> None:
    _, found = await look(real, WINE)
    signal = found[WINE]
    assert signal
    assert signal.prediction
    assert signal.prediction.effect == 1.0


async def test_rows_that_come_in_sessions_count_less(tmp_path: Path) -> None:
    """For two minutes all rows fall into one bin, and for the next two into the other: 120 rows count as one."""

    def session(before: float) -> float:
        return float(int(before // 120) % 2)

    series = profiled(WINE, {"0": session, "1": lambda before: 1 - session(before)}, 4 * HOUR)
    with prometheus(tmp_path, history(tmp_path, series, 4 * HOUR)) as url:
        _, found = await look(url, WINE)
    signal = found[WINE]
    assert signal
    assert signal.features["alcohol"].effect > 20
    wish = drift.wish({"monitoring": {"drift": {}}})
    assert wish
    assert not drift.found(wish, signal).features["alcohol"].newest.enough


async def test_a_model_without_a_profile_is_known_by_its_info(real: str) -> None:
    seen, found = await look(real, BARE)
    assert seen.profiles == {WINE: "complete", OTHER: "complete", BARE: "none"}
    signal = found[BARE]
    assert signal
    assert (signal.profile, signal.features, signal.prediction, signal.confidence) == ("none", {}, None, None)


async def test_namespaces_of_others_are_not_asked_about(real: str) -> None:
    seen, _ = await look(real, reader=DriftReader(WINDOW, {"lab", 'x"} or up{a="'}))
    assert seen.profiles.keys() == {BARE}


async def test_many_models_are_asked_about_in_batches_and_each_gets_its_own(tmp_path: Path) -> None:
    wanted = [Asked(Model("shop", f"m-{index}"), "aaaa") for index in range(11)]
    series: dict[str, Callable[[float], float | None]] = {}
    for index, asked in enumerate(wanted):
        rate = float(index)
        series |= profiled(asked, {"0": _always(rate)}, 2 * HOUR, feature=f'odd "{index}"\\ (.*)|')
    with prometheus(tmp_path, history(tmp_path, series, 2 * HOUR)) as url:
        _, found = await look(url, *wanted)
    for index, asked in enumerate(wanted):
        signal = found[asked]
        assert signal
        rows = signal.features[f'odd "{index}"\\ (.*)|'].windows[0]["0"]
        assert rows == pytest.approx(index * HOUR, rel=0.05)


async def test_pods_that_have_gone_are_not_seen(tmp_path: Path) -> None:
    series = {text: _until(240, value) for text, value in profiled(WINE, {"0": moved}, 2 * HOUR).items()}
    with prometheus(tmp_path, history(tmp_path, series, 2 * HOUR)) as url:
        seen, _ = await look(url)
    assert seen.profiles == {}


def _until(ago: float, value: Callable[[float], float | None]) -> Callable[[float], float | None]:
    return lambda before: None if before < ago else value(before)


async def test_a_restart_and_a_second_pod_lose_no_rows(tmp_path: Path) -> None:
    whole = growing(lambda _: 1.0, 4 * HOUR)
    series: dict[str, Callable[[float], float | None]] = {
        **profiled(WINE, {}, 4 * HOUR),
        name("holdfast_model_feature_bin_total", WINE, feature="alcohol", bin="0"): (
            lambda before: whole(before) - (whole(5000) if before < 5000 else 0)
        ),
        name("holdfast_model_feature_bin_total", WINE, feature="alcohol", bin="0").replace("p-0", "p-1"): whole,
        name("holdfast_model_feature_reference_ratio", WINE, feature="alcohol", bin="0").replace("p-0", "p-1"): _always(
            0.5
        ),
    }
    with prometheus(tmp_path, history(tmp_path, series, 4 * HOUR)) as url:
        _, found = await look(url, WINE)
    signal = found[WINE]
    assert signal
    alcohol = signal.features["alcohol"]
    assert alcohol.reference.shares["0"] == 0.5
    for window in alcohol.windows:
        assert window["0"] == pytest.approx(2 * HOUR, rel=0.05)


async def test_an_outage_of_prometheus_leaves_its_windows_unwatched(tmp_path: Path) -> None:
    series = profiled(WINE, {"0": _always(1.0)}, 4 * HOUR)
    outage = {text: _without(MOVED_AT - HOUR, MOVED_AT, value) for text, value in series.items()}
    with prometheus(tmp_path, history(tmp_path, outage, 4 * HOUR)) as url:
        _, found = await look(url, WINE)
    signal = found[WINE]
    assert signal
    lost = [1 - watched for watched in signal.watched]
    assert sum(lost) == pytest.approx(1.0, abs=0.15)


async def test_pods_that_could_not_be_scraped_leave_their_windows_unwatched_and_no_others(tmp_path: Path) -> None:
    series = {
        **profiled(WINE, {"0": _always(1.0)}, 4 * HOUR),
        **profiled(OTHER, {"0": _always(1.0)}, 4 * HOUR),
        name("up", WINE): lambda before: float(before > HOUR),
    }
    with prometheus(tmp_path, history(tmp_path, series, 4 * HOUR)) as url:
        _, found = await look(url, WINE, OTHER)
    wine, other = found[WINE], found[OTHER]
    assert wine
    assert other
    assert wine.watched[0] < 0.4
    assert wine.watched[2] == 1.0
    assert other.watched == (1.0, 1.0, 1.0)


def _without(end: float, begin: float, value: Callable[[float], float | None]) -> Callable[[float], float | None]:
    return lambda before: None if end < before < begin else value(before)


async def test_short_windows_are_asked_for_without_intervals(tmp_path: Path) -> None:
    series = profiled(WINE, {"0": lambda _: 10.0}, 2 * HOUR)
    with prometheus(tmp_path, history(tmp_path, series, 2 * HOUR, step=15)) as url:
        _, found = await look(url, WINE, reader=DriftReader(300))
    signal = found[WINE]
    assert signal
    assert signal.features["alcohol"].windows[0]["0"] == pytest.approx(3000, rel=0.1)
    assert signal.features["alcohol"].effect == 1.0


# --- One that lies ---

LABELS = {"namespace": "shop", "model": "wine", "revision": "aaaa"}


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serve() as found:
        yield found


def truth() -> dict[str, list[tuple[dict[str, str], str]]]:
    """By a word of the query; the first that fits counts."""
    bins = [({**LABELS, "kind": "prediction", "bin": bin_}, "500") for bin_ in ("0", "1")]
    return {
        "timestamp": [({**LABELS, "profile": "complete"}, "5")],
        "reference_ratio": [(labels, "0.5") for labels, _ in bins],
        "reference_count": [({**LABELS, "kind": "prediction"}, "2000")],
        "reference_accuracy": [],
        "reference_excess": [({**LABELS, "kind": "feature", "feature": "ash", "bin": "0"}, "-0.1")],
        "feedback": [],
        "present_over_time": [({}, "24")],
        "up%7B": [],
        "avg_over_time": [],
        "bin_total": bins,
    }


async def test_the_truth_is_believed(origin: Origin) -> None:
    origin.pages = Script(truth())
    _, found = await look(origin.url(""), WINE)
    signal = found[WINE]
    assert signal
    assert signal.prediction
    assert signal.prediction.windows == ({"0": 500.0, "1": 500.0},) * 3
    assert signal.labels == (Labels(0, 0),) * 3


@pytest.mark.parametrize("text", ["NaN", "+Inf", "-1.01"])
@pytest.mark.parametrize("word", ["bin_total", "reference_ratio", "reference_count", "reference_excess"])
async def test_a_model_of_which_one_number_is_none_has_no_signal(origin: Origin, word: str, text: str) -> None:
    origin.pages = script = Script(truth())
    script.samples[word][-1] = (script.samples[word][-1][0], text)
    _, found = await look(origin.url(""), WINE)
    assert found == {WINE: None}


async def test_samples_about_others_count_for_nothing(origin: Origin) -> None:
    origin.pages = script = Script(truth())
    script.samples["bin_total"].append(({**LABELS, "revision": "zzzz", "kind": "prediction", "bin": "0"}, "NaN"))
    _, found = await look(origin.url(""), WINE)
    assert found[WINE]


@pytest.mark.parametrize("age", ["NaN", "151", "-151"])
async def test_samples_that_are_old_or_of_the_future_are_not_seen(origin: Origin, age: str) -> None:
    origin.pages = Script({**truth(), "timestamp": [({**LABELS, "profile": "complete"}, age)]})
    seen, _ = await look(origin.url(""))
    assert seen.profiles == {}


async def test_the_same_answer_again_is_a_fault(origin: Origin) -> None:
    origin.pages = Script(truth())
    reader = DriftReader(WINDOW)
    await look(origin.url(""), reader=reader)
    with pytest.raises(Fault) as caught:
        await look(origin.url(""), reader=reader)
    assert caught.value.kind == "stale"


async def test_what_a_signal_says_is_what_its_rows_say(real: str) -> None:
    _, found = await look(real, WINE)
    signal = found[WINE]
    assert signal
    wish = drift.wish({"monitoring": {"drift": {}, "performance": {}}})
    assert wish
    findings = drift.found(wish, replace(signal))
    assert findings.features["alcohol"].drifts()
    assert findings.prediction
    assert not findings.prediction.drifts()
    assert findings.measured
    assert findings.measured.value == pytest.approx(0.9, abs=0.01)
