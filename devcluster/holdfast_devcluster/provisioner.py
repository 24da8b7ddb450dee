"""The embedded cluster's default StorageClass: a folder on the node for every claim.

A `local` volume, not a hostPath: the kubelet gives it to the pod's fsGroup, so non-root pods can write to it
and others cannot.
"""

import argparse
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from holdfast_devcluster.api import ApiError, Client, Json
from holdfast_devcluster.certificates import Pair

NAME = "holdfast.dev/local"
CLASS = "standard"
WATCH_SECONDS = 300
RETRY_SECONDS = 1.0
SUPPORTED_MODES = {"ReadWriteOnce", "ReadWriteOncePod"}


def storage_class() -> Json:
    """The StorageClass object."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": NAME,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def wants_volume(claim: Json) -> bool:
    """Is it now our turn to make a volume for this claim?"""
    annotations = claim["metadata"].get("annotations", {})
    return (
        annotations.get("volume.kubernetes.io/storage-provisioner") == NAME
        and bool(annotations.get("volume.kubernetes.io/selected-node"))
        and not claim["spec"].get("volumeName")
        and not claim["metadata"].get("deletionTimestamp")
    )


def refusal(claim: Json) -> str | None:
    """Why this claim gets no volume, in words; None when it gets one."""
    if claim["spec"].get("volumeMode", "Filesystem") != "Filesystem":
        return f"{NAME} makes Filesystem volumes only, not {claim['spec']['volumeMode']}"
    if other := set(claim["spec"]["accessModes"]) - SUPPORTED_MODES:
        return f"{NAME} volumes are ReadWriteOnce, not {', '.join(sorted(other))}"
    return None


def volume_for(claim: Json, folder: Path) -> Json:
    """The PersistentVolume for `claim` at `folder`."""
    metadata = claim["metadata"]
    node = metadata["annotations"]["volume.kubernetes.io/selected-node"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": f"pvc-{metadata['uid']}",
            "annotations": {"pv.kubernetes.io/provisioned-by": NAME},
        },
        "spec": {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": claim["spec"]["storageClassName"],
            "volumeMode": "Filesystem",
            "local": {"path": str(folder)},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "nodeAffinity": {
                "required": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
                    ]
                }
            },
        },
    }


def is_ours_to_delete(volume: Json) -> bool:
    """Has this volume lost its claim for good?"""
    return (
        volume["metadata"].get("annotations", {}).get("pv.kubernetes.io/provisioned-by") == NAME
        and volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        and volume.get("status", {}).get("phase") == "Released"
        and not volume["metadata"].get("deletionTimestamp")
    )


class Provisioner:
    """Makes and removes volumes below `folder`."""

    def __init__(self, api: Client, folder: Path) -> None:
        self._api = api
        self._folder = folder

    def claim(self, claim: Json) -> None:
        if not wants_volume(claim):
            return
        if reason := refusal(claim):
            self._complain(claim, reason)
            return
        path = self._folder / f"pvc-{claim['metadata']['uid']}"
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o770)
        try:
            self._api.request("POST", "/api/v1/persistentvolumes", volume_for(claim, path))
        except ApiError as error:
            if error.status != 409:
                raise

    def volume(self, volume: Json) -> None:
        if not is_ours_to_delete(volume):
            return
        name = volume["metadata"]["name"]
        shutil.rmtree(self._folder / name, ignore_errors=True)
        self._api.request("DELETE", f"/api/v1/persistentvolumes/{name}")

    def _complain(self, claim: Json, reason: str) -> None:
        metadata = claim["metadata"]
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._api.request(
            "POST",
            f"/api/v1/namespaces/{metadata['namespace']}/events",
            {
                "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
                "involvedObject": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "namespace": metadata["namespace"],
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                },
                "type": "Warning",
                "reason": "ProvisioningFailed",
                "message": reason,
                "source": {"component": NAME},
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
            },
        )


def follow(api: Client, resource: str, handle: Any) -> None:
    """Call `handle` for every object of a kind now and whenever it changes, for ever."""
    while True:
        try:
            # Without a resourceVersion a watch begins with everything there is.
            for event in api.watch(f"/api/v1/{resource}?timeoutSeconds={WATCH_SECONDS}"):
                if event["type"] in ("ADDED", "MODIFIED"):
                    handle(event["object"])
        except (ApiError, OSError, ValueError) as error:
            print(f"{resource}: {error}; trying again", flush=True)
        time.sleep(RETRY_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--pki", type=Path, required=True, help="folder with ca.crt, provisioner.crt and .key")
    parser.add_argument("--folder", type=Path, required=True, help="where volumes are made")
    options = parser.parse_args()
    pair = Pair(options.pki / "provisioner.crt", options.pki / "provisioner.key")
    api = Client(options.server, options.pki / "ca.crt", pair, timeout=WATCH_SECONDS + 30)
    provisioner = Provisioner(api, options.folder)
    threading.Thread(target=follow, args=(api, "persistentvolumeclaims", provisioner.claim), daemon=True).start()
    follow(api, "persistentvolumes", provisioner.volume)


if __name__ == "__main__":
    main()
