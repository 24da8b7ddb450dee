"""What the store keeps, what it refuses, and whom a change wakes."""

from typing import Any

import pytest

from holdfast.kube.kinds import Key
from holdfast.kube.store import NOBODY, Store

Object = dict[str, Any]

WINE = Key("ModelDeployment", "default", "wine")
RUN = Key("TrainingJob", "default", "run")
SERVICE = Key("Service", "default", "wine")


def metadata(name: str, version: int, uid: str, **more: Any) -> Object:
    return {"name": name, "namespace": "default", "resourceVersion": str(version), "uid": uid, **more}


def model(version: int, *, uid: str = "m1", replicas: int = 1, **more: Any) -> Object:
    spec = {"model": {"uri": "pvc://models/wine"}, "serving": {"replicas": replicas}}
    made = {"kind": "ModelDeployment", "metadata": metadata("wine", version, uid, generation=1), "spec": spec}
    return {**made, **more}


def service(version: int, *, uid: str = "s1", owner: str | None = "m1", port: int = 80, **more: Any) -> Object:
    own: Object = {"labels": {"holdfast.dev/model-deployment": "wine"}}
    if owner:
        reference = {"kind": "ModelDeployment", "name": "wine", "uid": owner, "controller": True}
        own["ownerReferences"] = [reference]
    return {
        "kind": "Service",
        "metadata": {**metadata("wine", version, uid), **own, **more},
        "spec": {"ports": [{"port": port}]},
    }


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_new_custom_resource_wakes_itself(store: Store) -> None:
    assert store.put(model(1)) == {WINE}
    found = store.resource(WINE)
    assert found is not None
    assert (found.uid, found.generation, found.deleting) == ("m1", 1, False)
    assert found.spec["serving"] == {"replicas": 1}


def test_the_same_version_again_wakes_nobody(store: Store) -> None:
    store.put(model(1))
    assert store.put(model(1, replicas=9)) == NOBODY


def test_an_older_version_is_refused(store: Store) -> None:
    store.put(model(5, replicas=5))
    assert store.put(model(4, replicas=4)) == NOBODY
    found = store.resource(WINE)
    assert found is not None
    assert found.spec["serving"] == {"replicas": 5}


def test_a_new_version_without_a_change_of_what_is_kept_wakes_nobody(store: Store) -> None:
    store.put(model(1))
    changed = model(2)
    changed["metadata"]["managedFields"] = [{"manager": "someone"}]
    changed["metadata"]["annotations"] = {"someone": "noted"}
    assert store.put(changed) == NOBODY
    assert store.put(model(2, replicas=2)) == NOBODY  # but the version was taken in
    assert store.put(model(3, replicas=2)) == {WINE}


def test_a_child_wakes_its_owner_when_that_exists(store: Store) -> None:
    assert store.put(service(1)) == NOBODY
    store.put(model(2))
    assert store.put(service(3, port=81)) == {WINE}
    assert [live.spec for live in store.children(WINE, "m1")] == [{"ports": [{"port": 81}]}]


def test_a_child_of_a_former_resource_of_that_name_is_not_a_child(store: Store) -> None:
    store.put(model(1, uid="m2"))
    assert store.put(service(2, owner="m1")) == {WINE}  # it stands in the way: its deletion will matter
    assert store.children(WINE, "m2") == []


def test_an_object_with_our_labels_and_no_controller_is_a_child_to_be_adopted(store: Store) -> None:
    store.put(model(1))
    store.put(service(2, owner=None))
    (live,) = store.children(WINE, "m1")
    assert live.controller is None


def test_an_object_controlled_by_another_kind_is_nobodys_child(store: Store) -> None:
    store.put(model(1))
    reference = {"kind": "Website", "name": "wine", "uid": "w1", "controller": True}
    assert store.put(service(2, ownerReferences=[reference])) == NOBODY
    assert store.children(WINE, "m1") == []


def test_a_deletion_wakes_the_owner_and_forgets(store: Store) -> None:
    store.put(model(1))
    store.put(service(2))
    assert store.remove(SERVICE, 3) == {WINE}
    assert store.child(SERVICE) is None
    assert store.children(WINE, "m1") == []
    assert store.remove(SERVICE, 3) == NOBODY


def test_an_answer_that_comes_after_the_deletion_raises_no_ghost(store: Store) -> None:
    store.put(model(1))
    store.put(service(2))
    store.remove(SERVICE, 9)
    assert store.put(service(5, port=81)) == NOBODY
    assert store.child(SERVICE) is None
    assert store.put(service(10, uid="s2")) == {WINE}  # a new one of that name


def test_a_late_news_of_a_deletion_does_not_remove_the_successor(store: Store) -> None:
    store.put(model(1))
    store.put(service(10, uid="s2"))
    assert store.remove(SERVICE, 9) == NOBODY
    assert store.child(SERVICE) is not None


def test_a_sweep_drops_what_a_full_list_does_not_hold(store: Store) -> None:
    store.put(model(1))
    store.put(service(2))
    assert store.sweep("Service", None, {SERVICE}, 5) == NOBODY
    assert store.sweep("Service", None, set(), 5) == {WINE}
    assert store.child(SERVICE) is None


def test_a_sweep_spares_what_is_newer_than_its_list(store: Store) -> None:
    store.put(service(7))
    store.sweep("Service", None, set(), 5)
    assert store.child(SERVICE) is not None


def test_a_sweep_of_one_namespace_or_kind_leaves_the_others_alone(store: Store) -> None:
    store.put(service(2))
    store.sweep("Service", "elsewhere", set(), 5)
    store.sweep("Deployment", None, set(), 5)
    assert store.child(SERVICE) is not None


def test_a_training_job_wakes_the_models_that_refer_to_it(store: Store) -> None:
    spec = {"model": {"trainingJobRef": {"name": "run"}}}
    store.put(model(1, spec=spec))
    run = {"kind": "TrainingJob", "metadata": metadata("run", 2, "t1", generation=1), "spec": {}}
    assert store.put(run) == {RUN, WINE}
    assert store.put(model(3)) == {WINE}
    done = {**run, "metadata": metadata("run", 4, "t1", generation=1), "status": {"jobName": "x"}}
    assert store.put(done) == {RUN}


def test_the_deletion_of_a_training_job_wakes_the_models_that_refer_to_it(store: Store) -> None:
    store.put(model(1, spec={"model": {"trainingJobRef": {"name": "run"}}}))
    store.put({"kind": "TrainingJob", "metadata": metadata("run", 2, "t1", generation=1), "spec": {}})
    assert store.remove(RUN, 3) == {RUN, WINE}


def test_a_batch_waits_for_what_it_refers_to_until_its_model_is_fixed(store: Store) -> None:
    key = Key("BatchInference", "default", "scores")
    spec = {"model": {"modelDeploymentRef": {"name": "wine"}}}
    batch = {"kind": "BatchInference", "metadata": metadata("scores", 1, "b1", generation=1), "spec": spec}
    store.put(batch)
    assert store.put(model(2)) == {WINE, key}
    store.put({**batch, "metadata": metadata("scores", 3, "b1", generation=1), "status": {"model": {"uri": "x"}}})
    assert store.put(model(4, spec={"suspend": True})) == {WINE}


def test_a_label_on_a_namespace_reserves_it_and_wakes_all_in_it_when_it_goes(store: Store) -> None:
    store.put(model(1))
    namespace = {"kind": "Namespace", "metadata": {"name": "default", "resourceVersion": "2", "uid": "n1"}}
    assert store.put(namespace) == {WINE}
    assert store.is_left_alone("default")
    assert not store.is_left_alone("elsewhere")
    assert store.remove(Key("Namespace", "", "default"), 3) == {WINE}
    assert not store.is_left_alone("default")


def test_a_resource_that_is_being_deleted_says_so(store: Store) -> None:
    store.put(model(1))
    deleting = model(2)
    deleting["metadata"]["deletionTimestamp"] = "2026-11-24T00:00:00Z"
    assert store.put(deleting) == {WINE}
    found = store.resource(WINE)
    assert found is not None
    assert found.deleting


def test_a_healthy_rollouts_conditions_wake_nobody_but_its_counts_do(store: Store) -> None:
    store.put(model(1))

    def deployment(version: int, **status: Any) -> Object:
        made = service(version, uid="d1")
        return {**made, "kind": "Deployment", "spec": {"replicas": 1}, "status": status}

    progress = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetCreated"}
    refused = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota", "lastUpdateTime": "x"}
    assert store.put(deployment(2)) == {WINE}
    assert store.put(deployment(3, observedGeneration=1, conditions=[progress])) == NOBODY
    assert store.put(deployment(4, replicas=1, conditions=[progress])) == {WINE}
    assert store.put(deployment(5, replicas=1, readyReplicas=1, conditions=[progress])) == {WINE}
    assert store.put(deployment(6, replicas=1, readyReplicas=1, conditions=[progress, refused])) == {WINE}
    (live,) = store.children(WINE, "m1")
    assert live.status["conditions"] == [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]


def test_a_thousand_alike_objects_take_little_room(store: Store) -> None:
    for number in range(1000):
        made = service(number + 1, uid=f"s{number}")
        made["metadata"]["name"] = f"wine-{number}"
        made["spec"]["filler"] = ["the same long text in every object " * 10] * 10
        store.put(made)
    packed = [len(entry.packed) for entry in store._entries.values()]
    assert max(packed[1:]) < 200
    live = store.child(Key("Service", "default", "wine-777"))
    assert live is not None
    assert live.uid == "s777"
    assert len(live.spec["filler"]) == 10
