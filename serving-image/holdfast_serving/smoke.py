"""Golden mode: the pod's golden requests are put to another revision, each once, and its answers compared with ours.

Users have no part in it, and no values leave the pods: only counts are told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast_serving.arms import CONNECT, SATURATED
from holdfast_serving.golden import Kept
from holdfast_serving.inference import Array
from holdfast_serving.question import Question
from holdfast_serving.shadow import Comparison

if TYPE_CHECKING:
    from holdfast_serving.lease import Lease
    from holdfast_serving.router import Router

MAX_AT_ONCE = 4

CONNECT_SECONDS = 10.0
"""So long a target that there is no connection to is tried again: its Service may be news to this pod's node."""

_PAUSE_SECONDS = 0.5


class Smoke:
    """The test of one target. It goes on while leases ask for it, and never begins again.

    Attributes:
        asked: requests that were put.
        answered, failed: of them, by how they ended.
        comparison: of the answers.
    """

    def __init__(self, router: Router, requests: Sequence[Kept], comparison: Comparison) -> None:
        self.asked = self.answered = self.failed = 0
        self.comparison = comparison
        self._router = router
        self._target = router.arms.revision
        self._waiting = deque(requests)
        self._loop = asyncio.get_running_loop()
        self._gives_up = 0.0
        self._lease: Lease | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def done(self) -> bool:
        """Whether all requests have ended and their answers are compared."""
        return not self._waiting and self._under_way == 0 and self.comparison.pending == 0

    def go_on(self, lease: Lease) -> None:
        """Put the requests that are left, as this lease says."""
        if self._lease is None:
            self._gives_up = self._loop.time() + CONNECT_SECONDS
        self._lease = lease
        if self._timer is None:
            self._put()

    def rest(self) -> None:
        """Put no more for now."""
        self._lease = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "target": self._target,
            "asked": self.asked,
            "answered": self.answered,
            "failed": self.failed,
            "rows": self.comparison.rows,
            "disagreeing": self.comparison.disagreeing,
            "done": self.done,
        }

    @property
    def _under_way(self) -> int:
        return self.asked - self.answered - self.failed

    def _put(self) -> None:
        self._timer = None
        while self._lease is not None and self._waiting and self._under_way < MAX_AT_ONCE and self._timer is None:
            self.asked += 1
            question = _Golden(self, self._router, self._waiting.popleft(), self._lease)
            parts, size = question.client.request(question.call)
            self._router.peer.send(question, parts, size, self._lease.hedge)

    # For questions.

    def end(self, kept: Kept, outcome: int) -> None:
        """There is no answer to a request."""
        if outcome in (CONNECT, SATURATED) and self._loop.time() < self._gives_up:
            self.asked -= 1  # it was not put
            self._waiting.appendleft(kept)
            if self._timer is None:
                self._timer = self._loop.call_later(_PAUSE_SECONDS, self._put)
            return
        self.failed += 1
        self._put_soon()

    def compare(self, kept: Kept, answer: list[Array], lease: Lease) -> None:
        """There is an answer."""
        self.answered += 1
        self._put_soon()
        self.comparison.compare(kept.answers, answer, lease.relative, lease.absolute)

    def _put_soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(0, self._put)


class _Golden(Question):
    """A golden request as it is put to the target."""

    __slots__ = ("_kept", "_lease", "_router", "_smoke")

    def __init__(self, smoke: Smoke, router: Router, kept: Kept, lease: Lease) -> None:
        super().__init__(router.client, kept.call)
        self._smoke = smoke
        self._router = router
        self._kept = kept
        self._lease = lease

    def failed(self, outcome: int, why: str = "") -> None:
        self._router.report(self.client.revision, outcome, why)
        self._smoke.end(self._kept, outcome)

    def take(self, arrays: list[Array], seconds: float) -> None:
        self._smoke.compare(self._kept, arrays, self._lease)
