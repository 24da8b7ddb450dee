"""Golden requests that a pod draws of its own are counted like users', counted apart too, and end with the lease."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scipy.stats import binom
from tests.unit.serving import models
from tests.unit.serving.candidate import answer, candidate, right, says
from tests.unit.serving.leases import TARGET, Operator
from tests.unit.serving.server import REVISION, Server, claim, serving, until, write_bundle
from tests.unit.serving.test_load import ROWS, golden
from tests.unit.serving.test_router import KEYS, address, ask
from tests.unit.serving.test_smoke import holding


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with holding(tmp_path_factory.mktemp("three"), ROWS) as server:
        yield server


def settled(operator: Operator) -> dict[str, int]:
    """Requests drawn by arm, once all have ended."""
    operator.grant(weight=0)
    until(lambda: operator.read()["peer"]["inFlight"] == operator.read()["inFlightLocal"] == 0, "answers")
    return {name: operator.arm(name)["drawn"] for name in ("local", "target")}


def test_they_are_drawn_at_the_rate_of_the_lease_and_by_its_weight(three: Server, tmp_path: Path) -> None:
    with serving(tmp_path, models.iris(), HOLDFAST_REVISION=TARGET) as other:
        operator = Operator(three, address(other))
        began = time.monotonic()
        until(  # renewed again and again, which changes nothing
            lambda: operator.grant(weight=0.5, syntheticPerSecond=100)["arms"]["synthetic"] > 300, "300 of them"
        )
        drawn = settled(operator)
        took = time.monotonic() - began
        count = drawn["local"] + drawn["target"]
        assert count <= 100 * took + 1
        assert binom.ppf(5e-7, count, 0.5) <= drawn["target"] <= binom.isf(5e-7, count, 0.5)
        for name in drawn:
            assert operator.outcomes(name) == {"ok": drawn[name]}
        assert operator.read()["arms"]["synthetic"] == count
        assert three.metric("holdfast_router_synthetic_total", revision=TARGET) == count
        time.sleep(0.2)
        assert operator.read()["arms"]["synthetic"] == count  # the lease of now has none


def test_they_end_with_the_lease(three: Server) -> None:
    with candidate(right) as target:
        operator = Operator(three, target.address)
        operator.grant(weight=1, syntheticPerSecond=50, seconds=0.5)
        until(lambda: operator.read()["lease"] is None, "the end")
        count = operator.read()["arms"]["synthetic"]
        assert 0 < count <= 26
        time.sleep(0.3)
        assert operator.read()["arms"]["synthetic"] == count == len(target.asked)


def test_users_requests_beside_them_are_told_apart(three: Server) -> None:
    with candidate(right) as target:
        operator = Operator(three, target.address)
        operator.grant(weight=1, syntheticPerSecond=50)
        assert ask(three, 100) == {(200, TARGET): 100}
        drawn = settled(operator)
        assert drawn["target"] == 100 + operator.read()["arms"]["synthetic"] == len(target.asked)
        assert sum(operator.read()["arms"]["client"]["counts"]) == 100  # no client has waited for the others


def test_what_the_target_fails_on_is_not_run_here_for_nobody(three: Server) -> None:
    with candidate(says(lambda rows: answer(rows, status="500 Oh"))) as target:
        operator = Operator(three, target.address)
        before = three.outcomes()["ok"]
        operator.grant(weight=1, syntheticPerSecond=50)
        until(lambda: len(target.asked) > 10, "golden requests")
        drawn = settled(operator)
        assert drawn == {"local": 0, "target": operator.read()["arms"]["synthetic"]}
        assert operator.outcomes() == {"failed": drawn["target"]}
        assert three.outcomes()["ok"] == before


def test_without_golden_requests_there_are_none_and_the_document_says_why(tmp_path: Path) -> None:
    with serving(tmp_path, models.iris(), **KEYS) as server, candidate(right) as target:
        operator = Operator(server, target.address)
        operator.grant(weight=1, syntheticPerSecond=100)
        time.sleep(0.3)
        found = operator.read()
        assert (found["lease"]["syntheticPerSecond"], found["goldenKept"], found["arms"]["synthetic"]) == (100, 0, 0)
        assert ask(server, 3) == {(200, TARGET): 3}
        assert len(target.asked) == 3


def test_a_lease_without_them_draws_none(three: Server) -> None:
    with candidate(right) as target:
        operator = Operator(three, target.address)
        operator.grant(weight=1)
        time.sleep(0.3)
        assert (operator.read()["arms"]["synthetic"], target.asked) == (0, [])
        assert ask(three, 1) == {(200, TARGET): 1}


def test_neither_counters_nor_drift_of_users_have_them(tmp_path: Path) -> None:
    """Also where they share runs with users' requests, as they do here."""
    place = claim(tmp_path) / "iris"
    place.mkdir()
    profile = {"rows": 9, "features": {}, "prediction": {"labels": [0, 1, 2], "ratios": [0.2, 0.3, 0.5]}}
    (place / "profile.json").write_text(json.dumps(profile))
    digest = write_bundle(place, models.iris(), golden([[6.3, 3.3, 6.0, 2.5]]))  # a 2; users' requests are 0s
    with candidate(right) as target, Server(tmp_path, "pvc://models/iris", digest, **KEYS) as server:
        until(server.ready, "readiness")
        operator = Operator(server, target.address)
        asked = 0
        while operator.grant(weight=0, syntheticPerSecond=100)["arms"]["synthetic"] < 100:
            assert ask(server, 640, 32) == {(200, REVISION): 640}
            asked += 640
        drawn = settled(operator)
        assert drawn == {"local": asked + operator.read()["arms"]["synthetic"], "target": 0}
        assert operator.outcomes("local") == {"ok": drawn["local"]}
        assert server.outcomes()["ok"] == asked
        assert server.metric("holdfast_inference_duration_seconds_count") == asked
        runs = server.metric("holdfast_inference_batch_rows_count")
        assert runs < drawn["local"]
        assert server.metric("holdfast_model_prediction_bin_total", bin="0") == asked
        assert server.metric("holdfast_model_prediction_bin_total", bin="2") == 0
