"""Bad versions are taken back, and users hardly notice. `make bench-rollback` is the long form of this."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from bench.bench_rollback import Case, Lane, versions
from tests.e2e.kube import Kube
from tests.e2e.models import start_model_server
from tests.e2e.rollouts import Watch, proxied
from tests.e2e.wine import trained


@pytest.fixture(scope="module")
def lane(kube: Kube) -> Iterator[Lane]:
    wine = trained()
    with proxied(kube) as api, Watch(api, kube.namespace) as watch:
        models = start_model_server(kube, versions(wine))
        # No version here hangs: what takes long is not the version's fault, but that of a busy machine.
        patient = {"request_timeout": 30, "patience": 40, "slo": {"availability": "99.9"}}
        made = Lane(kube, models, wine, watch, "wine", 50, settled=10, aftermath=8, **patient)
        yield made
        made.stop()
    kube("delete", "mdep", "wine", "--wait=false")


def test_a_version_that_fails_on_a_fifth_of_the_requests_never_reaches_users(lane: Lane) -> None:
    result = lane.run(Case("fails-fifth"))
    assert result.get("action") == "Aborted", json.dumps(result)
    assert result["reason"] == "MoreFailures"
    assert result["failed"] == result["wrong"] == 0, json.dumps(result)
    assert result["requests"] > 1000


def test_a_version_that_fails_after_its_promotion_is_rolled_back(lane: Lane) -> None:
    result = lane.run(Case("fails-later", later=True))
    assert result.get("action") == "RolledBack", json.dumps(result)
    assert result["failed"] > 0
    assert result["failed_after_rollback"] == 0, json.dumps(result)
