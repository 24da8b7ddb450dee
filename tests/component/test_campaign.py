"""A small sample of `make campaign`, whose whole takes a quarter of an hour, and whether it would see what is wrong."""

from __future__ import annotations

import pytest
from bench.campaign import ROLLBACK, TRAINING, Witness, crash_after_every_write, differences, outage
from tests.component.world import Json, Place, until

from holdfast.build import labels
from holdfast_devcluster import ControlPlane

SEED = 1


def revision(place: Place, name: str) -> None:
    """A Deployment as of a revision, made by nobody's operator, whose pod is ready."""
    own = labels.serving_selector("wine", name)
    pod = {"metadata": {"labels": own}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": own}, "template": pod}
    metadata = {"name": f"wine-{name}", "labels": own}
    place.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})

    def ready() -> bool:
        found = place.get("Deployment", f"wine-{name}")
        return bool(found and found["status"].get("readyReplicas"))

    until(f"revision {name} is ready", ready)


def selector(name: str) -> Json:
    return {"spec": {"selector": labels.serving_selector("wine", name)}}


@pytest.fixture
def witness(place: Place) -> Witness:
    """Of a model with two revisions, both ready, and a Service that selects the first."""
    revision(place, "first")
    revision(place, "second")
    service = {"metadata": {"name": "wine", "labels": labels.serving("wine")}}
    spec = {**selector("first")["spec"], "ports": [{"port": 80}]}
    place.create({"apiVersion": "v1", "kind": "Service", **service, "spec": spec})
    return Witness(place)


def test_a_takeover_between_ready_revisions_is_not_wrong(witness: Witness, place: Place) -> None:
    place.patch("Service", "wine", selector("second"))
    place.delete("Deployment", "wine-first")
    assert witness.wrongs() == []


def test_a_deletion_of_what_serves_is_wrong(witness: Witness, place: Place) -> None:
    place.delete("Deployment", "wine-first")
    assert "Deployment wine-first was deleted while Service wine selected it" in witness.wrongs()


def test_a_service_on_a_revision_without_ready_pods_is_wrong(witness: Witness, place: Place) -> None:
    place.patch("Service", "wine", selector("third"))
    place.patch("Service", "wine", selector("first"))
    (wrong,) = witness.wrongs()
    assert "'holdfast.dev/revision': 'third'" in wrong
    assert wrong.endswith("only wine-first, wine-second is ready")


def test_a_deleted_service_is_wrong(witness: Witness, place: Place) -> None:
    place.delete("Service", "wine")
    assert witness.wrongs() == ["Service wine was deleted"]


def test_differences_name_each_place() -> None:
    one = {"a": [1, {"b": 2}], "c": 3, "d": [1]}
    other = {"a": [1, {"b": 4}], "d": [1, 2]}
    assert list(differences(one, other)) == ["/a/1/b: 2 became 4", "/c: 3 became null", "/d: [1] became [1, 2]"]
    assert list(differences(one, one)) == []


def test_a_crash_after_a_write_leaves_no_trace(plane: ControlPlane) -> None:
    result = crash_after_every_write(plane, SEED, "sample", (*ROLLBACK, *TRAINING), quiet=1.0, most=1)
    assert result.points == 1
    assert result.failures == 0, "\n".join(result.wrongs)


def test_an_outage_of_seconds_costs_nothing_that_serves(plane: ControlPlane) -> None:
    result = outage(plane, SEED, 5.0, models=6, touched=2, quiet=2.0)
    assert result.failures == []
