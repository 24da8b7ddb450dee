"""The rules beside a model with objectives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.unit.plan import worlds
from tests.unit.plan.world import Key, World

SLO = {"availability": "99.9", "windowDays": 30}
CONFIG_MAP, RULE = ("ConfigMap", "wine-rules"), ("PrometheusRule", "wine")


def rules_of(world: World) -> set[Key]:
    return {key for key in world.children if key[0] in {"ConfigMap", "PrometheusRule"}}


def serving(**spec: Any) -> World:
    world = worlds.serving()
    world.change(**spec)
    world.converge()
    return world


def test_without_objectives_there_are_none() -> None:
    assert rules_of(serving()) == set()


def test_they_are_of_the_kind_that_the_cluster_has_and_the_other_goes() -> None:
    world = serving(slo=SLO)
    assert rules_of(world) == {CONFIG_MAP}
    for has, wanted in ((True, RULE), (False, CONFIG_MAP)):
        world.settings = replace(world.settings, prometheus_rules=has)
        world.converge()
        assert rules_of(world) == {wanted}
    world.change(slo=None)
    world.converge()
    assert rules_of(world) == set()


def test_a_change_of_the_objectives_changes_nothing_else() -> None:
    world = serving(slo=SLO)
    others = {key: child for key, child in world.children.items() if key != CONFIG_MAP}
    before = world.children[CONFIG_MAP]["spec"]
    world.change(slo={**SLO, "availability": "99"})
    world.converge()
    assert world.children[CONFIG_MAP]["spec"] != before
    assert {key: child for key, child in world.children.items() if key != CONFIG_MAP} == others


def test_an_object_of_somebody_else_under_their_name_is_let_be() -> None:
    world = worlds.serving()
    world.foreign.add(CONFIG_MAP)
    world.change(slo=SLO)
    world.converge()
    assert rules_of(world) == set()
    assert world.says("Ready") == ("True", "Serving")


def test_while_suspended_they_stay_as_they_are() -> None:
    world = serving(slo=SLO)
    before = world.children[CONFIG_MAP]["spec"]
    world.change(suspend=True, slo={**SLO, "availability": "99"})
    world.converge()
    assert world.children[CONFIG_MAP]["spec"] == before


def test_what_is_watched_is_alerted_about_also_without_objectives() -> None:
    world = serving(monitoring={"performance": {}})
    assert rules_of(world) == {CONFIG_MAP}
    text = world.children[CONFIG_MAP]["spec"]["data"]["rules.yaml"]
    assert "HoldfastAccuracyDrop" in text
    assert "HoldfastDrift" not in text
    world.change(monitoring={"drift": {}})
    world.converge()
    text = world.children[CONFIG_MAP]["spec"]["data"]["rules.yaml"]
    assert "HoldfastDrift" in text
    assert "HoldfastAccuracyDrop" not in text
    world.change(monitoring=None)
    world.converge()
    assert rules_of(world) == set()


def test_retraining_is_alerted_about() -> None:
    data = {"data": {"uri": "pvc://lake/wine.csv"}, "target": "quality", "task": "Classification"}
    template = {**data, "estimators": [{"name": "GaussianNB"}], "output": {"uri": "pvc://models/wine"}}
    world = serving(retraining={"template": {"spec": template}})
    assert "HoldfastRetrainingFailed" in world.children[CONFIG_MAP]["spec"]["data"]["rules.yaml"]
