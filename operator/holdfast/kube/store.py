"""What the operator knows of the cluster, fed by watches, by full lists and by the answers to its own writes.

Versions decide: Kubernetes promises that resourceVersions of a kind are whole numbers that grow, so what is older than
what is known is refused, whichever of the three feeds brings it. The same goes for what was deleted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.kube import projection
from holdfast.kube.kinds import BATCH_INFERENCE, MODEL_DEPLOYMENT, NAMESPACE, OWNERS, TRAINING_JOB, Key, key_of

Object = Mapping[str, Any]
Wake = frozenset[Key]
"""Custom resources for which something has changed."""

NOBODY: Wake = frozenset()
TOMBSTONES = 10_000
"""Deletions that are remembered: many more than can happen while an answer is under way."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A custom resource."""

    key: Key
    uid: str
    generation: int
    deleting: bool
    spec: Object
    status: Object
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Those by which people tell us what to do; all of a TrainingJob that a ModelDeployment made."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of a TrainingJob that a ModelDeployment made."""
    created: str = ""
    """When, likewise."""
    maker_uid: str = ""
    """Of that ModelDeployment."""

    @property
    def succeeded(self) -> Object:
        """The condition of that type; empty where there is none yet."""
        return next((c for c in self.status.get("conditions") or () if c["type"] == "Succeeded"), {})


@dataclass(frozen=True, slots=True)
class Live:
    """A child."""

    key: Key
    uid: str
    deleting: bool
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    owner_references: tuple[Object, ...]
    spec: Object
    status: Object

    @property
    def controller(self) -> Object | None:
        return next((reference for reference in self.owner_references if reference.get("controller")), None)

    def manifest(self) -> dict[str, Any]:
        """The parts that a manifest may set."""
        metadata = {
            "labels": self.labels,
            "annotations": self.annotations,
            "ownerReferences": list(self.owner_references),
        }
        content = self.spec if self.key.kind in projection.CONTENT else {"spec": self.spec}
        return {"metadata": metadata, **content}


@dataclass(slots=True)
class _Entry:
    uid: str
    version: int
    deleting: bool
    packed: bytes
    relative: Key | None
    """Of a child its owner; of a custom resource the one that it refers to; of a TrainingJob the one that made it."""


class Store:
    """Not thread-safe: everything happens in one event loop."""

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}
        self._packers: defaultdict[str, projection.Packer] = defaultdict(projection.Packer)
        self._children: dict[Key, set[Key]] = {}
        """By the custom resource that they belong to, which need not exist."""
        self._followers: dict[Key, set[Key]] = {}
        """Custom resources by the one that they refer to."""
        self._made: dict[Key, set[Key]] = {}
        """TrainingJobs by the ModelDeployment that made them."""
        self._tombstones: dict[Key, int] = {}

    # --- Feeding ----------------------------------------------------------------------------------------------------

    def put(self, raw: Object) -> Wake:
        """Take in an object as the API server sent it; says for whom something has changed."""
        key = key_of(raw)
        metadata = raw["metadata"]
        version = int(metadata["resourceVersion"])
        known = self._entries.get(key)
        if version <= (known.version if known else self._tombstones.get(key, -1)):
            return NOBODY
        deleting = "deletionTimestamp" in metadata
        packed = self._packers[key.kind].pack(projection.of_object(raw))
        relative = _relative(key, raw)
        entry = _Entry(metadata["uid"], version, deleting, packed, relative)
        self._entries[key] = entry
        if known is None:
            self._link(key, relative)
            return self._concerned(key, entry)
        if (known.uid, known.deleting, known.packed) == (entry.uid, deleting, packed):
            return NOBODY
        if known.relative != relative:
            self._unlink(key, known.relative)
            self._link(key, relative)
        return self._concerned(key, known) | self._concerned(key, entry)

    def remove(self, key: Key, version: int) -> Wake:
        """The object was deleted at `version`."""
        entry = self._entries.get(key)
        if entry is not None and entry.version > version:
            return NOBODY  # a new one of that name
        if self._tombstones.get(key, -1) < version:
            self._tombstones.pop(key, None)
            self._tombstones[key] = version
            if len(self._tombstones) > TOMBSTONES:
                del self._tombstones[next(iter(self._tombstones))]
        if entry is None:
            return NOBODY
        del self._entries[key]
        self._unlink(key, entry.relative)
        return self._concerned(key, entry)

    def sweep(self, kind: str, namespace: str | None, seen: Collection[Key], version: int) -> Wake:
        """Drop the objects that a full list taken at `version` does not hold."""
        gone = [
            key
            for key, entry in self._entries.items()
            if key.kind == kind
            and (namespace is None or key.namespace == namespace)
            and key not in seen
            and entry.version <= version
        ]
        return NOBODY.union(*(self.remove(key, version) for key in gone))

    # --- Reading ----------------------------------------------------------------------------------------------------

    def resource(self, key: Key) -> Resource | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        kept = self._packers[key.kind].unpack(entry.packed)
        return Resource(
            key,
            entry.uid,
            kept["generation"],
            entry.deleting,
            kept["spec"],
            kept["status"],
            kept["annotations"],
            kept.get("labels", {}),
            kept.get("creationTimestamp", ""),
            kept.get("maker", ""),
        )

    def trainings(self, maker: Key) -> list[Resource]:
        """TrainingJobs that a ModelDeployment of this name made, those that are being deleted left out."""
        found = (self.resource(key) for key in sorted(self._made.get(maker, ())))
        return [resource for resource in found if resource and not resource.deleting]

    def count_running(self) -> int:
        """TrainingJobs that ModelDeployments made and that have not come to an end."""
        made = (resource for maker in self._made for resource in self.trainings(maker))
        return sum(resource.succeeded.get("status") not in ("True", "False") for resource in made)

    def child(self, key: Key) -> Live | None:
        """A child of one of the kinds that are nothing else."""
        entry = self._entries.get(key)
        if entry is None or key.kind in OWNERS:
            return None
        kept = self._packers[key.kind].unpack(entry.packed)
        return Live(
            key,
            entry.uid,
            entry.deleting,
            kept["labels"],
            kept["annotations"],
            tuple(kept["ownerReferences"]),
            kept["spec"],
            kept["status"],
        )

    def children(self, owner: Key, uid: str) -> list[Live]:
        """Objects with our labels that this owner controls, or that nobody controls and whose labels name it."""
        found = (self.child(key) for key in sorted(self._children.get(owner, ())))
        return [live for live in found if live and (live.controller is None or live.controller["uid"] == uid)]

    def owners(self, namespace: str | None = None) -> Iterator[Key]:
        """All custom resources, or those of one namespace."""
        for key in self._entries:
            if key.kind in OWNERS and (namespace is None or key.namespace == namespace):
                yield key

    def is_left_alone(self, namespace: str) -> bool:
        """Whether a label on the namespace reserves it for an operator of its own."""
        return Key(NAMESPACE.name, "", namespace) in self._entries

    def count(self) -> Mapping[str, int]:
        """Objects by kind."""
        counts: defaultdict[str, int] = defaultdict(int)
        for key in self._entries:
            counts[key.kind] += 1
        return counts

    # --- Below ------------------------------------------------------------------------------------------------------

    def _concerned(self, key: Key, entry: _Entry) -> Wake:
        if key.kind == NAMESPACE.name:
            return frozenset(self.owners(key.name))
        if key.kind in OWNERS:
            maker = {entry.relative} if key.kind == TRAINING_JOB.name and entry.relative else set()
            return frozenset({key, *self._followers.get(key, ()), *maker})
        return frozenset({entry.relative}) if entry.relative in self._entries else NOBODY

    def _index(self, key: Key) -> dict[Key, set[Key]]:
        if key.kind == TRAINING_JOB.name:
            return self._made
        return self._followers if key.kind in OWNERS else self._children

    def _link(self, key: Key, relative: Key | None) -> None:
        if relative is not None:
            self._index(key).setdefault(relative, set()).add(key)

    def _unlink(self, key: Key, relative: Key | None) -> None:
        if relative is None:
            return
        linked = self._index(key)[relative]
        linked.discard(key)
        if not linked:
            del self._index(key)[relative]


def _relative(key: Key, raw: Object) -> Key | None:
    if key.kind == TRAINING_JOB.name:
        return projection.maker_of(raw)
    if key.kind not in OWNERS:
        return projection.owner_of(raw) if key.kind != NAMESPACE.name else None
    model = (raw.get("spec") or {}).get("model") or {}
    if key.kind == BATCH_INFERENCE.name and (raw.get("status") or {}).get("model"):
        return None  # its model is fixed: whatever becomes of what it referred to is nothing to it
    for kind, field_name in ((TRAINING_JOB, "trainingJobRef"), (MODEL_DEPLOYMENT, "modelDeploymentRef")):
        if reference := model.get(field_name):
            return Key(kind.name, key.namespace, reference["name"])
    return None
