"""Counts of failed and slow requests, by a real Prometheus with a history."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.unit.bundle.loopback import Origin, answer, serve
from tests.unit.signals.metrics_server import Series, history, prometheus
from tests.unit.signals.test_prometheus import Always

from holdfast.plan.slo import DAY, Counts, Objectives, Ratio, objectives
from holdfast.signals.prometheus import Address, Fault, Session, session
from holdfast.signals.slo import Model, SloReader

HOUR = 3600
SPEC = {"slo": {"availability": "99.9", "latency": {"thresholdMilliseconds": 50, "objective": "99"}, "windowDays": 7}}
WANTED = objectives(SPEC)
assert WANTED
WINE, IRIS, OLD = Model("shop", "wine"), Model("lab", "iris"), Model("shop", "old")


def requests(model: Model, revision: str, outcome: str) -> str:
    labels = {"namespace": model.namespace, "model": model.name, "revision": revision, "outcome": outcome, "pod": "p-0"}
    return f"holdfast_inference_requests_total{{{','.join(f'{k}={json.dumps(v)}' for k, v in labels.items())}}}"


def bucket(model: Model, revision: str, edge: str) -> str:
    labels = {"namespace": model.namespace, "model": model.name, "revision": revision, "le": edge, "pod": "p-0"}
    series = ",".join(f"{k}={json.dumps(v)}" for k, v in labels.items())
    return f"holdfast_inference_duration_seconds_bucket{{{series}}}"


def steady(per_second: float, start: int = 8 * DAY) -> Any:
    """A counter that grows evenly."""
    return lambda before: per_second * max(0, start - before)


def restarted(per_second: float, at: int) -> Any:
    """A counter that begins again so many seconds ago."""
    return lambda before: per_second * (8 * DAY - before if before > at else at - before)


def two_models() -> Series:
    return {
        requests(WINE, "aaaa", "ok"): steady(10.0),
        requests(WINE, "aaaa", "client_error"): steady(1.0),
        requests(WINE, "aaaa", "failed").replace("}", ',protocol="router"}'): steady(50.0),
        requests(WINE, "aaaa", "abandoned"): steady(100.0),
        requests(WINE, "aaaa", "failed"): steady(0.25),
        requests(WINE, "aaaa", "rejected"): steady(0.5),
        requests(WINE, "aaaa", "timeout"): steady(0.25),
        requests(WINE, "bbbb", "ok"): steady(1.0, start=1800),
        requests(WINE, "bbbb", "failed"): steady(1.0, start=1800),
        bucket(WINE, "aaaa", "0.05"): steady(9.0),
        bucket(WINE, "aaaa", "0.1"): steady(10.0),
        bucket(WINE, "aaaa", "+Inf"): steady(10.0),
        requests(IRIS, "cccc", "ok"): restarted(2.0, 1000),
        bucket(IRIS, "cccc", "1"): steady(1.5),
        bucket(IRIS, "cccc", "+Inf"): steady(2.0),
    }


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    with prometheus(folder, history(folder, two_models(), 8 * DAY, ahead=600)) as url:
        yield url


@asynccontextmanager
async def questions(url: str) -> AsyncIterator[Session]:
    async with session(Address(url)) as found:
        yield found


async def test_failures_are_counted_over_every_window_by_revision(real: str) -> None:
    async with questions(real) as asked:
        signal = (await SloReader().read(asked, {WINE: WANTED}, 0.0))[WINE]
    for seconds in WANTED.windows:
        stable = signal.revisions["aaaa"].availability[seconds]
        assert stable.total == pytest.approx(12.0 * seconds, rel=0.03), seconds
        assert stable.bad / stable.total == pytest.approx(1 / 12, rel=0.01)
    young = signal.revisions["bbbb"].availability
    assert young[300].bad / young[300].total == pytest.approx(0.5)
    assert 2 * 1700 < young[DAY].total < 2 * (1800 + 600)


async def test_the_service_is_all_revisions_together(real: str) -> None:
    async with questions(real) as asked:
        signal = (await SloReader().read(asked, {WINE: WANTED}, 0.0))[WINE]
    for seconds in WANTED.windows:
        parts = [arm.availability[seconds] for arm in signal.revisions.values()]
        assert signal.service.availability[seconds].bad == pytest.approx(sum(part.bad for part in parts))
        assert signal.service.availability[seconds].total == pytest.approx(sum(part.total for part in parts))


async def test_slow_answers_are_those_above_each_model_s_own_threshold(real: str) -> None:
    second = objectives({"slo": {"latency": {"thresholdMilliseconds": 1000, "objective": "99"}, "windowDays": 7}})
    assert second
    async with questions(real) as asked:
        signals = await SloReader().read(asked, {WINE: WANTED, IRIS: second}, 0.0)
    wine, iris = signals[WINE].service.latency[HOUR], signals[IRIS].service.latency[HOUR]
    assert wine.bad / wine.total == pytest.approx(0.1, rel=0.01)
    assert iris.bad / iris.total == pytest.approx(0.25, rel=0.01)
    assert set(signals[IRIS].revisions) == {"cccc"}


async def test_a_counter_that_begins_again_is_no_loss_and_no_burst(real: str) -> None:
    async with questions(real) as asked:
        signal = (await SloReader().read(asked, {IRIS: availability_alone()}, 0.0))[IRIS]
    assert signal.service.availability[HOUR].total == pytest.approx(2.0 * HOUR, rel=0.05)


async def test_a_model_without_metrics_has_no_signal(real: str) -> None:
    async with questions(real) as asked:
        assert set(await SloReader().read(asked, {WINE: WANTED, OLD: WANTED}, 0.0)) == {WINE}


async def test_namespaces_of_others_are_not_asked_about(real: str) -> None:
    async with questions(real) as asked:
        found = await SloReader({"lab", 'x"} or up{a="'}).read(asked, {WINE: WANTED, IRIS: availability_alone()}, 0.0)
    assert set(found) == {IRIS}


async def test_metrics_that_have_stopped_are_none(tmp_path: Any) -> None:
    stopped = {requests(OLD, "aaaa", "ok"): lambda before: None if before < 240 else 5000.0 - before}
    living = {requests(WINE, "aaaa", "ok"): steady(1.0)}
    with prometheus(tmp_path, history(tmp_path, {**stopped, **living}, HOUR)) as url:
        async with questions(url) as asked:
            wanted = {OLD: availability_alone(), WINE: availability_alone()}
            assert set(await SloReader().read(asked, wanted, 0.0)) == {WINE}


# --- One that lies ---


class Script(Always):
    """Answers to queries, by a word in them."""

    def __init__(self, samples: dict[str, list[tuple[dict[str, str], str]]]) -> None:
        super().__init__(b"")
        self.samples = samples
        self.time = 1000.0
        self.asked: list[str] = []

    def get(self, key: str, default: Any = None) -> bytes:
        self.asked.append(key)
        word = next(word for word in self.samples if word in key)
        result = [{"metric": labels, "value": [self.time, text]} for labels, text in self.samples[word]]
        return answer(json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode())


LABELS = {"namespace": "shop", "model": "wine"}
ARM = {**LABELS, "revision": "aaaa"}


def truth() -> dict[str, list[tuple[dict[str, str], str]]]:
    return {
        "timestamp": [(LABELS, "5")],
        "outcome": [({**ARM, "outcome": "ok"}, "1999"), ({**ARM, "outcome": "failed"}, "1")],
        "bucket": [({**ARM, "le": "0.05"}, "995"), ({**ARM, "le": "+Inf"}, "1000")],
    }


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serve() as found:
        yield found


def availability_alone(days: int = 7) -> Objectives:
    found = objectives({"slo": {"availability": "99.9", "windowDays": days}})
    assert found
    return found


async def read(origin: Origin, script: Script, reader: SloReader | None = None, now: float = 0.0) -> Any:
    origin.pages = script
    async with questions(origin.url("")) as asked:
        return await (reader or SloReader()).read(asked, {WINE: WANTED}, now)


async def test_the_truth_is_believed(origin: Origin) -> None:
    signal = (await read(origin, Script(truth())))[WINE]
    assert signal.service.availability[300] == Ratio(1.0, 2000.0)
    assert signal.service.latency[300] == Ratio(5.0, 1000.0)
    assert signal.revisions == {"aaaa": Counts(signal.service.availability, signal.service.latency)}


@pytest.mark.parametrize("text", ["NaN", "+Inf", "-Inf", "-1", "1e999"])
@pytest.mark.parametrize("word", ["outcome", "bucket"])
async def test_a_model_of_which_one_number_is_none_has_no_signal(origin: Origin, word: str, text: str) -> None:
    script = Script(truth())
    script.samples[word][-1] = (script.samples[word][-1][0], text)
    assert await read(origin, script) == {}


@pytest.mark.parametrize("age", ["NaN", "+Inf", "151", "-151", "1e9"])
async def test_samples_that_are_old_or_of_the_future_are_no_signal(origin: Origin, age: str) -> None:
    assert await read(origin, Script({**truth(), "timestamp": [(LABELS, age)]})) == {}


async def test_more_quick_answers_than_answers_are_no_signal(origin: Origin) -> None:
    script = Script(truth())
    script.samples["bucket"][0] = ({**ARM, "le": "0.05"}, "1001")
    assert await read(origin, script) == {}


async def test_where_all_are_quick_none_is_slow_whatever_floats_do(origin: Origin) -> None:
    script = Script(truth())
    script.samples["bucket"] = [({**ARM, "le": "0.05"}, "1000.0000000001"), ({**ARM, "le": "+Inf"}, "1000")]
    assert (await read(origin, script))[WINE].service.latency[300] == Ratio(0.0, 1000.0)


async def test_a_missing_edge_is_no_signal(origin: Origin) -> None:
    script = Script(truth())
    del script.samples["bucket"][0]
    assert await read(origin, script) == {}


async def test_an_edge_that_is_no_number_counts_for_nothing(origin: Origin) -> None:
    script = Script(truth())
    script.samples["bucket"].append(({**ARM, "le": "many"}, "5"))
    assert (await read(origin, script))[WINE].service.latency[300] == Ratio(5.0, 1000.0)


async def test_the_same_answer_again_is_a_fault(origin: Origin) -> None:
    script, reader = Script(truth()), SloReader()
    await read(origin, script, reader)
    with pytest.raises(Fault) as caught:
        await read(origin, script, reader, now=15.0)
    assert caught.value.kind == "stale"
    script.time += 15.0
    assert WINE in await read(origin, script, reader, now=30.0)


async def test_all_models_are_one_question_and_long_windows_are_asked_rarely(origin: Origin) -> None:
    script, reader = Script(truth()), SloReader()
    await read(origin, script, reader)
    assert len(script.asked) == 1 + 2 * len(WANTED.windows)
    asked = []
    for now in range(15, 615, 15):
        script.asked.clear()
        script.time += 15.0
        await read(origin, script, reader, now=float(now))
        asked += script.asked
    counts = {seconds: sum(f"%5B{seconds}s%5D" in query for query in asked) for seconds in WANTED.windows}
    assert counts[300] == 2 * 40
    assert counts[HOUR] == 2 * 20
    assert counts[7 * DAY] == counts[3 * DAY] == 2 * 10


async def test_what_takes_prometheus_long_is_asked_rarely(origin: Origin) -> None:
    class Slow(Script):
        """Of a week it takes long to tell."""

        def get(self, key: str, default: Any = None) -> bytes:
            self.time += 0.001
            if f"%5B{7 * DAY}s%5D" in key:
                time.sleep(1)
            return super().get(key)

    def asked(seconds: int) -> int:
        return sum(f"%5B{seconds}s%5D" in query for query in script.asked)

    script, reader = Slow(truth()), SloReader()
    await read(origin, script, reader)
    script.asked.clear()
    await read(origin, script, reader, now=70.0)
    assert (asked(3 * DAY), asked(7 * DAY)) == (2, 0)
    await read(origin, script, reader, now=10_000.0)
    assert (asked(3 * DAY), asked(7 * DAY)) == (4, 2)
