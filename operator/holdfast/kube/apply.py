"""Writing children: only what differs, only our own objects, each write logged with its reason.

A write to an object that is known carries its uid; one to an object that is not known carries a resourceVersion that
no object has. The API server then refuses to touch anybody else's object, at no cost while all is well; only after a
refusal is the object looked at.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from holdfast.build import labels
from holdfast.kube import errors
from holdfast.kube.client import Client
from holdfast.kube.difference import first_difference
from holdfast.kube.kinds import OWNERS, WRITTEN, Key, controller_of, key_of
from holdfast.kube.store import Live, Resource, Store
from holdfast.plan.observed import Foreign

ABSENT = {"resourceVersion": "1"}
"""etcd's first revision comes before every object: applied with it, an object is created or the request refused."""

Object = Mapping[str, Any]
log = logging.getLogger(__name__)


class NameTaken(Exception):
    """An object under the wanted name is somebody else's."""

    def __init__(self, foreign: Foreign) -> None:
        super().__init__(f"{foreign.kind} {foreign.name} belongs to {foreign.owner}")
        self.foreign = foreign


class Applier:
    """Writes children of custom resources. Methods say whether they wrote.

    They raise NameTaken and errors.ApiError: Refused when the API server says no, Conflict when the world moved on.
    """

    def __init__(self, client: Client, store: Store) -> None:
        self._client = client
        self._store = store
        self._settled: dict[Key, str] = {}
        """Children that the API server keeps in another form than applied, by what was applied and what it became."""

    async def apply(self, owner: Resource, manifest: Object) -> bool:
        """Make the child what the manifest says."""
        key = key_of(manifest)
        live = self._store.child(key)
        if live is None or not _is_controller(live.controller, owner):
            await self._apply(owner, key, manifest, ABSENT, "it was not there")
            return True
        where = first_difference(manifest, live.manifest())
        if where is None or self._settled.get(key) == _fingerprint(manifest, live):
            return False
        await self._apply(owner, key, manifest, {"uid": live.uid}, f"{where} differed")
        return True

    async def create(self, owner: Resource, manifest: Object) -> bool:
        """Create the child if it is not there."""
        key = key_of(manifest)
        live = self._store.child(key)
        if live is not None and _is_controller(live.controller, owner):
            return False
        try:
            made = await self._client.create(WRITTEN[key.kind], manifest)
        except errors.AlreadyExists:
            await self._whose(owner, key)  # if ours, the watch is about to tell
            return False
        if key.kind not in OWNERS:  # those have to be seen by the watch, which wakes their own passes
            self._store.put(made)
        _tell("created", key, owner)
        return True

    async def scale(self, owner: Resource, key: Key, replicas: int) -> bool:
        """Set a Deployment's replicas and nothing else."""
        live = self._store.child(key)
        if live is None or live.spec.get("replicas") == replicas:
            return False
        patch = {"spec": {"replicas": replicas}}
        self._store.put(await self._client.merge(WRITTEN[key.kind], key, live.uid, patch, verb="scale"))
        _tell("scaled", key, owner, because=f"{live.spec.get('replicas')} to {replicas}")
        return True

    async def amend(self, owner: Resource, key: Key, spec: Mapping[str, Any]) -> bool:
        """Set fields of a child's spec and nothing else."""
        live = self._store.child(key)
        if live is None or all(live.spec.get(name) == value for name, value in spec.items()):
            return False
        self._store.put(await self._client.merge(WRITTEN[key.kind], key, live.uid, {"spec": spec}, verb="amend"))
        _tell("amended", key, owner, because=", ".join(f"{name} becomes {value}" for name, value in spec.items()))
        return True

    async def delete(self, owner: Resource, key: Key, uid: str) -> bool:
        """Delete the child with this uid."""
        try:
            await self._client.delete(WRITTEN[key.kind], key, uid)
        except (errors.NotFound, errors.Conflict):
            return False  # gone, or by now another one
        _tell("deleted", key, owner)
        return True

    async def adopt(self, owner: Resource, live: Live) -> bool:
        """Become the controller of an object with our labels that has none, as after a deletion with orphans."""
        reference = labels.owner(owner.key.kind, owner.key.name, owner.uid)
        patch = {"metadata": {"ownerReferences": [*live.owner_references, reference]}}
        self._store.put(await self._client.merge(WRITTEN[live.key.kind], live.key, live.uid, patch, verb="adopt"))
        _tell("adopted", live.key, owner)
        return True

    async def foreign(self, owner: Resource, key: Key) -> Foreign | None:
        """Whose the object under a wanted name is, when it is somebody else's."""
        try:
            await self._whose(owner, key)
        except NameTaken as taken:
            return taken.foreign
        return None

    async def _apply(
        self, owner: Resource, key: Key, manifest: Object, condition: Mapping[str, str], because: str
    ) -> None:
        kind = WRITTEN[key.kind]
        try:
            answer = await self._client.apply(kind, _with(manifest, condition))
        except (errors.Conflict, errors.Invalid) as error:
            if isinstance(error, errors.Invalid) and "metadata.uid" not in error.fields:
                raise
            answer = await self._client.apply(kind, _with(manifest, await self._whose(owner, key)))
        self._store.put(answer)
        if condition is not ABSENT:
            self._note_other_form(key, manifest)
        _tell("applied", key, owner, because=because)

    async def _whose(self, owner: Resource, key: Key) -> Mapping[str, str]:
        """The condition under which the object may be written. Raises NameTaken, or Conflict while it is going away."""
        try:
            metadata = await self._client.get_metadata(WRITTEN[key.kind], key.namespace, key.name)
        except errors.NotFound:
            return ABSENT
        controller = controller_of(metadata)
        if _is_controller(controller, owner) or (controller is None and _has_labels_of(owner, metadata)):
            return {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        former = controller is not None and (controller["kind"], controller["name"]) == (owner.key.kind, owner.key.name)
        if former or "deletionTimestamp" in metadata:
            raise errors.Conflict(f"{key.kind} {key.name} of a former {owner.key.kind} is still being deleted")
        name = f"{controller['kind']} {controller['name']}" if controller else "nobody"
        raise NameTaken(Foreign(key.kind, key.name, name))

    def _note_other_form(self, key: Key, manifest: Object) -> None:
        """Applying again could not change what the API server writes differently, and would go on for ever."""
        live = self._store.child(key)
        where = first_difference(manifest, live.manifest()) if live else None
        if live is None or where is None:
            self._settled.pop(key, None)
            return
        self._settled[key] = _fingerprint(manifest, live)
        log.warning("the API server keeps %s of %s in another form than applied", where, key)


def _with(manifest: Object, condition: Mapping[str, str]) -> Object:
    return {**manifest, "metadata": {**manifest["metadata"], **condition}}


def _is_controller(reference: Object | None, owner: Resource) -> bool:
    return reference is not None and reference["uid"] == owner.uid


def _has_labels_of(owner: Resource, metadata: Object) -> bool:
    own = metadata.get("labels") or {}
    label = OWNERS[owner.key.kind].owner_label or ""
    return own.get(labels.MANAGED_BY) == "holdfast" and own.get(label) == owner.key.name


def _fingerprint(manifest: Object, live: Live) -> str:
    text = json.dumps([manifest, live.manifest()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _tell(did: str, key: Key, owner: Resource, **more: str) -> None:
    log.info(did, extra={"fields": {"child": str(key), "owner": str(owner.key), **more}})
