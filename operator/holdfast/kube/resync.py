"""Full lists: what the watches may have missed is found, and what is gone is dropped from the store.

Asked for by every list that a watch begins with (kopf tells of the survivors of a gap, never of those lost in it), and
for everything each INTERVAL.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable

from holdfast.kube import errors, metrics
from holdfast.kube.client import Client
from holdfast.kube.kinds import CHILDREN, NAMESPACE, OWNERS, Key, Kind, key_of
from holdfast.kube.queue import Backoff, WorkQueue
from holdfast.kube.store import Store, Wake
from holdfast.kube.watches import Scope

INTERVAL = 600.0
SPREAD = 60.0
"""Over so many seconds are the passes spread that follow each INTERVAL, whether something changed or not."""
LATER = 0.5
"""A gap often hits several watches at once, and the watch that follows the list must be there first."""

KINDS: dict[str, Kind] = {**OWNERS, **CHILDREN, NAMESPACE.name: NAMESPACE}
log = logging.getLogger(__name__)


class Resync:
    """Lists scopes on demand, one at a time."""

    def __init__(self, client: Client, store: Store, queue: WorkQueue[Key]) -> None:
        self._client = client
        self._store = store
        self._queue = queue
        self._pending: dict[Scope, str] = {}
        self._asked = asyncio.Event()
        self._missing: set[Scope] = set()
        self.synced = asyncio.Event()
        """Set once every scope was listed after its watch began: from then on the store can be believed."""

    def request(self, scope: Scope, cause: str) -> None:
        """Have a scope listed soon."""
        self._pending.setdefault(scope, cause)
        self._asked.set()

    async def run(self, scopes: Iterable[Scope]) -> None:
        """Keep these in step, for ever."""
        every = tuple(scopes)
        self._missing = set(every)
        loop = asyncio.get_running_loop()
        next_interval = loop.time() + INTERVAL
        while True:
            try:
                async with asyncio.timeout_at(next_interval):
                    await self._asked.wait()
            except TimeoutError:
                next_interval = loop.time() + INTERVAL
                for scope in every:
                    self.request(scope, "interval")
                for key in self._store.owners():
                    self._queue.add_after(key, random.uniform(1, SPREAD))  # noqa: S311 - no secret
            await asyncio.sleep(LATER)
            self._asked.clear()
            pending, self._pending = self._pending, {}
            for scope, cause in pending.items():
                await self._until_listed(scope, cause)

    async def _until_listed(self, scope: Scope, cause: str) -> None:
        backoff, failures = Backoff(first=1.0, cap=30.0), 0
        while True:
            try:
                wake = await self._list(scope)
                break
            except errors.ApiError as error:
                log.warning("%s could not be listed, trying again: %s", scope.kind, error)
                await asyncio.sleep(backoff.delay(failures, random.random()))  # noqa: S311 - no secret
                failures += 1
        metrics.RESYNCS.labels(scope.kind, cause).inc()
        for key in wake:
            self._queue.add(key)
        self._missing.discard(scope)
        if not self._missing and not self.synced.is_set():
            log.info("synced", extra={"fields": {"objects": dict(self._store.count())}})
            self.synced.set()

    async def _list(self, scope: Scope) -> Wake:
        seen: set[Key] = set()
        wake: set[Key] = set()
        version = 0
        async for page in self._client.pages(KINDS[scope.kind], scope.namespace):
            version = page.version
            for item in page.items:
                wake |= self._store.put(item)
                seen.add(key_of(item))
            await asyncio.sleep(0)  # a page is work enough for one turn of the loop
        return self._store.sweep(scope.kind, scope.namespace, seen, version) | wake
