"""SLOHealthy and the budgets in status."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.plan import slo
from holdfast.plan.slo import DAY, NOT_CONFIGURED, Answer, Counts, NoSignal, Objectives, SloSignal
from holdfast.stats.burnrate import PAIRS, Ratio

HOUR = 3600
Shares = dict[int, float]
BOTH = {"availability": "99.9", "latency": {"thresholdMilliseconds": 50, "objective": "99"}}


def wanted(**spec: Any) -> Objectives:
    found = slo.objectives({"slo": spec or BOTH})
    assert found
    return found


def signal(
    bad: dict[int, float] | None = None, slow: dict[int, float] | None = None, rate: float = 1000.0
) -> SloSignal:
    """So many requests a second, of which a share is bad in each window; 0 where it is not given."""
    windows = sorted(wanted().windows)
    counts = Counts(
        {w: Ratio(rate * w * (bad or {}).get(w, 0.0), rate * w) for w in windows},
        {w: Ratio(rate * w * (slow or {}).get(w, 0.0), rate * w) for w in windows},
    )
    return SloSignal(counts, {"aaaa": counts})


def said(answer: Answer, status: dict[str, Any] | None = None, generation: int = 1, **spec: Any) -> tuple[str, str]:
    found = slo.condition(wanted(**spec), answer, status or {}, generation)
    assert found.type == "SLOHealthy"
    return found.status, found.reason


def before(status: str, reason: str, message: str, generation: int = 1) -> dict[str, Any]:
    condition = {"type": "SLOHealthy", "status": status, "reason": reason, "message": message}
    return {"conditions": [{**condition, "observedGeneration": generation}]}


def test_a_spec_s_percentages_are_shares_that_may_be_bad() -> None:
    found = wanted(availability="99.95", latency={"thresholdMilliseconds": 200, "objective": "95"}, windowDays=7)
    assert found.availability is not None
    assert found.latency is not None
    assert (found.availability.allowed, found.latency.allowed) == (0.0005, 0.05)
    assert (found.latency.threshold_milliseconds, found.period) == (200, 7 * DAY)
    assert wanted(availability="99").window_days == 30
    assert slo.objectives({"model": {}}) is None


@pytest.mark.parametrize(("name", "share"), [("bad", 0.001), ("slow", 0.01)])
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: str(pair.long))
def test_each_pair_burns_above_its_factor_and_not_at_it(pair: Any, name: str, share: float) -> None:
    limit = pair.factor(30) * share
    above = {pair.short: 1.1 * limit, pair.long: 1.1 * limit}
    reason = "FastBurn" if pair.fast else "SlowBurn"
    assert said(signal(**{name: above})) == ("False", reason)
    assert said(signal(**{name: dict.fromkeys(above, 0.95 * limit)})) == ("True", "WithinBudget")


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: str(pair.long))
def test_one_window_of_a_pair_alone_is_no_burn(pair: Any) -> None:
    for window in (pair.short, pair.long):
        assert said(signal({window: 0.9})) == ("True", "WithinBudget")


def test_a_page_comes_before_a_ticket_and_both_before_a_spent_budget() -> None:
    everything = dict.fromkeys(wanted().windows, 0.5)
    assert said(signal(everything)) == ("False", "FastBurn")
    assert said(signal({2 * HOUR: 0.5, DAY: 0.5, 30 * DAY: 0.5})) == ("False", "SlowBurn")
    assert said(signal({30 * DAY: 0.5})) == ("False", "BudgetSpent")


def test_with_few_requests_one_failure_is_neither_an_alarm_nor_a_spent_budget() -> None:
    one = Ratio(1.0, 20.0)
    quiet = SloSignal(Counts(dict.fromkeys(wanted().windows, one), {}), {})
    assert said(quiet, availability="99.9") == ("Unknown", "InsufficientTraffic")


def test_no_requests_at_all_are_no_verdict() -> None:
    assert said(SloSignal(Counts({}, {}), {})) == ("Unknown", "InsufficientTraffic")
    assert said(signal(rate=0.0)) == ("Unknown", "InsufficientTraffic")


def test_an_outage_of_a_quiet_service_is_an_alarm_all_the_same() -> None:
    outage = SloSignal(Counts(dict.fromkeys(wanted().windows, Ratio(40.0, 40.0)), {}), {})
    assert said(outage, availability="99.9") == ("False", "FastBurn")


@pytest.mark.parametrize("answer", [NOT_CONFIGURED, NoSignal("MetricsUnavailable", "Prometheus is away")])
def test_without_a_signal_nothing_is_claimed_whatever_was_said_before(answer: NoSignal) -> None:
    for status in ({}, before("True", "WithinBudget", "fine"), before("False", "FastBurn", "bad")):
        found = slo.condition(wanted(), answer, status, 1)
        assert (found.status, found.reason, found.message) == ("Unknown", answer.reason, answer.message)


def test_until_it_has_been_asked_the_last_word_stands() -> None:
    assert said(None) == ("Unknown", "MetricsUnavailable")
    found = slo.condition(wanted(), None, before("False", "FastBurn", "bad"), 1)
    assert (found.status, found.reason, found.message) == ("False", "FastBurn", "bad")


def test_the_words_change_with_the_reason_or_the_spec_and_not_with_the_numbers() -> None:
    burning = signal(dict.fromkeys(wanted().windows, 0.5))
    first = slo.condition(wanted(), burning, {}, 1)
    worse = signal(dict.fromkeys(wanted().windows, 0.9))
    status = before(first.status, first.reason, first.message)
    assert slo.condition(wanted(), worse, status, 1) == first
    assert slo.condition(wanted(), worse, status, 2).message != first.message


def test_the_words_of_an_alarm_tell_its_numbers() -> None:
    found = slo.condition(wanted(), signal({300: 0.25, HOUR: 0.05}), {}, 1)
    assert found.message == ("availability: 5 % bad in 1h, 25 % in 5m; allowed 0.1 %, alarm above 14.4 times that")


def test_budgets_are_whole_percents_rounded_down_and_may_be_negative() -> None:
    assert slo.budgets(wanted(), signal({30 * DAY: 0.00017}, {30 * DAY: 0.0003}), {}) == {
        "availabilityBudgetPercent": 83,
        "latencyBudgetPercent": 97,
    }
    assert slo.budgets(wanted(), signal({30 * DAY: 0.0025}), {})["availabilityBudgetPercent"] == -150
    assert slo.budgets(wanted(availability="99.9"), signal(), {}) == {"availabilityBudgetPercent": 100}


def test_budgets_without_a_signal_are_the_last_ones() -> None:
    kept = {"availabilityBudgetPercent": 12}
    for answer in (None, NOT_CONFIGURED):
        assert slo.budgets(wanted(), answer, {"slo": kept}) == kept


ratios = st.tuples(st.floats(0, 1e12), st.floats(0, 1)).map(lambda pair: Ratio(pair[0] * pair[1], pair[0]))
windows = st.dictionaries(st.sampled_from(sorted(wanted().windows)), ratios)


@given(windows, windows)
def test_no_counts_break_a_verdict(bad: dict[int, Ratio], slow: dict[int, Ratio]) -> None:
    answer = SloSignal(Counts(bad, slow), {})
    found = slo.condition(wanted(), answer, {}, 1)
    assert found.status in ("True", "False", "Unknown")
    for percent in slo.budgets(wanted(), answer, {}).values():
        assert isinstance(percent, int)
        assert -slo.MAX_PERCENT <= percent <= 100


@given(windows)
def test_without_a_bad_request_there_is_never_an_alarm(counts: dict[int, Ratio]) -> None:
    clean = {window: Ratio(0.0, ratio.total) for window, ratio in counts.items()}
    assert said(SloSignal(Counts(clean, clean), {}))[0] != "False"
