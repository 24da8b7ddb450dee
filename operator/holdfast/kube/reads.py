"""What plans need beyond the store: pods, claims and ConfigMap keys, read only when a plan asks for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from holdfast.build.owntrainer import OWN_TRAINER
from holdfast.kube import doing, errors
from holdfast.kube.client import Client
from holdfast.kube.kinds import CLAIM, CONFIG_MAP, EVENT, OWNERS, POD, Key, controller_of
from holdfast.plan.observed import Claim, Pod

MOUNT_REASONS = frozenset({"FailedMount", "FailedAttachVolume"})
REFUSAL_REASONS = frozenset({"FailedCreate"})
MAX_MOUNT_LOOKUPS = 3
"""Pods of one Deployment hang for one reason."""

Object = Mapping[str, Any]


class Reader:
    """Reads at the API server. Methods raise errors.ApiError."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def pods(self, owner: Key) -> tuple[Pod, ...]:
        """All pods of a custom resource."""
        label = OWNERS[owner.kind].owner_label
        raws = await self._client.list(POD, owner.namespace, selector=f"{label}={owner.name}")
        hanging = [raw for raw in raws if _hangs(raw)][:MAX_MOUNT_LOOKUPS]
        words = {raw["metadata"]["uid"]: await self._mount_message(raw) for raw in hanging}
        told = await doing.words(raws)
        uids = [raw["metadata"]["uid"] for raw in raws]
        return tuple(pod(raw, words.get(uid), told.get(uid)) for raw, uid in zip(raws, uids, strict=True))

    async def claims(self, namespace: str, names: Iterable[str]) -> tuple[Claim, ...]:
        return tuple([await self._claim(namespace, name) for name in sorted(names)])

    async def config_map_keys(
        self, namespace: str, keys: Iterable[tuple[str, str]]
    ) -> Mapping[tuple[str, str], str | None]:
        """The values of (ConfigMap, key) pairs; None where the one or the other is missing."""
        values: dict[tuple[str, str], str | None] = {}
        data: dict[str, Mapping[str, str]] = {}
        for name, key in sorted(keys):
            if name not in data:
                try:
                    data[name] = (await self._client.get(CONFIG_MAP, namespace, name)).get("data") or {}
                except errors.NotFound:
                    data[name] = {}
            values[name, key] = data[name].get(key)
        return values

    async def refusals(self, namespace: str, uids: Iterable[str]) -> Mapping[str, str]:
        """Why Jobs cannot create pods, by uid: the newest word of the API server's. Jobs keep none in their status."""
        words = {uid: await self._warning(namespace, uid, REFUSAL_REASONS) for uid in sorted(uids)}
        return {uid: word for uid, word in words.items() if word is not None}

    async def _claim(self, namespace: str, name: str) -> Claim:
        try:
            raw = await self._client.get(CLAIM, namespace, name)
        except errors.NotFound:
            return Claim(name, exists=False)
        modes = tuple(raw["spec"].get("accessModes") or ())
        return Claim(name, exists=True, access_modes=modes, phase=(raw.get("status") or {}).get("phase", ""))

    async def _mount_message(self, raw: Object) -> str | None:
        metadata = raw["metadata"]
        return await self._warning(metadata["namespace"], metadata["uid"], MOUNT_REASONS)

    async def _warning(self, namespace: str, uid: str, reasons: Collection[str]) -> str | None:
        """The newest Warning Event about an object, for one of these reasons."""
        events = await self._client.list(EVENT, namespace, fields=f"involvedObject.uid={uid},type=Warning")
        told = [event for event in events if event.get("reason") in reasons]
        newest = max(told, key=lambda event: event.get("lastTimestamp") or "", default=None)
        return str(newest["message"]) if newest else None


def pod(raw: Object, mount_message: str | None = None, doing: str | None = None) -> Pod:
    """What a plan sees of a pod. Our pods have one container, before which steps may have their turn."""
    metadata, status = raw["metadata"], raw.get("status") or {}
    controller = controller_of(metadata) or {}
    container = _turn(status)
    state: Object = container.get("state") or {}
    waiting: Object = state.get("waiting") or {}
    ended: Object = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    scheduled, ready = _condition(status, "PodScheduled"), _condition(status, "Ready")
    unschedulable = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    return Pod(
        name=metadata["name"],
        owner_uid=controller.get("uid", ""),
        labels=metadata.get("labels") or {},
        phase=status.get("phase", ""),
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        ready=ready.get("status") == "True",
        unschedulable=scheduled.get("message", "") if unschedulable else None,
        waiting_reason=waiting.get("reason"),
        waiting_message=waiting.get("message"),
        restarts=int(container.get("restartCount") or 0),
        exit_code=ended.get("exitCode"),
        termination_reason=ended.get("reason"),
        termination_message=ended.get("message"),
        image_id=_trainer(status).get("imageID") or container.get("imageID") or None,
        mount_message=mount_message,
        doing=doing,
        uid=metadata["uid"],
        address=status.get("podIP") or "",
        step=container["name"] if container in _steps(status) and "running" in state else "",
        deleting="deletionTimestamp" in metadata,
        ready_since=_since(ready) if ready.get("status") == "True" else None,
    )


def _steps(status: Object) -> Sequence[Object]:
    return status.get("initContainerStatuses") or ()


def _turn(status: Object) -> Object:
    """The container that works, or is to: the first step that has not ended well, else the one after all steps."""
    for step in _steps(status):
        if ((step.get("state") or {}).get("terminated") or {}).get("exitCode") != 0:
            return step
    return next(iter(status.get("containerStatuses") or ()), {})


def _trainer(status: Object) -> Object:
    """The step that is somebody's own trainer, if there is one: its image is the one that matters."""
    return next((step for step in _steps(status) if step["name"] == OWN_TRAINER), {})


def _since(condition: Object) -> datetime | None:
    time = condition.get("lastTransitionTime")
    return datetime.fromisoformat(time) if time else None


def _condition(status: Object, type_: str) -> Object:
    return next((c for c in status.get("conditions") or () if c["type"] == type_), {})


def _hangs(raw: Object) -> bool:
    status = raw.get("status") or {}
    if status.get("phase") != "Pending" or _condition(status, "PodScheduled").get("status") != "True":
        return False
    waiting: Object = (_turn(status).get("state") or {}).get("waiting") or {}
    return waiting.get("reason", "ContainerCreating") in {"ContainerCreating", "PodInitializing"}
