"""A work queue with the semantics of client-go's: keys wait here until a worker takes them.

* A key that is added many times before it is taken is one item.
* A key is with one worker at a time. Added meanwhile, it comes back once that worker is done with it.
* Failed keys come back with exponential backoff and jitter, for ever; a token bucket bounds how many come back in all.

What client-go does not do: taking a key cancels its timer. A pass looks at everything and says when the next one is
due, so that an older date would only be a wasted pass.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class ShutDown(Exception):
    """The queue gives out nothing any more."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait after the n-th failure in a row: `first * factor**n` up to `cap`, less up to half by chance."""

    first: float = 0.5
    factor: float = 2.0
    cap: float = 60.0

    def delay(self, failures: int, chance: float) -> float:
        """failures: before this one. chance: in [0, 1)."""
        exponent = min(failures, 64)  # beyond it a float overflows, long after the cap was reached
        return min(self.cap, self.first * self.factor**exponent) * (1 - chance / 2)


class TokenBucket:
    """How long to wait so that no more than `rate` a second, and `burst` at once, go through."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._full_at = 0.0
        """When the bucket is (or will be) full again; each token taken moves it by 1 / rate."""

    def reserve(self, now: float) -> float:
        """Take a token; seconds until it may be used."""
        self._full_at = max(self._full_at, now) + 1 / self._rate
        return max(0.0, self._full_at - now - self._burst / self._rate)


class WorkQueue(Generic[K]):
    """Not thread-safe: everything happens in one event loop."""

    def __init__(
        self,
        *,
        backoff: Backoff | None = None,
        bucket: TokenBucket | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._backoff = backoff or Backoff()
        self._bucket = bucket or TokenBucket(rate=50, burst=500)
        self._chance = chance
        self._ready: deque[K] = deque()
        self._dirty: set[K] = set()
        """Keys that need a pass: those in _ready, and those that were added while a worker had them."""
        self._processing: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._idle_workers: deque[asyncio.Future[None]] = deque()
        self._shut_down = False

    def __len__(self) -> int:
        """Keys that wait for a worker or are with one; not those with a date in the future."""
        return len(self._dirty | self._processing)

    @property
    def scheduled(self) -> int:
        """Keys with a date in the future."""
        return len(self._timers)

    def add(self, key: K) -> None:
        """Have the key processed as soon as possible."""
        if self._shut_down or key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._ready.append(key)
            self._wake_one()

    def add_after(self, key: K, seconds: float) -> None:
        """Have the key processed in `seconds`, or at an earlier date that it has already."""
        if self._shut_down:
            return
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= when:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(when, self._due, key)

    def retry(self, key: K, at_least: float = 0.0) -> float:
        """Have the key processed again after its backoff, at least after `at_least` seconds; says after how many."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        now = asyncio.get_running_loop().time()
        delay = max(self._backoff.delay(failures, self._chance()), self._bucket.reserve(now), at_least)
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure is a first one."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """How often the key failed in a row."""
        return self._failures.get(key, 0)

    async def get(self) -> K:
        """The next key; the caller must say `done` with it. Raises ShutDown, at once and for everyone who waits."""
        while not self._shut_down and not self._ready:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle_workers.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake_one()  # this worker was woken and goes away: the key is for another one
                raise
        if self._shut_down:
            raise ShutDown
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._processing.add(key)
        self._cancel_timer(key)
        return key

    def done(self, key: K) -> None:
        """The worker has finished with the key."""
        self._processing.discard(key)
        if key in self._dirty and not self._shut_down:
            self._ready.append(key)
            self._wake_one()

    def shut_down(self) -> None:
        """Give out nothing any more, and forget what waits: whoever leads next looks at everything anyway."""
        self._shut_down = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._ready.clear()
        self._dirty.clear()
        while self._idle_workers:
            self._wake_one()

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _wake_one(self) -> None:
        while self._idle_workers:
            waiter = self._idle_workers.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
