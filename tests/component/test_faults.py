"""Broken watches, lost answers, an API server that comes and goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from tests.component.proxy import Asked, Fault, Proxy, proxied
from tests.component.world import SYSTEM, Json, Operator, Place, mutations, operator, stop, until

from holdfast_devcluster import ControlPlane


@pytest.fixture(scope="module")
def proxy(plane: ControlPlane) -> Iterator[Proxy]:
    with proxied(plane, "faults") as running:
        yield running


@pytest.fixture(scope="module")
def module_leader(plane: ControlPlane, proxy: Proxy) -> Iterator[Operator]:
    """An operator behind the proxy."""
    with operator(plane, "faults", KUBECONFIG=str(proxy.kubeconfig)) as running:
        yield running
        if not running.ended:
            assert stop(running) == 0


@pytest.fixture(autouse=True)
def mended(proxy: Proxy) -> Iterator[None]:
    """Each test ends without faults."""
    yield
    proxy.rule = lambda asked: None


def test_a_child_that_vanished_in_a_gap_of_its_watch_is_back_at_once(
    leader: Operator, proxy: Proxy, place: Place
) -> None:
    place.model("wine")
    place.until_ready("wine")
    before = place.get("Service", "wine")
    assert before is not None
    gaps = leader.metric("holdfast_resyncs_total", kind="Service", cause="gap")
    hidden = True

    def no_service_watch(asked: Asked) -> Fault | None:
        if asked.path != "/api/v1/services":
            return None
        if hidden:
            return Fault.UNAVAILABLE
        # The version from which it would go on watching is too old: deletions before now are nowhere told.
        return Fault.GONE if asked.watch and not relisted() else None

    def relisted() -> bool:
        return leader.metric("holdfast_resyncs_total", kind="Service", cause="gap") > gaps

    proxy.rule = no_service_watch
    proxy.cut_watches("/api/v1/services")
    place.delete("Service", "wine")
    hidden = False

    def back() -> Json | None:
        found = place.get("Service", "wine")
        return found if found and found["metadata"]["uid"] != before["metadata"]["uid"] else None

    until("the Service is back", back)
    assert relisted()


def test_answers_that_are_lost_make_nothing_twice(
    leader: Operator, proxy: Proxy, place: Place, plane: ControlPlane
) -> None:
    lost: Counter[tuple[str, str]] = Counter()

    def first_answer_of_each(asked: Asked) -> Fault | None:
        if asked.method == "GET" or "/leases" in asked.path or place.namespace not in asked.path:
            return None
        lost[asked.method, asked.path] += 1
        return Fault.LOSE_ANSWER if lost[asked.method, asked.path] == 1 else None

    proxy.rule = first_answer_of_each
    place.model("wine", serving={"replicas": 2})
    place.run("wine", nodeSelector={"disk": "none-has-it"})
    place.until_ready("wine")
    until("the budget is there", lambda: place.get("PodDisruptionBudget", "wine"))
    until("the run has a status", lambda: place.condition("TrainingJob", "wine", "Succeeded"))
    until("the record is there", lambda: place.all("ControllerRevision"))
    assert len(lost) >= 7  # of five children and two statuses
    made: Counter[tuple[str, str]] = Counter()
    for event in mutations(plane, leader.name):
        about = event["objectRef"]
        if about["namespace"] == place.namespace and event["responseStatus"]["code"] == 201:
            made[about["resource"], about["name"]] += 1
    kinds = Counter(resource for resource, _ in made if resource != "events")
    assert kinds == {"deployments": 1, "services": 1, "poddisruptionbudgets": 1, "jobs": 1, "controllerrevisions": 1}
    assert set(made.values()) == {1}
    assert len(place.all("Job")) == 1


def test_an_api_server_that_answers_503_for_seconds_ends_nothing_and_loses_nothing(
    leader: Operator, proxy: Proxy, place: Place, plane: ControlPlane
) -> None:
    place.model("wine")
    place.until_ready("wine")
    failing: Counter[str] = Counter()

    def all_but_the_lease(asked: Asked) -> Fault | None:
        failing["watches" if asked.watch else "others"] += 1
        return None if "/leases" in asked.path else Fault.UNAVAILABLE

    proxy.rule = all_but_the_lease
    proxy.cut_watches("")
    place.patch("ModelDeployment", "wine", {"spec": {"serving": {"replicas": 2}}})
    until("watches have failed several times", lambda: failing["watches"] > 15)
    assert not leader.ended
    proxy.rule = lambda asked: None
    place.until_ready("wine")
    assert place.deployment("wine")["spec"]["replicas"] == 2
    deleted = [event["objectRef"] for event in mutations(plane, leader.name) if event["verb"] == "delete"]
    assert [each for each in deleted if each["namespace"] == place.namespace] == []  # elsewhere, warm revisions end


def test_a_watch_that_is_refused_shows_in_health_and_a_standstill_does_not_last(
    leader: Operator, proxy: Proxy, place: Place
) -> None:
    place.model("wine")
    place.until_ready("wine")
    proxy.rule = lambda asked: Fault.UNAVAILABLE if asked.watch and "deployments" in asked.path else None
    proxy.cut_watches("deployments")
    age = {"kind": "Deployment"}
    until("the age grows", lambda: leader.metric("holdfast_watch_age_seconds", **age) > 3)
    assert leader.metric("holdfast_watch_age_seconds", kind="Service") < 90
    proxy.rule = lambda asked: None
    until("it is young again", lambda: leader.metric("holdfast_watch_age_seconds", **age) < 3)


def test_an_error_that_kopf_takes_for_fatal_ends_the_process_and_frees_the_lease(
    leader: Operator, proxy: Proxy, plane: ControlPlane
) -> None:
    leader.until_idle()
    proxy.rule = lambda asked: Fault.BROKEN if asked.watch and "deployments" in asked.path else None
    proxy.cut_watches("/apps/v1/deployments")
    until("the process has ended", lambda: leader.ended)
    assert leader.process.returncode == 1
    lease = Place(plane, SYSTEM).get("Lease", "holdfast-operator")
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == ""
