"""An operator for some namespaces, with rights in these alone."""

from __future__ import annotations

from tests.component.world import Place, install, operator, requests, stop, until

from holdfast_devcluster import ControlPlane


def test_it_serves_its_namespaces_and_asks_for_nothing_else(plane: ControlPlane, place: Place) -> None:
    models = Place(plane, "models")
    if models.get("Namespace", "models") is None:
        models.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "models"}})
    plane.kubectl("delete", "clusterrolebinding", "holdfast-operator")
    try:
        install("namespaced", plane)
        with operator(plane, "namespaced", HOLDFAST_NAMESPACES="models") as running:
            running.until_idle()
            models.model("wine")
            place.model("wine")
            models.until_ready("wine")
            running.until_idle()
            assert place.deployments("wine") == []
            assert place.condition("ModelDeployment", "wine", "Ready") == {}
            models.delete("Service", "wine")
            until("the Service is back", lambda: models.get("Service", "wine"))
            assert running.probe("/readyz")[0] == 200
            assert stop(running) == 0
        asked = list(requests(plane, "namespaced"))
        assert [event for event in asked if event["responseStatus"]["code"] in {401, 403}] == []
        reached = {event["objectRef"].get("namespace") for event in asked if "objectRef" in event}
        assert reached == {"models", "holdfast-system"}
    finally:
        plane.kubectl("delete", "--namespace=models", "modeldeployment", "--all")
        plane.kubectl("delete", "--namespace=models", "rolebinding,role", "holdfast-operator")
        install("base", plane)
