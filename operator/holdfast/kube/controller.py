"""All parts of the operator but kopf, wired together, and their life: stand by, lead, stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kubernetes.aio.client import Configuration

from holdfast.kube import errors, keys, metrics
from holdfast.kube.client import Client
from holdfast.kube.drift import DriftWatch
from holdfast.kube.events import Recorder
from holdfast.kube.health import MAX_LAG, Health, HealthServer, Ticker
from holdfast.kube.kinds import CHILDREN, NAMESPACE, OWNERS, PROMETHEUS_RULE, TRAINING_JOB, Key, Kind, key_of
from holdfast.kube.lease import Elector, Lease, boottime
from holdfast.kube.models import ModelCollector
from holdfast.kube.queue import WorkQueue
from holdfast.kube.reconcile import Reconciler
from holdfast.kube.resync import Resync
from holdfast.kube.slo import SloWatch
from holdfast.kube.store import Store
from holdfast.kube.watches import Scope, Watches
from holdfast.kube.webhook import DataEvents, Webhook, peers
from holdfast.kube.workers import PASS_SECONDS, Workers
from holdfast.settings import Settings
from holdfast.signals.cloudevents import Refused
from holdfast.signals.leases import Signer
from holdfast.signals.routers import Routers
from holdfast.signals.senders import Senders

LEASE_NAME = "holdfast-operator"
COALESCE_SECONDS = 0.1
"""Children change several times within a moment; a person's change of a custom resource waits for nothing."""
DRAIN_SECONDS = 2.0
LOST = 1
log = logging.getLogger(__name__)


def _exit_on_loss(reason: str) -> None:
    """End at once: whatever this process still did could cross what the next leader does."""
    log.error("leadership is lost, ending: %s", reason)
    os._exit(LOST)


class Controller:
    """The operator's process. To be made inside the event loop."""

    def __init__(self, settings: Settings, configuration: Configuration) -> None:
        identity = f"{settings.pod_name}_{uuid.uuid4().hex[:8]}"
        self._settings = settings
        # The election has connections of its own: renewals must not wait behind anything.
        agent = f"holdfast/{settings.pod_name}"
        self._lease_client = Client(configuration, agent)
        lease = Lease(self._lease_client, settings.pod_namespace, LEASE_NAME)
        self.elector = Elector(lease, identity, _exit_on_loss)
        self.client = Client(configuration, agent, self.elector.guard)
        self.store = Store()
        self.queue: WorkQueue[Key] = WorkQueue()
        self.watches = Watches(settings.namespaces, self._listed, boottime)
        self.resync = Resync(self.client, self.store, self.queue)
        recorder = Recorder(self.client, identity)
        self._slo = SloWatch(
            settings.prometheus, settings.prometheus_seconds, settings.namespaces, self.store, self.queue
        )
        self._drift = DriftWatch(
            settings.prometheus,
            settings.prometheus_seconds,
            settings.drift_window_seconds,
            settings.namespaces,
            self.store,
            self.queue,
        )
        self._routers = Routers(self.elector.guard)
        self._data_events = DataEvents()
        self._reconciler = Reconciler(
            self.client,
            self.store,
            recorder,
            settings.plan,
            self._slo.signal,
            self._drift.answer,
            self._data_events.last,
            self._routers,
        )
        self.workers = Workers(self.queue, self._reconciler.reconcile, settings.workers)
        self._ticker = Ticker()
        self._health = HealthServer(settings.health_port, self.judge)
        self._webhook = self._make_webhook(settings)
        self._tasks: list[asyncio.Task[None]] = []
        self._working = False
        self.kinds: tuple[Kind, ...] = ()
        """Those that are watched; known once this process leads."""

    # --- Life -------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Answer probes, and take events. Raises OSError when a port is taken."""
        metrics.REGISTRY.register(ModelCollector(self.store))
        await self._health.start()
        if self._webhook is not None:
            await self._webhook.start()
        self._spawn(self._ticker.run(), "ticker")

    async def lead(self) -> None:
        """Stand by until this process leads and there is something to watch; then get ready for the watches."""
        log.info("standing by", extra={"fields": {"identity": self.elector.identity}})
        await self.elector.acquire()
        await self._wait_for_kinds()
        has_rules = await self._has(PROMETHEUS_RULE)
        # Namespaces only by an operator for all of them: it alone may be told to keep out.
        about = (*OWNERS.values(), *CHILDREN.values(), *(() if self._settings.namespaces else (NAMESPACE,)))
        self.kinds = tuple(kind for kind in about if has_rules or kind is not PROMETHEUS_RULE)
        self._reconciler.open(Signer(await self._router_seeds()), prometheus_rules=has_rules)
        self.watches.begin(self.kinds)
        self._spawn(self.resync.run(self.watches.scopes), "resync")
        self._spawn(self._work(), "start of the workers")

    def observe(self, type_: str | None, raw: Mapping[str, Any]) -> None:
        """A watch's event; type None: from the list that a watch begins with."""
        key = key_of(raw)
        self.watches.fed(Scope(key.kind, key.namespace if self._settings.namespaces else None))
        if type_ == "DELETED":
            wake = self.store.remove(key, int(raw["metadata"]["resourceVersion"]))
        else:
            wake = self.store.put(raw)
        for concerned in wake:
            if key.kind in CHILDREN:
                self.queue.add_after(concerned, COALESCE_SECONDS)
            else:
                self.queue.add(concerned)

    async def stop(self) -> None:
        """End what is under way, let the next one lead, leave no task behind. Harmless when it was stopped before."""
        await self.workers.stop(DRAIN_SECONDS)
        await self.elector.release()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._webhook is not None:
            await self._webhook.stop()
        await self._health.stop()

    async def close(self) -> None:
        """Stop, whatever went before, and close all connections."""
        await self.stop()
        await self._routers.close()
        await self.client.close()
        await self._lease_client.close()

    async def _wait_for_kinds(self) -> None:
        wanted = {kind.plural for kind in OWNERS.values()}
        told = False
        while True:
            try:
                missing = wanted - await self.client.resources(TRAINING_JOB)
            except errors.ApiError as error:
                log.warning("the API server cannot be asked for its kinds, trying again: %s", error)
            else:
                if not missing:
                    return
                if not told:
                    log.warning("waiting for the CustomResourceDefinitions of %s: apply crds/", ", ".join(missing))
                    told = True
            await asyncio.sleep(2.0)

    async def _has(self, kind: Kind) -> bool:
        """Whether the API server knows the kind."""
        while True:
            try:
                return kind.plural in await self.client.resources(kind)
            except errors.ApiError as error:
                log.warning("the API server cannot be asked for %s, trying again: %s", kind.name, error)
            await asyncio.sleep(2.0)

    async def _router_seeds(self) -> tuple[bytes, ...]:
        """Waited for: a pod that is made without the key can never take part in a rollout."""
        while True:
            try:
                return await keys.router_seeds(self.client, self._settings.pod_namespace)
            except (errors.ApiError, keys.Unusable) as error:
                log.warning("there is no key to sign leases with yet, trying again: %s", error)
            await asyncio.sleep(2.0)

    async def _work(self) -> None:
        await self.resync.synced.wait()
        for key in self.store.owners():
            self.queue.add(key)
        # What is here now stays: the collector need not look at it again and again. And of what comes, most goes
        # without it: looking every 700 objects took a tenth of our time, every 20,000 takes 4 MiB.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 5, 10)
        self.workers.start()
        self._working = True
        self._spawn(self._slo.run(), "questions to Prometheus")
        self._spawn(self._drift.run(), "questions about drift")

    def _listed(self, scope: Scope) -> None:
        self.resync.request(scope, "gap" if self.resync.synced.is_set() else "start")

    def _spawn(self, coroutine: Any, name: str) -> None:
        self._tasks.append(asyncio.create_task(coroutine, name=name))

    # --- Events about new data --------------------------------------------------------------------------------------

    def _make_webhook(self, settings: Settings) -> Webhook | None:
        if settings.events_port is None:
            return None
        find = peers(settings.events_peers, settings.events_port)
        senders = Senders(settings.event_keys)
        return Webhook(settings.events_port, senders, self._take_event, lambda: self._working, find)

    def _take_event(self, key: Key) -> None:
        """Have somebody look at a model's data. Raises Refused when nobody would."""
        resource = self.store.resource(key)
        if resource is None or resource.deleting or self.store.is_left_alone(key.namespace):
            raise Refused(404, "there is no such ModelDeployment")
        retraining: Mapping[str, Any] = resource.spec.get("retraining") or {}
        if "newData" not in (retraining.get("triggers") or {}):
            raise Refused(422, "it has no spec.retraining.triggers.newData, so nobody looks at its data")
        self.queue.add_after(key, self._data_events.note(key, datetime.now(UTC)))

    # --- Health -----------------------------------------------------------------------------------------------------

    def judge(self) -> Health:
        """How this process is; also sets the gauges that nobody else sets."""
        leading, synced = self.elector.leading, self.resync.synced.is_set()
        ages = {kind.name: 0.0 for kind in self.kinds} if self.watches.ages() else {}
        for scope, age in self.watches.ages().items():
            ages[scope.kind] = max(ages[scope.kind], age)
        fatal = [f"the watch of {scope.kind} has ended" for scope in self.watches.dead()]
        if self._working and self.workers.alive < self._settings.workers:
            fatal.append(f"only {self.workers.alive} of {self._settings.workers} workers are left")
        if self.workers.longest_pass > 2 * PASS_SECONDS:
            fatal.append(f"a pass has gone on for {self.workers.longest_pass:.0f} s")
        problems = [f"the watch of {scope.kind} stands still: {why}" for scope, why in self.watches.stale().items()]
        if leading and not synced:
            problems.append("the first lists have not been read yet")
        if self._ticker.lag > MAX_LAG:
            problems.append(f"the event loop is {self._ticker.lag:.0f} s late")
        self._set_gauges(leading, ages)
        details = {
            "leader": leading,
            "synced": synced,
            "queue": len(self.queue),
            "scheduled": self.queue.scheduled,
            "watchAgeSeconds": {kind: round(age, 1) for kind, age in ages.items()},
            "workers": self.workers.alive,
            "longestPassSeconds": round(self.workers.longest_pass, 1),
            "eventLoopLagSeconds": round(self._ticker.lag, 3),
        }
        return Health(tuple(fatal), tuple(problems), details)

    def _set_gauges(self, leading: bool, ages: Mapping[str, float]) -> None:
        metrics.LEADER.set(leading)
        metrics.QUEUE_DEPTH.set(len(self.queue))
        metrics.QUEUE_SCHEDULED.set(self.queue.scheduled)
        for kind, age in ages.items():
            metrics.WATCH_AGE.labels(kind).set(age)
        for kind, count in self.store.count().items():
            metrics.OBJECTS.labels(kind).set(count)
