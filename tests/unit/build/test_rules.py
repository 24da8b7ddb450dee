"""Rules of an objective, as promtool understands and runs them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.build import labels
from holdfast.build.promql import selector
from holdfast.build.rules import Objective, rules
from holdfast.plan.slo import alarms
from holdfast_devcluster import binaries

AVAILABILITY = Objective("availability", 0.001)
LATENCY = Objective("latency", 0.01, 1000)
PAGE, TICKET, SPENT = "HoldfastFastBurn", "HoldfastSlowBurn", "HoldfastBudgetSpent"
Json = dict[str, Any]


def manifest(*objectives: Objective, days: int = 30, custom_resource: bool = False, name: str = "wine") -> Json:
    found = objectives or (AVAILABILITY, LATENCY)
    return rules(name, "shop", "uid-1", found, alarms(days), days, custom_resource=custom_resource)


def groups(made: Json) -> list[Json]:
    spec: Json = made["spec"] if made["kind"] == "PrometheusRule" else yaml.safe_load(made["data"]["rules.yaml"])
    return list(spec["groups"])


def promtool(*arguments: Any) -> subprocess.CompletedProcess[str]:
    program = binaries.find("promtool")["promtool"].path
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("days", [7, 30, 90])
def test_promtool_finds_nothing_to_complain_about(tmp_path: Path, days: int) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(manifest(days=days)["data"]["rules.yaml"])
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_both_kinds_hold_the_same_rules_and_belong_to_the_model() -> None:
    resource, config_map = manifest(custom_resource=True), manifest()
    assert groups(resource) == groups(config_map)
    assert (resource["kind"], resource["metadata"]["name"]) == ("PrometheusRule", "wine")
    assert (config_map["kind"], config_map["metadata"]["name"]) == ("ConfigMap", "wine-rules")
    for made in (resource, config_map):
        metadata = made["metadata"]
        assert metadata["labels"][labels.MODEL_DEPLOYMENT] == "wine"
        assert metadata["labels"][labels.COMPONENT] != "serving"  # or it would be scraped
        assert metadata["ownerReferences"][0]["uid"] == "uid-1"
        assert metadata["annotations"][labels.DESIRED_HASH]
    assert config_map["metadata"]["annotations"] != manifest(AVAILABILITY)["metadata"]["annotations"]


def test_every_rule_is_about_this_model_alone() -> None:
    for group in groups(manifest()):
        for rule in group["rules"]:
            series = rule["expr"].count("{")
            assert series == rule["expr"].count('namespace="shop", model="wine"') > 0, rule["expr"]


WATCHED = ("DataStable", "PerformanceStable", "Retraining")


def test_there_are_alerts_about_those_conditions_that_are_asked_for(tmp_path: Path) -> None:
    made = rules("wine", "shop", "uid-1", (), (), 0, conditions=WATCHED[:1], custom_resource=False)
    [group] = groups(made)
    assert {rule["alert"] for rule in group["rules"]} == {"HoldfastDrift", "HoldfastUpstreamFault"}
    both = rules("wine", "shop", "uid-1", (LATENCY,), alarms(7), 7, conditions=WATCHED, custom_resource=False)
    file = tmp_path / "rules.yaml"
    file.write_text(both["data"]["rules.yaml"])
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(groups(both)) == 3


def test_a_condition_that_is_false_is_an_alert_and_a_new_leader_does_not_end_it(tmp_path: Path) -> None:
    made = rules("wine", "shop", "uid-1", (), (), 0, conditions=WATCHED, custom_resource=False)
    (tmp_path / "rules.yaml").write_text(made["data"]["rules.yaml"])

    def said(type_: str, status: str, reason: str, values: str, model: str = "wine") -> Json:
        of = (f'model="{model}"', f'type="{type_}"', f'status="{status}"', f'reason="{reason}"')
        return {"series": selector("holdfast_model_condition", 'namespace="shop"', *of), "values": values}

    input_series = [
        said("DataStable", "True", "NoDrift", "1x9 _x90"),
        said("DataStable", "False", "FeatureDrift", "_x9 1x9 _x2 1x9 _x60"),  # two scrapes without a leader
        said("DataStable", "Unknown", "InsufficientData", "_x40 1x60"),
        said("PerformanceStable", "False", "MeasuredDrop", "_x9 1x90"),
        said("Retraining", "False", "Idle", "1x100"),
        said("DataStable", "False", "UpstreamFault", "1x100", model="iris"),
    ]
    both = ["HoldfastAccuracyDrop", "HoldfastDrift"]
    firing = {"8m": [], "15m": both, "21m": both, "60m": both[:1]}
    test = {
        "interval": "1m",
        "input_series": input_series,
        "promql_expr_test": [
            {
                "expr": 'count by (alertname, severity, namespace, model) (ALERTS{alertstate="firing"})',
                "eval_time": time,
                "exp_samples": [
                    {
                        "labels": selector("", f'alertname="{alert}"', 'severity="ticket"', 'namespace="shop"',
                                           'model="wine"'),
                        "value": 1,
                    }
                    for alert in alerts
                ],
            }
            for time, alerts in firing.items()
        ],
    }  # fmt: skip
    file = tmp_path / "test.yaml"
    file.write_text(json.dumps({"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": [test]}))
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


# --- Run ---


def series(per_minute: dict[str, str], model: str = "wine", revision: str = "aaaa") -> list[Json]:
    """Counters by outcome, as promtool writes numbers down: a+bxn begins at a and grows n times by b."""
    of = ['namespace="shop"', f'model="{model}"', f'revision="{revision}"']
    return [
        {"series": selector("holdfast_inference_requests_total", *of, f'outcome="{outcome}"'), "values": values}
        for outcome, values in per_minute.items()
    ]


def buckets(per_minute: dict[str, str]) -> list[Json]:
    of = ['namespace="shop"', 'model="wine"', 'revision="aaaa"']
    return [
        {"series": selector("holdfast_inference_duration_seconds_bucket", *of, f'le="{edge}"'), "values": values}
        for edge, values in per_minute.items()
    ]


def firing(tmp_path: Path, input_series: list[Json], at: dict[str, set[str]], *objectives: Objective) -> None:
    """Assert which alerts fire at which times, and no others."""
    (tmp_path / "rules.yaml").write_text(manifest(*objectives, days=7)["data"]["rules.yaml"])
    names = {objective.name: objective for objective in objectives or (AVAILABILITY, LATENCY)}
    tests = [
        {
            "interval": "1m",
            "input_series": input_series,
            "promql_expr_test": [
                {
                    "expr": 'count(ALERTS{alertstate="firing"}) by (alertname, severity, namespace, model, slo)',
                    "eval_time": time,
                    "exp_samples": [
                        {
                            "labels": selector(
                                "", f'alertname="{alert}"', f'severity="{"page" if alert == PAGE else "ticket"}"',
                                'namespace="shop"', 'model="wine"', f'slo="{next(iter(names))}"',
                            ),
                            "value": 1,
                        }
                        for alert in sorted(alerts)
                    ],
                }
                for time, alerts in at.items()
            ],
        }
    ]  # fmt: skip
    file = tmp_path / "test.yaml"
    file.write_text(json.dumps({"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": tests}))
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_outage_pages_within_minutes_and_stops_soon_after_it_has_ended(tmp_path: Path) -> None:
    found = series({"ok": "0+600x60 36000+0x20 36000+600x600", "failed": "0+0x60 0+600x20 12000+0x600"})
    at = {"59m": set(), "63m": {PAGE, TICKET, SPENT}, "2h": {TICKET, SPENT}, "9h": {SPENT}}
    firing(tmp_path, found, at, AVAILABILITY)


def test_a_few_failures_of_a_busy_model_are_no_alarm(tmp_path: Path) -> None:
    found = series({"ok": "0+60000x200", "failed": "0+30x200"})
    firing(tmp_path, found, {"30m": set(), "3h": set()}, AVAILABILITY)


def test_the_only_request_of_a_quiet_model_is_no_alarm_though_it_failed(tmp_path: Path) -> None:
    found = series({"ok": "0+0x120", "failed": "0+0x30 1+0x90"})
    firing(tmp_path, found, {"31m": set(), "33m": set(), "90m": set()}, AVAILABILITY)


def test_a_counter_reset_is_no_alarm(tmp_path: Path) -> None:
    found = series({"ok": "0+600x60 0+600x60", "failed": "0+0.1x60 0+0.1x60"})
    firing(tmp_path, found, {"61m": set(), "65m": set(), "2h": set()}, AVAILABILITY)


def test_requests_whose_clients_had_gone_and_those_of_other_models_are_none(tmp_path: Path) -> None:
    found = series({"ok": "0+600x120", "failed": "0+0x120", "abandoned": "0+6000x120"})
    found += series({"ok": "0+0x120", "failed": "0+600x120"}, model="iris")
    firing(tmp_path, found, {"2h": set()}, AVAILABILITY)


def test_what_a_candidate_fails_is_answered_by_another_and_pages_nobody(tmp_path: Path) -> None:
    found = series({"ok": "0+600x120", "failed": "0+0x120"})
    routed = series({"failed": "0+600x120"}, revision="bbbb")
    for each in routed:
        each["series"] = each["series"].replace("}", ', protocol="router"}')
    firing(tmp_path, found + routed, {"2h": set()}, AVAILABILITY)


def test_what_one_revision_fails_counts_for_the_service(tmp_path: Path) -> None:
    found = series({"ok": "0+600x120", "failed": "0+0x120"})
    found += series({"ok": "0+0x120", "late": "0+60x120"}, revision="bbbb")
    firing(tmp_path, found, {"10m": {PAGE, TICKET, SPENT}}, AVAILABILITY)


@pytest.mark.parametrize("edge", ["1", "1.0"])
def test_slow_answers_burn_the_budget_of_latency(tmp_path: Path, edge: str) -> None:
    found = buckets({edge: "0+540x120", "2": "0+600x120", "+Inf": "0+600x120"})
    firing(tmp_path, found, {"20m": {PAGE, TICKET, SPENT}}, LATENCY)
    found = buckets({edge: "0+598x120", "2": "0+600x120", "+Inf": "0+600x120"})
    firing(tmp_path, found, {"20m": set()}, LATENCY)
