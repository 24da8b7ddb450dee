"""Leadership by a Lease: who holds it writes, everybody else waits.

The figures are those of client-go and the Kubernetes control plane. The holder renews every RETRY seconds. When it has
not succeeded for RENEW_DEADLINE it must write nothing more; when a standby has not seen a renewal for DURATION it may
take over. The seconds between the two are the fence. Each side measures them on its own clock, one that goes on while
the machine is suspended or the process is stopped, and compares no time with another machine's.

Unlike client-go, a standby watches the Lease and wakes at the moment at which it is released or expires.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Protocol

from holdfast.kube.client import Client
from holdfast.kube.errors import AlreadyExists, ApiError, Conflict, NotFound, NotLeading
from holdfast.kube.kinds import LEASE

DURATION = 15.0
RENEW_DEADLINE = 10.0
RETRY = 2.0
ATTEMPT = 4.0
"""Seconds for one request; two attempts fit into RENEW_DEADLINE."""
WATCH = 60

Object = dict[str, Any]
log = logging.getLogger(__name__)


def boottime() -> float:
    """Seconds on a clock that nobody sets and that suspension does not stop."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseApi(Protocol):
    """Requests on one Lease; each raises ApiError."""

    async def read(self) -> Object: ...
    async def create(self, spec: Mapping[str, Any]) -> Object: ...
    async def update(self, version: str, spec: Mapping[str, Any]) -> Object: ...
    def watch(self, version: str) -> AsyncGenerator[Object]: ...


class Lease:
    """A Lease on the API server. Its client has no guard: it is what the guard rests on."""

    def __init__(self, client: Client, namespace: str, name: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name

    async def read(self) -> Object:
        return await self._client.get(LEASE, self._namespace, self._name)

    async def create(self, spec: Mapping[str, Any]) -> Object:
        return await self._client.create(LEASE, self._manifest({}, spec))

    async def update(self, version: str, spec: Mapping[str, Any]) -> Object:
        return await self._client.replace(LEASE, self._manifest({"resourceVersion": version}, spec))

    async def watch(self, version: str) -> AsyncGenerator[Object]:
        async for kind, lease in self._client.watch_one(LEASE, self._namespace, self._name, version, seconds=WATCH):
            if kind == "DELETED":
                return
            yield lease

    def _manifest(self, metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> Object:
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": {"namespace": self._namespace, "name": self._name, **metadata},
            "spec": dict(spec),
        }


class Elector:
    """Takes the Lease, keeps it, gives it back. One per process."""

    def __init__(
        self,
        api: LeaseApi,
        identity: str,
        on_lost: Callable[[str], None],
        *,
        clock: Callable[[], float] = boottime,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """on_lost: called with the reason when leadership ends other than by `release`; should end the process."""
        self.identity = identity
        self._api = api
        self._on_lost = on_lost
        self._clock = clock
        self._chance = chance
        self._write_until = float("-inf")
        self._lease: Object | None = None
        self._observed: Mapping[str, Any] | None = None
        self._observed_at = 0.0
        self._renewing: asyncio.Task[None] | None = None

    @property
    def leading(self) -> bool:
        return self._clock() < self._write_until

    def guard(self) -> None:
        """Raise NotLeading unless this process leads at this moment."""
        if not self.leading:
            raise NotLeading("this process does not lead")

    async def acquire(self) -> None:
        """Wait until this process leads. From then on it renews by itself."""
        while True:
            try:
                if await self._try_to_acquire():
                    break
            except (ApiError, TimeoutError) as error:
                log.warning("cannot read or take the lease, trying again: %s", str(error) or "no answer in time")
                await asyncio.sleep(RETRY * (0.5 + self._chance()))
        self._renewing = asyncio.create_task(self._renew_for_ever(), name="renew the lease")

    async def release(self) -> None:
        """Stop leading and let the next one in at once. Does nothing when this process does not lead."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
            self._renewing = None
        if not self.leading or self._lease is None:
            return
        self._write_until = float("-inf")
        try:
            async with asyncio.timeout(ATTEMPT):
                await self._give_back(self._lease)
        except (ApiError, TimeoutError) as error:
            log.warning("the lease could not be released, it expires by itself: %s", error)
        else:
            log.info("released the lease")

    async def _give_back(self, lease: Object) -> None:
        """Again when it has changed and is still ours: a renewal that was cancelled may have been carried out."""
        spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
        try:
            await self._api.update(lease["metadata"]["resourceVersion"], spec)
        except Conflict:
            found = await self._api.read()
            if (found.get("spec") or {}).get("holderIdentity") != self.identity:
                raise
            await self._give_back(found)

    # --- Standing by ------------------------------------------------------------------------------------------------

    async def _try_to_acquire(self) -> bool:
        try:
            async with _attempt():
                lease = await self._api.read()
        except NotFound:
            return await self._take(None)
        self._observe(lease)
        if self._seconds_until_free() <= 0:
            return await self._take(lease)
        await self._wait_until_free(lease["metadata"]["resourceVersion"])
        return False

    async def _wait_until_free(self, version: str) -> None:
        """Return when the Lease is released, expires, or when the watch ends: whoever asked reads it again."""
        loop = asyncio.get_running_loop()
        try:
            async with (
                asyncio.timeout(self._seconds_until_free()) as expiry,
                aclosing(self._api.watch(version)) as seen,
            ):
                async for lease in seen:
                    self._observe(lease)
                    left = self._seconds_until_free()
                    if left <= 0:
                        return
                    expiry.reschedule(loop.time() + left)
                await asyncio.sleep(min(RETRY, self._seconds_until_free()))  # a watch that ends at once must not spin
        except TimeoutError:
            return

    def _observe(self, lease: Object) -> None:
        spec = lease.get("spec") or {}
        if spec != self._observed:
            self._observed = spec
            self._observed_at = self._clock()

    def _seconds_until_free(self) -> float:
        """From when this process last saw the Lease change, for clocks of different machines cannot be compared."""
        assert self._observed is not None
        if not self._observed.get("holderIdentity"):
            return 0.0
        return self._observed_at + float(self._observed.get("leaseDurationSeconds") or DURATION) - self._clock()

    async def _take(self, lease: Object | None) -> bool:
        before = (lease or {}).get("spec") or {}
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(DURATION),
            "acquireTime": _now(),
            "renewTime": _now(),
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (lease is not None),
        }
        sent = self._clock()
        try:
            async with _attempt():
                if lease is None:
                    taken = await self._api.create(spec)
                else:
                    taken = await self._api.update(lease["metadata"]["resourceVersion"], spec)
        except (AlreadyExists, Conflict):
            return False  # another one was faster, or the holder has renewed after all
        self._lease = taken
        self._write_until = sent + RENEW_DEADLINE
        log.info("took the lease as %s (before: %s)", self.identity, before.get("holderIdentity") or "nobody")
        return True

    # --- Leading ----------------------------------------------------------------------------------------------------

    async def _renew_for_ever(self) -> None:
        pause = RETRY
        while True:
            await asyncio.sleep(pause)
            left = self._write_until - self._clock()
            if left <= 0:
                self._lose(f"the lease could not be renewed within {RENEW_DEADLINE:.0f} s")
                return
            try:
                async with asyncio.timeout(min(ATTEMPT, left)):
                    await self._renew()
            except Conflict:
                await self._reread(left)
                if not self.leading:
                    return
                pause = 0.1
            except (ApiError, TimeoutError) as error:
                log.warning("the lease could not be renewed: %s", str(error) or "no answer in time")
                pause = RETRY / 2
            else:
                pause = RETRY * (0.9 + 0.2 * self._chance())

    async def _renew(self) -> None:
        assert self._lease is not None
        sent = self._clock()
        spec = {**self._lease["spec"], "renewTime": _now()}
        self._lease = await self._api.update(self._lease["metadata"]["resourceVersion"], spec)
        self._write_until = sent + RENEW_DEADLINE

    async def _reread(self, seconds: float) -> None:
        """After a conflict: someone edited the Lease, or an answer of ours was lost, or it was taken from us."""
        try:
            async with asyncio.timeout(min(ATTEMPT, seconds)):
                lease = await self._api.read()
        except (ApiError, TimeoutError):
            return  # the next attempt conflicts again and leads here again
        holder = (lease.get("spec") or {}).get("holderIdentity")
        if holder == self.identity:
            self._lease = lease
        else:
            self._lose(f"the lease was taken by {holder or 'nobody'}")

    def _lose(self, reason: str) -> None:
        self._write_until = float("-inf")
        self._on_lost(reason)


def _attempt() -> asyncio.Timeout:
    return asyncio.timeout(ATTEMPT)


def _now() -> str:
    """For people who look at the Lease; nothing compares it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
