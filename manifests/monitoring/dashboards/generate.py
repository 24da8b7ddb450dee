"""The Grafana dashboards: `generate.py --write` renders them beside this file, `--check` compares (make check does).

Every query is about labels that the scrape configuration of ../prometheus sets. Tests parse each of them, and hold the
metrics that they name against real scrapes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
MODEL = 'namespace="$namespace", model="$model"'
USERS = 'protocol!="router"'
"""Without what routers ask each other, whose clients are answered by the pod that asks."""
OF_USERS = f'namespace=~"$namespace", {USERS}'
BIN = "bin"
FAILED = 'outcome=~"failed|late|rejected|timeout"'

Json = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One panel: what it is called, its queries with their legends, and how numbers are written."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    description: str = ""
    logarithmic: bool = False
    """For what spans many powers of ten."""

    def render(self, number: int, x: int, y: int) -> Json:
        instant = self.kind in ("table", "stat", "barchart")
        custom: Json = {"scaleDistribution": {"type": "log", "log": 10}} if self.logarithmic else {}
        panel: Json = {
            "id": number,
            "title": self.title,
            "description": self.description,
            "type": self.kind,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": 8},
            "fieldConfig": {"defaults": {"unit": self.unit, "custom": custom}, "overrides": []},
            "targets": [
                {
                    "refId": chr(ord("A") + place),
                    "datasource": SOURCE,
                    "expr": expression,
                    "legendFormat": legend,
                    "instant": instant,
                    "range": not instant,
                    "format": "table" if self.kind in ("table", "barchart") else "time_series",
                }
                for place, (expression, legend) in enumerate(self.queries)
            ],
        }
        if self.kind == "table":
            hidden = {"Time": True, "__name__": True, "Value": True}
            panel["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
        if self.kind == "barchart":
            panel["options"] = {"xField": BIN, "legend": {"displayMode": "list", "placement": "bottom"}}
            panel["transformations"] = self._side_by_side()
        return panel

    def _side_by_side(self) -> list[Json]:
        """The answers of all queries in one table, by bin."""
        names = {f"Value #{chr(ord('A') + place)}": legend for place, (_, legend) in enumerate(self.queries)}
        times = {f"Time {place}": True for place in range(1, len(self.queries) + 1)}
        return [
            {"id": "joinByField", "options": {"byField": BIN, "mode": "outer"}},
            {"id": "organize", "options": {"excludeByName": times, "renameByName": names}},
        ]


@dataclass(frozen=True)
class Row:
    """A heading, and panels below it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """A file of panels."""

    uid: str
    title: str
    variables: tuple[tuple[str, str, bool], ...]
    """Name, the query for its values, and whether all of them may be looked at together."""
    rows: tuple[Row, ...]

    def render(self) -> Json:
        return {
            "uid": self.uid,
            "title": self.title,
            "tags": ["holdfast"],
            "schemaVersion": 39,
            "editable": True,
            "timezone": "",
            "refresh": "30s",
            "time": {"from": "now-3h", "to": "now"},
            "templating": {"list": [_source(), *(_variable(*each) for each in self.variables)]},
            "panels": _laid_out(self.rows),
        }


def _source() -> Json:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str, query: str, together: bool) -> Json:
    several: Json = {"includeAll": True, "multi": True, "allValue": ".+", "current": {"text": "All", "value": "$__all"}}
    return {
        **(several if together else {}),
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
    }


def _laid_out(rows: Sequence[Row]) -> list[Json]:
    panels: list[Json] = []
    y = 0
    for row in rows:
        heading = {"id": len(panels) + 1, "title": row.title, "type": "row", "collapsed": False, "panels": []}
        panels.append({**heading, "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}})
        x, y = 0, y + 1
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y = 0, y + 8
            panels.append(panel.render(len(panels) + 1, x, y))
            x += panel.width
        y += 8
    return panels


def _quantiles(metric: str, of: str, by: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket{{{of}}}[$__rate_interval])))",
            f"p{100 * q:g} {{{{{by}}}}}",
        )
        for q in (0.5, 0.95, 0.99)
    )


def _rate(metric: str, of: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{of}}}[$__rate_interval]))"


REQUESTS = Row(
    "Requests",
    (
        Panel(
            "Requests by how they ended",
            ((_rate("holdfast_inference_requests_total", f"{MODEL}, {USERS}", "outcome"), "{{outcome}}"),),
            "reqps",
        ),
        Panel(
            "Bad answers by revision",
            (
                (
                    f"{_rate('holdfast_inference_requests_total', f'{MODEL}, {FAILED}', 'revision')}"
                    f" / {_rate('holdfast_inference_requests_total', MODEL, 'revision')}",
                    "{{revision}}",
                ),
            ),
            "percentunit",
        ),
        Panel("Latency by revision", _quantiles("holdfast_inference_duration_seconds", MODEL, "revision"), "s"),
        Panel(
            "Requests being worked on, by pod",
            ((f"sum by (pod) (holdfast_inference_in_flight{{{MODEL}}})", "{{pod}}"),),
        ),
        Panel(
            "Time before the run",
            _quantiles("holdfast_inference_queue_seconds", MODEL, "revision"),
            "s",
        ),
        Panel(
            "Memory, by pod",
            ((f"sum by (pod) (process_resident_memory_bytes{{{MODEL}}})", "{{pod}}"),),
            "bytes",
        ),
    ),
)

ROLLOUT = Row(
    "Rollout",
    (
        Panel("Conditions", ((f"holdfast_model_condition{{{MODEL}}}", ""),), kind="table", width=12),
        Panel("Revisions", ((f"holdfast_model_revision{{{MODEL}}}", ""),), kind="table", width=12),
        Panel(
            "Share of the candidate",
            (
                (f"max by (revision) (holdfast_rollout_weight_ratio{{{MODEL}}})", "asked, {{revision}}"),
                (
                    f'sum(rate(holdfast_router_drawn_total{{{MODEL}, arm="target"}}[$__rate_interval]))'
                    f" / sum(rate(holdfast_router_drawn_total{{{MODEL}}}[$__rate_interval]))",
                    "drawn",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Answers of the target, by outcome",
            (
                (
                    _rate("holdfast_router_requests_total", f'{MODEL}, arm="target"', "counted_revision, outcome"),
                    "{{counted_revision}} {{outcome}}",
                ),
            ),
            "reqps",
        ),
        Panel(
            "What clients of the target waited",
            _quantiles("holdfast_router_client_seconds", MODEL, "counted_revision"),
            "s",
            description="Whoever answered them.",
        ),
    ),
)

EVIDENCE = Row(
    "Evidence",
    (
        Panel(
            "e-value against the candidate",
            (
                (f"max by (revision) (holdfast_rollout_e_value{{{MODEL}}})", "{{revision}}"),
                (f"max by (revision) (holdfast_rollout_abort_e_value{{{MODEL}}})", "rejected at"),
            ),
            logarithmic=True,
            description="Evidence that it is worse than stable, valid at every look.",
        ),
        Panel(
            "Bad answers in both arms",
            (
                (
                    f"max by (arm, revision) (holdfast_rollout_bad_requests{{{MODEL}}})"
                    f" / max by (arm, revision) (holdfast_rollout_requests{{{MODEL}}})",
                    "{{arm}} {{revision}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Requests that count",
            (
                (f'max by (revision) (holdfast_rollout_requests{{{MODEL}, arm="candidate"}})', "{{revision}}"),
                (f"max by (revision) (holdfast_rollout_required_requests{{{MODEL}}})", "needed to decide"),
            ),
        ),
        Panel(
            "Rows of copies that disagree",
            (
                (
                    f"{_rate('holdfast_router_disagreeing_rows_total', MODEL, 'counted_revision')}"
                    f" / {_rate('holdfast_router_compared_rows_total', MODEL, 'counted_revision')}",
                    "{{counted_revision}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Predictions of both arms, by bin",
            (
                (
                    _rate("holdfast_router_prediction_bin_total", MODEL, "arm, bin"),
                    "{{arm}} {{bin}}",
                ),
            ),
            "rps",
        ),
        Panel(
            "Oldest request at the target",
            ((f"max by (pod) (holdfast_router_oldest_seconds{{{MODEL}}})", "{{pod}}"),),
            "s",
        ),
    ),
)

SLO = Row(
    "Service level objectives",
    (
        Panel(
            "Error budget left",
            (
                (f"max by (slo) (holdfast_slo_budget_left_ratio{{{MODEL}}})", "{{slo}}"),
                (f"max by (slo) (holdfast:slo_budget_left:ratio{{{MODEL}}})", "{{slo}} (rules)"),
            ),
            "percentunit",
        ),
        Panel(
            "Burn rates that page",
            tuple(
                (f"max by (slo) (holdfast:slo_burn:rate{window}{{{MODEL}}})", f"{window} {{{{slo}}}}")
                for window in ("5m", "30m", "1h", "6h")
            ),
            description="By the recording rules. 1 spends the budget exactly by the end of the period.",
        ),
        Panel(
            "Burn rates of tickets",
            tuple(
                (f"max by (slo) (holdfast:slo_burn:rate{window}{{{MODEL}}})", f"{window} {{{{slo}}}}")
                for window in ("2h", "6h", "1d", "3d")
            ),
        ),
        Panel(
            "Bad requests by revision, of 5 minutes",
            (
                (
                    f"max by (slo, revision) (holdfast:slo_bad:increase5m{{{MODEL}}})"
                    f" / max by (slo, revision) (holdfast:slo_requests:increase5m{{{MODEL}}})",
                    "{{slo}} {{revision}}",
                ),
            ),
            "percentunit",
        ),
    ),
)

INSIDE = Row(
    "The model",
    (
        Panel(
            "Rows by prediction",
            ((_rate("holdfast_model_prediction_bin_total", MODEL, "revision, bin"), "{{revision}} {{bin}}"),),
            "rps",
        ),
        Panel(
            "Rows per run",
            _quantiles("holdfast_inference_batch_rows", MODEL, "revision"),
        ),
        Panel(
            "Until it was ready",
            ((f"max by (pod) (holdfast_model_load_seconds{{{MODEL}}})", "{{pod}}"),),
            "s",
        ),
    ),
)


def _shares(kind: str, of: str) -> str:
    """Shares of the rows of a day, by bin."""
    rows = f"increase(holdfast_model_{kind}_bin_total{{{of}}}[1d])"
    return f"sum by (bin) ({rows}) / on () group_left () sum({rows})"


def _beside_reference(title: str, kind: str, of: str) -> Panel:
    return Panel(
        title,
        (
            (_shares(kind, of), "live"),
            (f"max by (bin) (holdfast_model_{kind}_reference_ratio{{{of}}})", "held out"),
        ),
        "percentunit",
        kind="barchart",
        width=12,
        description="Of a day's rows, beside the held-out rows of the profile. Bins are called by their place.",
    )


_FEATURE = f'{MODEL}, revision="$revision", feature="$feature"'
_REVISION = f'{MODEL}, revision="$revision"'

DRIFT = Row(
    "Data",
    (
        Panel(
            "What is said",
            (
                (
                    f'holdfast_model_condition{{{MODEL}, type=~"DataStable|PerformanceStable|Retraining"}}',
                    "",
                ),
            ),
            kind="table",
            width=12,
        ),
        Panel(
            "How far over the limit",
            (
                (
                    f"max by (kind, feature) (holdfast_model_drift_psi{{{MODEL}}})"
                    f" / max by (kind, feature) (holdfast_model_drift_limit{{{MODEL}}})",
                    "{{kind}} {{feature}}",
                ),
            ),
            width=12,
            description="Population stability index of the newest window over what counts as drift. 1 is the limit.",
        ),
        Panel(
            "Population stability index",
            ((f"max by (kind, feature) (holdfast_model_drift_psi{{{MODEL}}})", "{{kind}} {{feature}}"),),
            width=12,
        ),
        Panel(
            "Limit",
            ((f"max by (kind, feature) (holdfast_model_drift_limit{{{MODEL}}})", "{{kind}} {{feature}}"),),
            width=12,
            description="It grows where rows are few, or come together.",
        ),
    ),
)

HISTOGRAMS = Row(
    "Live rows beside held-out ones",
    (
        _beside_reference("Feature $feature", "feature", _FEATURE),
        _beside_reference("Predictions", "prediction", _REVISION),
        _beside_reference("Confidence", "confidence", _REVISION),
        _beside_reference("Errors of predicted numbers, by labels", "absolute_error", _REVISION),
        Panel(
            "Missing and unseen values, by feature",
            (
                (
                    f"sum by (feature, bin) (increase(holdfast_model_feature_bin_total{{{_REVISION}, "
                    'bin=~"missing|other"}[1h])) / on (feature) group_left () '
                    f"sum by (feature) (increase(holdfast_model_feature_bin_total{{{_REVISION}}}[1h]))",
                    "{{feature}} {{bin}}",
                ),
            ),
            "percentunit",
            width=12,
        ),
    ),
)

ACCURACY = Row(
    "Accuracy and retraining",
    (
        Panel(
            "Accuracy",
            ((f"max by (source) (holdfast_model_accuracy_ratio{{{MODEL}}})", "{{source}}"),),
            "percentunit",
            width=12,
            description="Of the held-out rows; as the model's own confidence lets expect; by feedback.",
        ),
        Panel(
            "Mean absolute error",
            ((f"max by (source) (holdfast_model_mean_absolute_error{{{MODEL}}})", "{{source}}"),),
            width=12,
            description="Of a model that predicts numbers: of the held-out rows; by feedback.",
        ),
        Panel(
            "Labels by what they say of the prediction",
            (
                (
                    f"sum by (counted_revision, outcome) (increase(holdfast_feedback_rows_total{{{MODEL}}}[1h]))",
                    "{{counted_revision}} {{outcome}}",
                ),
            ),
            width=12,
            description="In an hour.",
        ),
        Panel(
            "Training runs",
            (
                (f"max(holdfast_retraining_runs{{{MODEL}}})", "in the last 24 hours"),
                (f"max(holdfast_retraining_failures{{{MODEL}}})", "in a row that came to nothing"),
            ),
            width=12,
        ),
        Panel("Revisions", ((f"holdfast_model_revision{{{MODEL}}}", ""),), kind="table", width=12),
    ),
)

OVERVIEW = Row(
    "Models",
    (
        Panel(
            "Not ready",
            (('holdfast_model_condition{namespace=~"$namespace", type="Ready", status!="True"}', ""),),
            kind="table",
            width=12,
        ),
        Panel(
            "Objectives that are not kept, or not known",
            (('holdfast_model_condition{namespace=~"$namespace", type="SLOHealthy", status!="True"}', ""),),
            kind="table",
            width=12,
        ),
        Panel(
            "Requests",
            ((_rate("holdfast_inference_requests_total", OF_USERS, "namespace, model"),
              "{{namespace}}/{{model}}"),),
            "reqps",
        ),
        Panel(
            "Bad answers",
            (
                (
                    _rate("holdfast_inference_requests_total", f"{OF_USERS}, {FAILED}", "namespace, model")
                    + " / "
                    + _rate("holdfast_inference_requests_total", OF_USERS, "namespace, model"),
                    "{{namespace}}/{{model}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Error budget left, the ten worst",
            (
                (
                    "bottomk(10, max by (namespace, model, slo)"
                    ' (holdfast_slo_budget_left_ratio{namespace=~"$namespace"}))',
                    "{{namespace}}/{{model}} {{slo}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Data, accuracy or retraining that somebody should look at",
            (
                (
                    'holdfast_model_condition{namespace=~"$namespace", type=~"DataStable|PerformanceStable",'
                    ' status="False"} or holdfast_model_condition{namespace=~"$namespace", type="Retraining",'
                    ' reason=~"TrainingFailed|BreakerOpen"}',
                    "",
                ),
            ),
            kind="table",
            width=16,
        ),
        Panel(
            "Rollouts: share of the candidate",
            (
                (
                    'max by (namespace, model, revision) (holdfast_rollout_weight_ratio{namespace=~"$namespace"})',
                    "{{namespace}}/{{model}} {{revision}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Rollouts: e-value over the limit at which it is rejected",
            (
                (
                    'max by (namespace, model, revision) (holdfast_rollout_e_value{namespace=~"$namespace"})'
                    ' / max by (namespace, model, revision) (holdfast_rollout_abort_e_value{namespace=~"$namespace"})',
                    "{{namespace}}/{{model}} {{revision}}",
                ),
            ),
            logarithmic=True,
        ),
    ),
)  # fmt: skip

OPERATOR = Row(
    "The operator",
    (
        Panel("Leads", (("sum(holdfast_leader)", "leaders"),), kind="stat", width=4),
        Panel("What waits", (("sum(holdfast_queue_depth)", "in the queue"),), width=8),
        Panel("Duration of passes", _quantiles("holdfast_reconcile_seconds", 'kind=~".+"', "kind"), "s", width=12),
        Panel(
            "Passes that are tried again",
            ((_rate("holdfast_reconcile_errors_total", 'kind=~".+"', "kind, error"), "{{kind}} {{error}}"),),
        ),
        Panel("Writes", ((_rate("holdfast_writes_total", 'kind!="Lease"', "verb, kind"), "{{verb}} {{kind}}"),)),
        Panel(
            "Rounds of questions to Prometheus",
            ((_rate("holdfast_prometheus_rounds_total", 'outcome=~".+"', "outcome"), "{{outcome}}"),),
        ),
        Panel("Age of the watches", (("max by (kind) (holdfast_watch_age_seconds)", "{{kind}}"),), "s"),
        Panel("Event loop is late by", (("max by (pod) (holdfast_event_loop_lag_seconds)", "{{pod}}"),), "s"),
        Panel(
            "Memory",
            (('max by (pod) (process_resident_memory_bytes{job=~".*holdfast-operator"})', "{{pod}}"),),
            "bytes",
        ),
    ),
)

DASHBOARDS = (
    Dashboard(
        "holdfast-model",
        "Holdfast: one model",
        (
            ("namespace", "label_values(holdfast_model_condition, namespace)", False),
            ("model", 'label_values(holdfast_model_condition{namespace="$namespace"}, model)', False),
        ),
        (SLO, ROLLOUT, EVIDENCE, REQUESTS, INSIDE),
    ),
    Dashboard(
        "holdfast-drift",
        "Holdfast: drift of one model",
        (
            ("namespace", "label_values(holdfast_model_condition, namespace)", False),
            ("model", 'label_values(holdfast_model_condition{namespace="$namespace"}, model)', False),
            (
                "revision",
                f'label_values(holdfast_model_revision{{{MODEL}, role="stable"}}, revision)',
                False,
            ),
            (
                "feature",
                f'label_values(holdfast_model_feature_reference_count{{{MODEL}, revision="$revision"}}, feature)',
                False,
            ),
        ),
        (DRIFT, HISTOGRAMS, ACCURACY),
    ),
    Dashboard(
        "holdfast-models",
        "Holdfast: all models",
        (("namespace", "label_values(holdfast_model_condition, namespace)", True),),
        (OVERVIEW, OPERATOR),
    ),
)


def rendered() -> dict[Path, str]:
    """File → content."""
    return {FOLDER / f"{each.uid}.json": json.dumps(each.render(), indent=1) + "\n" for each in DASHBOARDS}


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case ["--write"]:
            for file, content in rendered().items():
                file.write_text(content)
            return 0
        case ["--check"]:
            stale = [file.name for file, content in rendered().items() if file.read_text() != content]
            if stale:
                print(f"{', '.join(stale)}: not what generate.py renders; run it with --write", file=sys.stderr)
            return 1 if stale else 0
    print("usage: generate.py --write | --check", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
