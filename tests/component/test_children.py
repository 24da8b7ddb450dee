"""What the operator makes of custom resources, and how it keeps it so."""

from __future__ import annotations

from tests.component.test_training import NOWHERE
from tests.component.world import DIGEST, SERVING_IMAGE, Json, Operator, Place, mutations, until

from holdfast_devcluster import ControlPlane


def owner(child: Json) -> Json:
    (reference,) = child["metadata"]["ownerReferences"]
    found: Json = reference
    return found


def test_a_model_gets_its_children_and_serves(leader: Operator, place: Place) -> None:
    created = place.model("wine", serving={"replicas": 2})
    ready = place.until_ready("wine")
    deployment = place.deployment("wine")
    service = place.get("Service", "wine")
    budget = until("the budget is there", lambda: place.get("PodDisruptionBudget", "wine"))
    assert service is not None
    for child in (deployment, service, budget):
        assert owner(child)["uid"] == created["metadata"]["uid"]
        assert owner(child)["controller"] is True
        assert owner(child)["blockOwnerDeletion"] is False
        (manager,) = {m["manager"] for m in child["metadata"]["managedFields"]} - {"kube-controller-manager"}
        assert manager == "holdfast"
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == SERVING_IMAGE
    assert ready["status"]["readyReplicas"] == 2
    assert ready["status"]["stableRevision"] == service["spec"]["selector"]["holdfast.dev/revision"]


def test_the_users_object_is_left_as_it_was_but_for_its_status(leader: Operator, place: Place) -> None:
    created = place.model("wine")
    ready = place.until_ready("wine")
    assert ready["spec"] == created["spec"]
    for part in ("annotations", "labels", "finalizers"):
        assert part not in ready["metadata"]
    assert ready["metadata"]["generation"] == 1


def test_an_event_tells_once_that_it_serves(leader: Operator, place: Place) -> None:
    place.model("wine")
    place.until_ready("wine")

    def told() -> list[Json]:
        events = [e for e in place.all("Event") if e["involvedObject"]["kind"] == "ModelDeployment"]
        return [event for event in events if event["reason"] == "Serving"]

    until("an Event is there", told)
    leader.until_idle()
    [event] = told()
    assert event["type"] == "Normal"
    assert event["source"]["component"] == "holdfast"


def test_a_deleted_service_is_back_at_once(leader: Operator, place: Place) -> None:
    place.model("wine")
    place.until_ready("wine")
    before = place.get("Service", "wine")
    assert before is not None
    place.delete("Service", "wine")

    def back() -> Json | None:
        found = place.get("Service", "wine")
        return found if found and found["metadata"]["uid"] != before["metadata"]["uid"] else None

    assert until("the Service is back", back)["spec"]["selector"] == before["spec"]["selector"]


def test_what_others_change_in_a_child_is_put_back(leader: Operator, place: Place) -> None:
    place.model("wine")
    place.until_ready("wine")
    name = place.deployment("wine")["metadata"]["name"]
    place.patch("Deployment", name, {"spec": {"replicas": 5}})
    until("replicas are put back", lambda: place.deployment("wine")["spec"]["replicas"] == 1)
    place.patch("Service", "wine", {"spec": {"selector": {"nobody": "has-it"}}})

    def selector() -> Json:
        found = place.get("Service", "wine")
        assert found is not None
        selected: Json = found["spec"]["selector"]
        return selected

    until("the selector is put back", lambda: "nobody" not in selector())
    assert "holdfast.dev/revision" in selector()


def test_a_child_that_lost_the_label_by_which_it_is_watched_gets_it_again(leader: Operator, place: Place) -> None:
    place.model("wine")
    place.until_ready("wine")
    before = place.get("Service", "wine")
    assert before is not None
    place.patch("Service", "wine", {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}})

    def labelled() -> Json | None:
        found = place.get("Service", "wine")
        return found if found and "app.kubernetes.io/managed-by" in found["metadata"]["labels"] else None

    found = until("the label is back", labelled)
    assert found["metadata"]["uid"] == before["metadata"]["uid"]


def test_a_status_that_somebody_wiped_is_written_again(leader: Operator, place: Place) -> None:
    place.model("wine")
    before = place.until_ready("wine")["status"]
    place.patch("ModelDeployment", "wine", {"status": None}, "status")
    after = place.until_ready("wine")["status"]
    assert after["stableRevision"] == before["stableRevision"]
    assert after["model"] == before["model"]


def test_a_change_of_the_scale_reaches_the_child_and_makes_no_revision(leader: Operator, place: Place) -> None:
    place.model("wine")
    place.until_ready("wine")
    before = place.deployment("wine")
    place.patch("ModelDeployment", "wine", {"spec": {"replicas": 3}}, "scale")
    until("the change is there", lambda: place.deployment("wine")["spec"]["replicas"] == 3)
    assert place.deployment("wine")["metadata"]["uid"] == before["metadata"]["uid"]
    place.until_ready("wine")
    assert place.get("PodDisruptionBudget", "wine") is not None
    place.patch("ModelDeployment", "wine", {"spec": {"serving": {"replicas": 1}}})
    until("one pod needs no budget", lambda: place.get("PodDisruptionBudget", "wine") is None)


def test_a_new_model_takes_over(leader: Operator, place: Place) -> None:
    """That the pods of the old one go once they are drained is waited for in the samples of the campaign."""
    place.model("wine")
    before = place.until_ready("wine")["status"]["stableRevision"]
    place.patch("ModelDeployment", "wine", {"spec": {"model": {"digest": "sha256:" + "1" * 64}}})
    after = place.until_ready("wine")["status"]["stableRevision"]
    assert after != before
    assert (place.get("Service", "wine") or {})["spec"]["selector"]["holdfast.dev/revision"] == after


def test_a_values_of_a_config_map_is_read_into_the_revision(leader: Operator, place: Place) -> None:
    reference = {"configMapKeyRef": {"name": "wine-env", "key": "level"}}
    place.model("wine", serving={"env": [{"name": "LOG_LEVEL", "valueFrom": reference}]})
    place.until_reason("ModelDeployment", "wine", "Ready", "ConfigMapNotFound")
    assert place.deployments("wine") == []
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "wine-env"}, "data": {"level": "debug"}}
    place.create(config)
    place.until_ready("wine")
    env = place.deployment("wine")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "LOG_LEVEL", "value": "debug"} in env


def test_an_object_of_somebody_else_is_never_touched(leader: Operator, place: Place) -> None:
    selector = {"selector": {"app": "other"}, "ports": [{"port": 1234}]}
    foreign = place.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "wine"}, "spec": selector})
    place.model("wine")
    stalled = place.until_reason("ModelDeployment", "wine", "Stalled", "NameConflict")
    assert "Service wine exists and belongs to nobody" in stalled["message"]
    assert place.get("Service", "wine") == foreign
    place.delete("Service", "wine")
    place.until_ready("wine")
    assert place.condition("ModelDeployment", "wine", "Stalled") == {}


def test_a_deployment_with_our_labels_under_another_controller_is_never_touched(leader: Operator, place: Place) -> None:
    place.model("wine")
    place.until_ready("wine")
    ours = place.deployment("wine")
    name = ours["metadata"]["name"]
    website = {"apiVersion": "example.com/v1", "kind": "Website", "name": "www", "uid": "w", "controller": True}
    taken = place.patch("Deployment", name, {"metadata": {"ownerReferences": [website]}})
    stalled = place.until_reason("ModelDeployment", "wine", "Stalled", "NameConflict")
    assert f"Deployment {name} exists and belongs to Website www" in stalled["message"]
    now = place.get("Deployment", name)
    assert now is not None
    assert now["metadata"]["ownerReferences"] == [website]
    assert now["metadata"]["uid"] == taken["metadata"]["uid"]
    assert now["metadata"]["generation"] == taken["metadata"]["generation"]


def test_a_budget_of_somebody_else_is_never_touched(leader: Operator, place: Place) -> None:
    budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "wine"}}
    place.create({**budget, "spec": {"maxUnavailable": 7, "selector": {"matchLabels": {"app": "other"}}}})
    place.model("wine", serving={"replicas": 2})
    stalled = place.until_reason("ModelDeployment", "wine", "Stalled", "NameConflict")
    assert "PodDisruptionBudget wine exists and belongs to nobody" in stalled["message"]
    found = place.get("PodDisruptionBudget", "wine")
    assert found is not None
    assert found["spec"]["maxUnavailable"] == 7


def test_a_refusal_by_a_quota_is_told_and_ends_with_the_quota(leader: Operator, place: Place) -> None:
    quota = {"hard": {"count/deployments.apps": "0"}}
    place.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": quota})
    until("the quota counts", lambda: (place.get("ResourceQuota", "none") or {}).get("status", {}).get("used"))
    place.model("wine")
    refused = place.until_reason("ModelDeployment", "wine", "Ready", "QuotaExceeded")
    assert "exceeded quota: none" in refused["message"]
    place.delete("ResourceQuota", "none")
    place.until_ready("wine")


def test_pods_without_a_node_are_explained_in_the_schedulers_words(leader: Operator, place: Place) -> None:
    place.model("wine", serving={"nodeSelector": {"disk": "none-has-it"}})
    told = place.until_reason("ModelDeployment", "wine", "Ready", "Unschedulable")
    assert "node(s) didn't match Pod's node affinity/selector" in told["message"]


def test_a_namespace_that_is_reserved_for_its_own_operator_is_left_alone(leader: Operator, place: Place) -> None:
    reserved = leader.metric("holdfast_objects", kind="Namespace")
    place.patch("Namespace", place.namespace, {"metadata": {"labels": {"holdfast.dev/operator": "namespaced"}}})
    leader.until("the label is seen", lambda: leader.metric("holdfast_objects", kind="Namespace") > reserved)
    place.model("wine")
    leader.until_idle()
    found = place.get("ModelDeployment", "wine")
    assert found is not None
    assert found["status"] == {"observedGeneration": -1}
    assert place.deployments("wine") == []
    place.patch("Namespace", place.namespace, {"metadata": {"labels": {"holdfast.dev/operator": None}}})
    place.until_ready("wine")


# --- The garbage collector learns of our kinds half a minute after the start: these come last ---


def test_a_deleted_model_takes_its_children_with_it_and_they_are_not_made_again(leader: Operator, place: Place) -> None:
    place.model("wine")
    place.until_ready("wine")
    place.delete("ModelDeployment", "wine", propagationPolicy="Foreground")
    until("the Service is gone", lambda: not place.get("Service", "wine"))
    until("the Deployment is gone", lambda: not place.deployments("wine"))
    leader.until_idle()
    assert place.get("Service", "wine") is None
    assert place.deployments("wine") == []


def test_children_that_were_orphaned_are_adopted_by_a_model_of_the_same_name(leader: Operator, place: Place) -> None:
    place.model("wine")
    place.until_ready("wine")
    before = place.deployment("wine")
    place.delete("ModelDeployment", "wine", propagationPolicy="Orphan")
    until("the model is gone", lambda: not place.get("ModelDeployment", "wine"))
    created = place.model("wine")
    place.until_ready("wine")
    adopted = place.deployment("wine")
    service = place.get("Service", "wine")
    assert service is not None
    assert adopted["metadata"]["uid"] == before["metadata"]["uid"]
    assert owner(adopted)["uid"] == owner(service)["uid"] == created["metadata"]["uid"]
    assert adopted["metadata"]["generation"] == before["metadata"]["generation"]


def test_every_log_line_is_json_and_every_write_to_a_child_has_one(leader: Operator, plane: ControlPlane) -> None:
    leader.until_idle()
    lines = leader.logged()
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    assert not [line for line in lines if "trace" in line]
    told = {line["child"].split(" ")[1] for line in lines if "child" in line}
    children = {"deployments", "services", "jobs", "poddisruptionbudgets"}
    written = {
        f"{event['objectRef']['namespace']}/{event['objectRef']['name']}"
        for event in mutations(plane, leader.name)
        if event["objectRef"]["resource"] in children and event["responseStatus"]["code"] < 300
    }
    assert written == told


def test_a_missing_service_account_is_said_in_words_and_healed_by_itself(leader: Operator, place: Place) -> None:
    place.model("resolved", model={"uri": "s3://models/wine"}, serving={"serviceAccountName": "wine"})
    place.model("pinned", serving={"serviceAccountName": "wine"})
    for name in ("resolved", "pinned"):
        ready = place.until_reason("ModelDeployment", name, "Ready", "ServiceAccountNotFound")
        assert "ServiceAccount wine does not exist in this namespace; create it" in ready["message"]
    place.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "wine"}})
    place.until_ready("pinned")


# --- Records --------------------------------------------------------------------------------------------------------

OTHER_DIGEST = "sha256:" + "1" * 64


def record_of(place: Place, name: str) -> Json:
    """The record of the stable revision."""
    revision = place.until_ready(name)["status"]["stableRevision"]
    found = until("the record is there", lambda: place.get("ControllerRevision", f"{name}-{revision}"))
    return dict(found)


def test_a_revision_that_serves_is_kept_whole_in_a_record(leader: Operator, place: Place) -> None:
    created = place.model("wine")
    record = record_of(place, "wine")
    deployment = place.deployment("wine")
    assert owner(record)["uid"] == created["metadata"]["uid"]
    assert record["metadata"]["annotations"]["holdfast.dev/verdict"] == "Promoted"
    assert record["data"]["intent"] == deployment["metadata"]["annotations"]["holdfast.dev/intent"]
    containers = record["data"]["template"]["spec"]["containers"]
    assert containers[0]["image"] == deployment["spec"]["template"]["spec"]["containers"][0]["image"]


def test_records_that_nobody_needs_any_more_are_removed(leader: Operator, place: Place) -> None:
    place.model("wine")
    record = record_of(place, "wine")
    for number in range(12):
        metadata = {
            "name": f"wine-{number:010x}",
            "labels": record["metadata"]["labels"] | {"holdfast.dev/revision": f"{number:010x}"},
            "ownerReferences": record["metadata"]["ownerReferences"],
        }
        data = record["data"] | {"intent": str(number)}
        old = {"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata, "data": data}
        place.create({**old, "revision": number})
    until("ten and the one that serves are left", lambda: len(place.all("ControllerRevision")) == 11)
    assert place.get("ControllerRevision", record["metadata"]["name"])


def test_a_record_of_somebody_else_is_never_touched(leader: Operator, place: Place) -> None:
    place.model("wine")
    first = record_of(place, "wine")["metadata"]["name"]

    def candidate() -> str | None:
        return next((d["metadata"]["name"] for d in place.deployments("wine") if d["metadata"]["name"] != first), None)

    other = {"spec": {"model": {"digest": OTHER_DIGEST}, "serving": {"nodeSelector": NOWHERE}}}
    place.patch("ModelDeployment", "wine", other)
    taken = until("another one is tried", candidate)
    place.patch("ModelDeployment", "wine", {"spec": {"model": {"digest": DIGEST}, "serving": None}})
    until("it is not wanted any more", lambda: candidate() is None)
    place.until_ready("wine")
    place.delete("ControllerRevision", taken)
    foreign = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {"name": taken},
        "data": {},
        "revision": 7,
    }
    before = place.create(foreign)
    place.patch("ModelDeployment", "wine", other)
    ready = until("the conflict is told", lambda: place.condition("ModelDeployment", "wine", "Stalled"))
    assert ready["reason"] == "NameConflict"
    assert taken in ready["message"]
    assert place.get("ControllerRevision", taken) == before
