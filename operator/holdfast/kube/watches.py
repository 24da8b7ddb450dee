"""Sees by kopf's requests whether its watches live, and when one had a gap.

kopf hands over events but neither bookmarks nor the news that a watch broke. Its requests tell both: every watch ends
after WATCH_SECONDS and is asked for again, so one that is not asked for any more is dead; and a list is only asked for
at the start and after a gap, in which deletions may have been missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import aiohttp

from holdfast.kube.kinds import Kind

WATCH_SECONDS = 50
STALE_SECONDS = 90.0
"""Without a granted watch for so long, something is wrong."""


class Scope(NamedTuple):
    """A kind in one namespace, or (None) in all."""

    kind: str
    namespace: str | None


@dataclass(slots=True)
class _Watch:
    granted: float
    asked: float
    status: int = 0


class Watches:
    """What is known of the watches of one kopf session."""

    def __init__(
        self,
        namespaces: tuple[str, ...],
        on_list: Callable[[Scope], None],
        clock: Callable[[], float],
    ) -> None:
        """on_list: called when a kind was listed, that is at the start and after every gap."""
        self._on_list = on_list
        self._clock = clock
        self._namespaces = namespaces or (None,)
        self._scopes: dict[str, Scope] = {}
        self._watches: dict[Scope, _Watch] = {}

    @property
    def scopes(self) -> Iterable[Scope]:
        return self._scopes.values()

    def begin(self, kinds: Iterable[Kind]) -> None:
        """Watches of these kinds are about to be asked for."""
        now = self._clock()
        self._scopes = {
            kind.path(namespace): Scope(kind.name, namespace) for kind in kinds for namespace in self._namespaces
        }
        self._watches = {scope: _Watch(granted=now, asked=now) for scope in self._scopes.values()}

    def fed(self, scope: Scope) -> None:
        """An event came."""
        if watch := self._watches.get(scope):
            watch.granted = watch.asked = self._clock()

    def ages(self) -> Mapping[Scope, float]:
        """Seconds since each watch was last granted, or fed."""
        now = self._clock()
        return {scope: now - watch.granted for scope, watch in self._watches.items()}

    def stale(self) -> Mapping[Scope, str]:
        """Watches that do not work, and why."""
        return {
            scope: f"refused with HTTP status {self._watches[scope].status}"
            if self._watches[scope].status >= 400
            else "no answer"
            for scope, age in self.ages().items()
            if age > STALE_SECONDS
        }

    def dead(self) -> list[Scope]:
        """Watches that nobody asks for any more: their task in kopf has ended or hangs."""
        now = self._clock()
        return [scope for scope, watch in self._watches.items() if now - watch.asked > 2 * STALE_SECONDS]

    def trace(self) -> aiohttp.TraceConfig:
        """To be given to kopf's session."""
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(self._asked)
        trace.on_request_end.append(self._answered)
        return trace

    async def _asked(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, request: aiohttp.TraceRequestStartParams
    ) -> None:
        if watch := self._find(request):
            watch.asked = self._clock()

    async def _answered(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, request: aiohttp.TraceRequestEndParams
    ) -> None:
        watch = self._find(request)
        if watch is None:
            return
        watch.status = request.response.status
        if watch.status >= 400:
            return
        watch.granted = self._clock()
        query = request.url.query
        if "watch" not in query and "continue" not in query:
            self._on_list(self._scopes[request.url.path])

    def _find(self, request: aiohttp.TraceRequestStartParams | aiohttp.TraceRequestEndParams) -> _Watch | None:
        scope = self._scopes.get(request.url.path)
        return self._watches.get(scope) if scope else None
