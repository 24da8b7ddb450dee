"""The router: where a request is run while a lease lasts.

Without a lease nobody stands between the protocols and the batcher. With one, every request is drawn on its own,
whatever its connection and its content. The client does not pay for the other revision: what does not come in time, or
is no answer, is counted against it, and the local model answers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable, Sequence

from holdfast_serving.arms import CLIENT_ERROR, INVALID, OUTCOMES, Arm, Arms, outcome_of
from holdfast_serving.golden import Kept
from holdfast_serving.inference import Array, Call, Outputs, Proxy
from holdfast_serving.lease import GOLDEN, SHADOW, Lease, Target
from holdfast_serving.peer import Peer
from holdfast_serving.predictions import Predictions
from holdfast_serving.problems import Problem
from holdfast_serving.profile import Prediction
from holdfast_serving.question import Question
from holdfast_serving.served import Served, Submit
from holdfast_serving.shadow import Comparison
from holdfast_serving.signature import Signature
from holdfast_serving.smoke import Smoke
from holdfast_serving.synthetic import Synthetic
from holdfast_serving.v2_client import Client

log = logging.getLogger(__name__)

WARMING_SECONDS = 30
"""From a target's readiness on its requests are counted apart for so long."""

HEDGE_SHARE = 0.4
"""Of the time that a request may take: what a target gets of it at most, so that the local model has some left."""

PATIENCE_SECONDS = 30.0
"""That a target may sit on a request before its connection is dropped, or twice the time that a request may take. The
request's age can be seen meanwhile."""

_QUIET_SECONDS = 10.0


class Router:
    """Stands before the batcher while a lease lasts.

    Attributes:
        lease: that is in force.
        arms: what was counted against the target of the last lease.
        peer: the connections to it.
        client: writes and reads what goes over them.
        smoke: the test of the target by golden requests; None where no lease has asked for it.
    """

    def __init__(
        self,
        served: Served,
        signature: Signature,
        run: Submit,
        turn_away: Callable[[bool], None],
        lease: Lease,
        *,
        rows: bool,
        golden: Sequence[Kept],
        prediction: Prediction | None,
        tls: Callable[[], ssl.SSLContext] | None,
        processes: int,
    ) -> None:
        """
        Args:
            run: takes a call to the local model.
            turn_away: is told whether clients shall close their connections after their next answer.
            lease: the first one.
            rows: whether every output has a row per row of input.
            golden: requests with this revision's answers.
            prediction: how both arms' predictions are counted.
            tls: gives the context of a new connection to a target that speaks TLS.
            processes: of the pod, each with a router.
        """
        self.lease: Lease | None = lease
        self.smoke: Smoke | None = None
        self.has_rows = rows
        self._served = served
        self._signature = signature
        self._golden = golden
        self._prediction = prediction
        self._tls = tls
        self._processes = processes
        self._run = run
        self._admit = served.admit
        self._turn_away = turn_away
        self._loop = asyncio.get_running_loop()
        self._ends = 0.0
        self._timers: list[asyncio.TimerHandle] = []
        self._quiet_until = 0.0
        self._told: object = None
        self._synthetic = Synthetic(golden, self._draw_own, served.timeout)
        self._begin(lease.target)
        self._connect(lease.target)
        self._follow(lease)

    def apply(self, lease: Lease) -> None:
        """Do as the lease says from now on, until it ends or another one comes."""
        target = lease.target
        if target.revision != self.arms.revision:
            self._begin(target)
        if self.lease is None or target.place != self._place:
            self.peer.retire()
            self._connect(target)
        self._cancel_timers()
        self._follow(lease)

    @property
    def seconds_left(self) -> float:
        """Of the lease."""
        return max(0.0, self._ends - self._loop.time())

    def _follow(self, lease: Lease) -> None:
        target = lease.target
        told = (lease.mode, lease.weight, target.revision, target.address)
        if self._told != told:
            self._told = told
            log.info("lease: %s %g to revision %s at %s", *told)
        warming = WARMING_SECONDS - target.ready_seconds
        self._pair = self.arms.warming if warming > 0 else self.arms.steady
        self._ends = self._loop.time() + lease.seconds
        self._timers = [self._loop.call_at(self._ends, self._expire)]
        if 0 < warming < lease.seconds:
            self._timers.append(self._loop.call_later(warming, self._settle))
        self.lease = lease
        self._hedge = min(lease.hedge, HEDGE_SHARE * self._served.timeout)
        # Who gives less time than two attempts need is not drawn: that would be unfair to the target.
        self._least_time = 2 * self._hedge
        self._weight = lease.weight
        self._served.submit = {GOLDEN: self._run, SHADOW: self._copy}.get(lease.mode, self._draw)
        # Whether there is room here says nothing about a request that goes elsewhere: the draw comes first.
        self._served.admit = _anybody if self._served.submit == self._draw else self._admit
        self._turn_away(lease.close)
        self._synthetic.draw(lease.synthetic)
        if lease.mode == GOLDEN:
            if self.smoke is None:
                self.smoke = Smoke(self, self._golden, self._comparison())
            self.smoke.go_on(lease)
        elif self.smoke is not None:
            self.smoke.rest()

    def _begin(self, target: Target) -> None:
        self.arms = Arms(target.revision, self._comparison(), self._predictions)
        if self.smoke is not None:
            self.smoke.rest()  # or what is left of it would be put to this target
            self.smoke = None

    def _comparison(self) -> Comparison:
        return Comparison(self._signature.outputs, has_rows=self.has_rows)

    def _predictions(self) -> Predictions | None:
        return Predictions(self._prediction) if self._prediction is not None else None

    def _connect(self, target: Target) -> None:
        self._place = target.place
        patience = max(PATIENCE_SECONDS, 2 * self._served.timeout)
        self.peer = Peer(target.host, target.port, patience, target.tls_name, self._tls, self._processes)
        self.client = Client(self._signature, self._served.name, target, rows=self.has_rows)

    def _settle(self) -> None:
        self._pair = self.arms.steady

    def _expire(self) -> None:
        """Nobody has renewed the lease: all requests are the local model's again."""
        log.warning("the lease has ended and was not renewed: every request is answered by this revision")
        self._told = None
        self._cancel_timers()
        self.lease = None
        self._served.submit = self._run
        self._served.admit = self._admit
        self._turn_away(False)
        self._synthetic.draw(0)
        if self.smoke is not None:
            self.smoke.rest()
        self.peer.retire()

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers = []

    # What stands before the batcher.

    def _draw(self, call: Call) -> None:
        if call.pinned or call.deadline - call.arrived < self._least_time:
            self._run(call)
        elif random.random() < self._weight:  # noqa: S311 - nobody can gain from a guess
            arm = self._pair.target
            arm.drawn += 1
            self._send(_Forward(self, call, arm))
        else:
            arm = self._pair.local
            self._run_counted(_Counted(call, arm), arm)

    def _copy(self, call: Call) -> None:
        if call.pinned or random.random() >= self._weight:  # noqa: S311
            self._run(call)
            return
        pair = self._pair
        copy = _Copy(self, call, pair.target)
        self._run_counted(_Original(call, pair.local, copy), pair.local)
        pair.target.drawn += 1
        self._send(copy)

    def _draw_own(self, call: Call) -> None:
        """Draw a golden request of the pod's own, beside its users'. Nobody waits for its answer."""
        self.arms.synthetic += 1
        if random.random() < self._weight:  # noqa: S311
            arm = self._pair.target
            arm.drawn += 1
            self._send(_Question(self, call, arm))
        else:
            arm = self._pair.local
            self._run_counted(_Counted(call, arm), arm)

    def _send(self, question: _Question) -> None:
        parts, size = self.client.request(question.call)
        self.peer.send(question, parts, size, self._hedge)

    def _run_counted(self, call: Call, arm: Arm) -> None:
        arm.drawn += 1
        try:
            self._run(call)
        except Problem as problem:
            arm.outcomes[outcome_of(problem.status)] += 1
            raise

    # For questions.

    def fall_back(self, call: Call) -> None:
        """Have the local model answer after all."""
        try:
            self._run(call)
        except Problem as problem:
            self._served.count_refused(call.protocol, problem)
            call.fail(problem)

    def report(self, revision: str, outcome: int, why: str = "") -> None:
        """Say in the log what the target did, now and then."""
        now = self._loop.time()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            words = f"{OUTCOMES[outcome]}: {why}" if why else OUTCOMES[outcome]
            log.warning("revision %s has not answered a request (%s; said at most every 10 s)", revision, words)


class _Counted(Proxy):
    """A call that was drawn for the local arm."""

    __slots__ = ("_arm",)

    def __init__(self, call: Call, arm: Arm) -> None:
        super().__init__(call)
        self._arm = arm

    def answer(self, outputs: Outputs, first: int, last: int) -> None:
        self.call.answer(outputs, first, last)
        self._arm.answered(time.perf_counter() - self.arrived, outputs, first, last)

    def fail(self, problem: Problem) -> None:
        self._arm.outcomes[outcome_of(problem.status)] += 1
        self.call.fail(problem)


class _Question(Question):
    """A call that was drawn for the target."""

    __slots__ = ("arm", "arms", "router")

    def __init__(self, router: Router, call: Call, arm: Arm) -> None:
        super().__init__(router.client, call)
        self.router = router
        self.arms = router.arms
        self.arm = arm

    def failed(self, outcome: int, why: str = "") -> None:
        self.arm.outcomes[outcome] += 1
        self.router.report(self.client.revision, outcome, why)

    def take(self, arrays: list[Array], seconds: float) -> None:
        has_rows = self.router.has_rows
        self.arm.answered(seconds, Outputs(arrays, has_rows), 0, self.call.rows if has_rows else 1)


class _Forward(_Question):
    """The target answers in place of the local model, if it can."""

    __slots__ = ()

    def failed(self, outcome: int, why: str = "") -> None:
        super().failed(outcome, why)
        self.router.fall_back(_Fallback(self.call, self.arms))

    def take(self, arrays: list[Array], seconds: float) -> None:
        router, call = self.router, self.call
        outputs = Outputs(arrays, router.has_rows, self.client.revision)
        last = call.rows if router.has_rows else 1
        try:
            call.answer(outputs, 0, last)
        except Problem as problem:  # values that the client's wire format cannot carry
            if problem.status < 500:
                router.fall_back(_Disputed(call, self.arms, self.arm))
            else:
                self.failed(INVALID)
        except Exception:
            log.exception("an answer of another revision could not be written")
            self.failed(INVALID)
        else:
            self.arm.answered(seconds, outputs, 0, last)
            self.arms.client.observe(time.perf_counter() - call.arrived)


class _Fallback(Proxy):
    """A call that comes back from the target. For the local model it begins now: the wait was not its doing."""

    __slots__ = ("_arms",)

    def __init__(self, call: Call, arms: Arms) -> None:
        super().__init__(call)
        self.arrived = time.perf_counter()
        self._arms = arms

    def answer(self, outputs: Outputs, first: int, last: int) -> None:
        self.call.answer(outputs, first, last)
        self._arms.client.observe(time.perf_counter() - self.call.arrived)


class _Disputed(_Fallback):
    """The target's answer cannot be written, perhaps by the request's own fault: that is so if ours cannot, either."""

    __slots__ = ("_arm",)

    def __init__(self, call: Call, arms: Arms, arm: Arm) -> None:
        super().__init__(call, arms)
        self._arm = arm

    def answer(self, outputs: Outputs, first: int, last: int) -> None:
        super().answer(outputs, first, last)
        self._arm.outcomes[INVALID] += 1

    def fail(self, problem: Problem) -> None:
        self._arm.outcomes[CLIENT_ERROR if problem.status < 500 else INVALID] += 1
        super().fail(problem)


class _Copy(_Question):
    """The target answers for comparison only."""

    __slots__ = ("_lease", "_ours", "_theirs")

    def __init__(self, router: Router, call: Call, arm: Arm) -> None:
        super().__init__(router, call, arm)
        self._lease = router.lease
        self._ours: Sequence[Array] | None = None
        self._theirs: Sequence[Array] | None = None

    def take(self, arrays: list[Array], seconds: float) -> None:
        super().take(arrays, seconds)
        self._theirs = arrays
        self._compare()

    def expect(self, outputs: Outputs, first: int, last: int) -> None:
        """What the local model has answered; a part of its run is copied, so that the rest can go."""
        if not self.over or self._theirs is not None:
            arrays = outputs.arrays
            self._ours = [array[first:last].copy() for array in arrays] if outputs.has_rows else arrays
            self._compare()

    def _compare(self) -> None:
        if self._ours is not None and self._theirs is not None and self._lease is not None:
            lease = self._lease
            self.arms.comparison.compare(self._ours, self._theirs, lease.relative, lease.absolute)


class _Original(_Counted):
    """A call whose copy is at the target."""

    __slots__ = ("_copy",)

    def __init__(self, call: Call, arm: Arm, copy: _Copy) -> None:
        super().__init__(call, arm)
        self._copy = copy

    def answer(self, outputs: Outputs, first: int, last: int) -> None:
        super().answer(outputs, first, last)
        try:
            self._copy.expect(outputs, first, last)
        except Exception:  # the client has its answer, and must not get another
            log.exception("an answer could not be compared with another revision's")


def _anybody(seconds: float) -> None:
    """Let every request in: the batcher asks again, when one is drawn for it."""
