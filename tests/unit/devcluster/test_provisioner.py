from pathlib import Path
from typing import Any

import pytest

from holdfast_devcluster import provisioner


def claim(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "data",
            "namespace": "default",
            "uid": "12",
            "annotations": {
                "volume.kubernetes.io/storage-provisioner": provisioner.NAME,
                "volume.kubernetes.io/selected-node": "node-1",
            },
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "standard",
            **spec,
        },
    }


def volume(phase: str = "Released", policy: str = "Delete", by: str = provisioner.NAME) -> dict[str, Any]:
    return {
        "metadata": {"name": "pvc-12", "annotations": {"pv.kubernetes.io/provisioned-by": by}},
        "spec": {"persistentVolumeReclaimPolicy": policy},
        "status": {"phase": phase},
    }


def test_a_claim_gets_its_volume_once_a_pod_that_uses_it_has_a_node() -> None:
    waiting = claim()
    del waiting["metadata"]["annotations"]["volume.kubernetes.io/selected-node"]
    assert not provisioner.wants_volume(waiting)
    assert provisioner.wants_volume(claim())
    assert not provisioner.wants_volume(claim(volumeName="pvc-12"))


def test_a_claim_of_another_provisioner_is_left_alone() -> None:
    other = claim()
    other["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"] = "example.com/disks"
    assert not provisioner.wants_volume(other)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [({"accessModes": ["ReadWriteMany"]}, "not ReadWriteMany"), ({"volumeMode": "Block"}, "not Block")],
)
def test_what_a_folder_cannot_be_is_refused_in_words(spec: dict[str, Any], reason: str) -> None:
    assert reason in str(provisioner.refusal(claim(**spec)))
    assert provisioner.refusal(claim()) is None


def test_a_volume_is_bound_to_its_claim_and_to_the_node_with_the_folder() -> None:
    made = provisioner.volume_for(claim(), Path("folder/pvc-12"))["spec"]
    assert made["claimRef"]["uid"] == "12"
    assert made["local"] == {"path": "folder/pvc-12"}
    (term,) = made["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == ["node-1"]


def test_only_our_own_released_volumes_are_deleted() -> None:
    assert provisioner.is_ours_to_delete(volume())
    assert not provisioner.is_ours_to_delete(volume(phase="Bound"))
    assert not provisioner.is_ours_to_delete(volume(policy="Retain"))
    assert not provisioner.is_ours_to_delete(volume(by="example.com/disks"))
