"""Recording and alerting rules of one ModelDeployment: a PrometheusRule, or a ConfigMap to be mounted.

Alerts about its conditions are in `alerts`; what follows is about objectives.

Only counts of five minutes are recorded; whatever is longer is a sum of these, so that a minute with one request weighs
one request. Sums of overlapping counts are too large by the same factor everywhere, which a ratio does not see.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import yaml

from holdfast.build import alerts, labels, names
from holdfast.build.hashing import with_desired_hash
from holdfast.build.promql import equals, one_of, quoted, selector
from holdfast.build.requests import BAD, DURATIONS, REQUESTS, UNCOUNTED, USERS, edge_texts

FILE = "rules.yaml"
EVERY = 30
"""Seconds between two evaluations."""
STEP = 300
"""Seconds of the counts that are recorded, and between two evaluations of what is long."""
DAY = 86_400
COUNTED, FAILED = "holdfast:slo_requests:increase5m", "holdfast:slo_bad:increase5m"
BUDGET_LEFT = "holdfast:slo_budget_left:ratio"
_SERVICE = "sum by (namespace, model)"

Rule = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Objective:
    """So many of all requests may be bad."""

    name: Literal["availability", "latency"]
    allowed: float
    threshold_milliseconds: int = 0
    """latency: an answer that takes longer is bad."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Two windows in seconds, and the burn rate above which both of them are alarming."""

    short: int
    long: int
    factor: float
    fast: bool


def rules(
    name: str,
    namespace: str,
    uid: str,
    objectives: Sequence[Objective],
    alarms: Sequence[Alarm],
    window_days: int,
    *,
    conditions: Collection[str] = (),
    custom_resource: bool,
) -> dict[str, Any]:
    """The manifest for server-side apply.

    Args:
        conditions: types of those that there are to be alerts about.
        custom_resource: a PrometheusRule, which needs the Prometheus operator; else a ConfigMap.
    """
    asked = (name, namespace, tuple(objectives), tuple(alarms), window_days, tuple(sorted(conditions)))
    metadata = {
        "namespace": namespace,
        "labels": labels.serving(name) | {labels.COMPONENT: "rules"},
        "ownerReferences": [labels.owner("ModelDeployment", name, uid)],
    }
    if custom_resource:
        manifest = {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": name, **metadata},
            "spec": _document(*asked),
        }
    else:
        manifest = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": names.rules_config_map(name), **metadata},
            "data": {FILE: _text(*asked)},
        }
    return with_desired_hash(manifest)


@lru_cache(maxsize=1024)
def _text(*asked: Any) -> str:
    """Writing YAML takes longer than all the rest of a plan, and it is the same text in every plan of a model."""
    return yaml.safe_dump(_document(*asked), sort_keys=False, width=1 << 20)


def _document(
    name: str,
    namespace: str,
    objectives: Iterable[Objective],
    alarms: Sequence[Alarm],
    window_days: int,
    conditions: Collection[str],
) -> dict[str, Any]:
    groups = [group for each in objectives for group in _groups(name, namespace, each, alarms, window_days)]
    about_conditions = alerts.group(name, namespace, conditions)
    return {"groups": [*groups, about_conditions] if about_conditions else groups}


def burn(seconds: int) -> str:
    """The recorded burn rate of a window: 1 spends the budget exactly by the end of the period."""
    return f"holdfast:slo_burn:rate{span(seconds)}"


def span(seconds: int) -> str:
    """As PromQL writes it."""
    for unit, length in (("d", DAY), ("h", 3_600)):
        if seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds // 60}m"


def _groups(
    name: str, namespace: str, objective: Objective, alarms: Sequence[Alarm], window_days: int
) -> Iterable[dict[str, Any]]:
    """What somebody may have to act on at once; what costs Prometheus more and can wait."""
    of_model = (equals("namespace", namespace), equals("model", name))
    this = (*of_model, equals("slo", objective.name))
    windows = sorted({seconds for alarm in alarms for seconds in (alarm.short, alarm.long)})
    burns = {burn(seconds): f"{_ratio(this, seconds)} / {_number(objective.allowed)}" for seconds in windows}
    long = {burn(seconds) for seconds in windows if seconds >= DAY}
    left = f"1 - {_ratio(this, window_days * DAY)} / {_number(objective.allowed)}"
    quick, slow = _alerts(this, objective, alarms, window_days)
    for kind, seconds, recorded, alarming in (
        ("burn", EVERY, _counts(objective, of_model) | {k: v for k, v in burns.items() if k not in long}, quick),
        ("budget", STEP, {k: v for k, v in burns.items() if k in long} | {BUDGET_LEFT: left}, slow),
    ):
        records = [{"record": record, "expr": expression} for record, expression in recorded.items()]
        yield {
            "name": f"holdfast/{namespace}/{name}/{objective.name}/{kind}",
            "interval": f"{seconds}s",
            "rules": [
                {**rule, "labels": {**rule.get("labels", {}), "slo": objective.name}} for rule in (*records, *alarming)
            ],
        }


def _counts(objective: Objective, of_model: Iterable[str]) -> dict[str, str]:
    """Requests, and those of them that were bad, by revision."""
    by = "sum by (namespace, model, revision)"
    if objective.name == "availability":
        all_of_them = selector(REQUESTS, *of_model, USERS, f"outcome!={quoted(UNCOUNTED)}")
        bad = selector(REQUESTS, *of_model, USERS, one_of("outcome", BAD))
        return {
            COUNTED: f"{by} (increase({all_of_them}[5m]))",
            FAILED: f"{by} (increase({bad}[5m]))",
        }
    answered = selector(DURATIONS, *of_model, USERS, equals("le", "+Inf"))
    quick = selector(DURATIONS, *of_model, USERS, one_of("le", edge_texts(objective.threshold_milliseconds)))
    return {
        COUNTED: f"{by} (increase({answered}[5m]))",
        FAILED: f"{by} (increase({answered}[5m])) - {by} (increase({quick}[5m]))",
    }


def _sum(metric: str, this: Iterable[str], seconds: int) -> str:
    """Of one window, larger by STEP / EVERY than what it counts."""
    series = selector(metric, *this)
    return f"{_SERVICE} ({series if seconds == STEP else f'sum_over_time({series}[{span(seconds)}])'})"


def _ratio(this: Iterable[str], seconds: int) -> str:
    this = tuple(this)
    return f"{_sum(FAILED, this, seconds)} / {_sum(COUNTED, this, seconds)}"


def _alerts(
    this: Sequence[str], objective: Objective, alarms: Sequence[Alarm], window_days: int
) -> tuple[list[Rule], list[Rule]]:
    """For people to be woken by, and for those who are there in the morning."""
    what = "failed" if objective.name == "availability" else f"took more than {objective.threshold_milliseconds} ms"
    days = f"{window_days} days"
    burning = (
        f"requests {what}, and the error budget of {days} burns {{{{ $value | humanize }}}} times as fast as it may"
    )
    enough = f"{_sum(COUNTED, this, window_days * DAY)} * {_number(EVERY / STEP * objective.allowed)} >= 1"
    spent = f"{selector(BUDGET_LEFT, *this)} <= 0 and on (namespace, model) ({enough})"
    fast, slow = (" or ".join(_fires(this, objective, a) for a in alarms if a.fast is fast) for fast in (True, False))
    return (
        [_alert("HoldfastFastBurn", "page", fast, burning)],
        [
            _alert("HoldfastSlowBurn", "ticket", slow, burning),
            _alert("HoldfastBudgetSpent", "ticket", spent, f"requests {what}; no error budget is left of {days}"),
        ],
    )


def _alert(name: str, severity: str, expression: str, summary: str) -> Rule:
    model = "{{ $labels.namespace }}/{{ $labels.model }}"
    return {
        "alert": name,
        "expr": expression,
        "labels": {"severity": severity},
        "annotations": {"summary": f"{model}: {summary}"},
    }


def _fires(this: Sequence[str], objective: Objective, alarm: Alarm) -> str:
    """Both windows burn, and the long one has more bad requests than chance makes of a rate at the limit: by three
    standard deviations and three requests, which is less than once in a thousand."""
    short, long = (
        f"{selector(burn(seconds), *this)} > {_number(alarm.factor)}" for seconds in (alarm.short, alarm.long)
    )
    bad = f"{_sum(FAILED, this, alarm.long)} * {EVERY / STEP}"
    expected = f"{_sum(COUNTED, this, alarm.long)} * {_number(EVERY / STEP * alarm.factor * objective.allowed)}"
    return f"({long} and {short} and on (namespace, model) ({bad} - {expected} > 3 * sqrt({expected}) + 3))"


def _number(value: float) -> str:
    return f"{value:.10g}"
