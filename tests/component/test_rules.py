"""Rules for Prometheus as children: a ConfigMap, or a PrometheusRule where the cluster has the kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.component.prometheus_operator import crd
from tests.component.world import MANIFESTS, Operator, Place, new_place, operator, stop, until

from holdfast_devcluster import ControlPlane

SLO = {"availability": "99.9", "latency": {"thresholdMilliseconds": 50, "objective": "99"}}


def config_map(place: Place, name: str) -> dict[str, Any] | None:
    return place.get("ConfigMap", f"{name}-rules")


def alerts(groups: list[dict[str, Any]]) -> set[str]:
    return {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}


ALERTS = {"HoldfastFastBurn", "HoldfastSlowBurn", "HoldfastBudgetSpent"}


def test_objectives_have_rules_and_other_models_none(leader: Operator, place: Place) -> None:
    place.model("plain")
    place.model("wine", slo=SLO)
    found = until("there are rules", lambda: config_map(place, "wine"))
    assert alerts(yaml.safe_load(found["data"]["rules.yaml"])["groups"]) == ALERTS
    assert found["metadata"]["ownerReferences"][0]["kind"] == "ModelDeployment"
    place.until_ready("plain")
    leader.until_idle()
    assert config_map(place, "plain") is None


def test_rules_that_somebody_edits_are_put_back(leader: Operator, place: Place) -> None:
    place.model("wine", slo=SLO)
    before = until("there are rules", lambda: config_map(place, "wine"))["data"]
    place.patch("ConfigMap", "wine-rules", {"data": {"rules.yaml": "groups: []"}})
    until("they are back", lambda: (config_map(place, "wine") or {}).get("data") == before)


def test_rules_follow_the_objectives_and_go_with_them(leader: Operator, place: Place) -> None:
    place.model("wine", slo=SLO)
    revision = place.until_ready("wine")["status"]["stableRevision"]
    place.patch("ModelDeployment", "wine", {"spec": {"slo": {"availability": "99.5"}}})
    until("the allowed share is another", lambda: "/ 0.005" in (config_map(place, "wine") or {})["data"]["rules.yaml"])
    assert place.until_ready("wine")["status"]["stableRevision"] == revision
    place.patch("ModelDeployment", "wine", {"spec": {"slo": None}})
    until("they are gone", lambda: config_map(place, "wine") is None)


def test_a_config_map_of_somebody_else_is_let_be(leader: Operator, place: Place) -> None:
    place.create(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "wine-rules"}, "data": {"rules.yaml": "mine"}}
    )
    place.model("wine", slo=SLO)
    place.until_ready("wine")
    leader.until_idle()
    assert (config_map(place, "wine") or {})["data"] == {"rules.yaml": "mine"}


def test_an_slo_without_prometheus_says_so(leader: Operator, place: Place) -> None:
    place.model("wine", slo=SLO)
    place.until_reason("ModelDeployment", "wine", "SLOHealthy", "PrometheusNotConfigured")
    assert place.condition("ModelDeployment", "wine", "SLOHealthy")["status"] == "Unknown"


@pytest.fixture(scope="module")
def from_before(plane: ControlPlane, module_leader: Operator) -> Place:
    """A model whose rules an operator made that did not know their kind."""
    place = new_place(plane, "rules-from-before")
    place.model("wine", slo=SLO)
    until("there are rules", lambda: config_map(place, "wine"))
    return place


@pytest.fixture(scope="module")
def with_kind(plane: ControlPlane, module_leader: Operator, from_before: Place) -> Iterator[Operator]:
    """An operator that has been started where there is a Prometheus operator."""
    assert stop(module_leader) == 0
    definitions = [crd("prometheusrules"), crd("podmonitors")]
    plane.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(definitions))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=150s")
    with operator(plane, "rules-kind") as running:
        running.until_idle()
        yield running
        if not running.ended:
            assert stop(running) == 0
    plane.kubectl("delete", "crd", *(each["metadata"]["name"] for each in definitions))


def rule(place: Place, name: str) -> dict[str, Any] | None:
    return place.get("PrometheusRule", name)


def test_where_there_is_the_kind_rules_are_of_it(with_kind: Operator, place: Place) -> None:
    place.model("wine", slo=SLO)
    found = until("there are rules", lambda: rule(place, "wine"))
    assert alerts(found["spec"]["groups"]) == ALERTS
    place.patch("PrometheusRule", "wine", {"spec": {"groups": []}})
    until("they are back", lambda: (rule(place, "wine") or {})["spec"] == found["spec"])
    place.patch("ModelDeployment", "wine", {"spec": {"slo": None}})
    until("they are gone", lambda: rule(place, "wine") is None)
    assert config_map(place, "wine") is None


def test_what_was_a_config_map_becomes_a_rule(with_kind: Operator, from_before: Place) -> None:
    until("there is a rule", lambda: rule(from_before, "wine"))
    until("there is no ConfigMap", lambda: config_map(from_before, "wine") is None)


def test_a_rule_of_somebody_else_is_let_be(with_kind: Operator, place: Place) -> None:
    group = {"name": "mine", "rules": [{"record": "mine:up", "expr": "up"}]}
    mine = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "wine"}}
    place.create({**mine, "spec": {"groups": [group]}})
    place.model("wine", slo=SLO)
    place.until_ready("wine")
    with_kind.until_idle()
    assert [found["name"] for found in (rule(place, "wine") or {})["spec"]["groups"]] == ["mine"]


def test_the_prometheus_operator_takes_our_pod_monitors(with_kind: Operator, plane: ControlPlane) -> None:
    monitors = plane.kubectl("kustomize", str(MANIFESTS / "monitoring" / "podmonitors"))
    plane.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", input=monitors)
