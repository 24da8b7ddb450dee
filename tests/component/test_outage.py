"""An API server that goes away and comes back."""

from __future__ import annotations

from tests.component.world import Operator, Place, mutations, operator, stop, until

from holdfast_devcluster import ControlPlane


def test_the_operator_goes_on_when_the_api_server_is_back_and_has_deleted_nothing(
    plane: ControlPlane, place: Place
) -> None:
    server = plane.processes["kube-apiserver"]
    with operator(plane, "outage") as first:
        for name in ("one", "two"):
            place.model(name)
            place.until_ready(name)
        first.until_idle()
        server.stop()
        until("the outage is noticed", lambda: "no answer" in first.log.read_text())
        server.start()
        plane.wait_ready()
        if _survived(first):
            _goes_on(place)
            assert stop(first) == 0
    if first.process.returncode != 0:
        # The Lease could not be renewed for too long, on a busy machine: it ends, and the kubelet starts it again.
        assert first.process.returncode == 1
        assert "leadership is lost" in first.last_lines()
        with operator(plane, "outage-again") as second:
            second.until_idle()
            _goes_on(place)
            stop(second)
    deleted = [event for event in mutations(plane) if event["verb"] == "delete"]
    assert [event for event in deleted if event["objectRef"]["namespace"] == place.namespace] == []


def _survived(running: Operator) -> bool:
    """Whether it still leads once it has had the time to find out."""
    until("it leads or has ended", lambda: running.ended or running.idle)
    return not running.ended


def _goes_on(place: Place) -> None:
    place.delete("Service", "one")
    place.patch("ModelDeployment", "two", {"spec": {"serving": {"replicas": 2}}})
    until("the Service is back", lambda: place.get("Service", "one"))
    place.until_ready("two")
    assert place.deployment("two")["spec"]["replicas"] == 2
