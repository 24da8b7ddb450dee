"""What Prometheus says of the rows of all ModelDeployments with `spec.monitoring`: asked by the clock, kept for passes.

Windows move in steps, and a model is asked about once in each. What was found stands until the next answer, or until it
is a whole window old: one outage changes nothing, and nothing is ever guessed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.kube import metrics
from holdfast.kube.kinds import MODEL_DEPLOYMENT, Key
from holdfast.kube.queue import WorkQueue
from holdfast.kube.slo import LEAST_ROUND_SECONDS, PATIENCE
from holdfast.kube.store import Store
from holdfast.plan import drift
from holdfast.plan.drift import Answer, Findings, NoSignal, Signal, Wish
from holdfast.signals.drift import Asked, DriftReader, Seen
from holdfast.signals.prometheus import Address, Fault, session
from holdfast.signals.slo import Model

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    """The last findings of a model, and what they are about."""

    wish: Wish
    end: int
    """Of the newest window, by Prometheus' clock."""
    at: float
    """By ours, which only goes forward."""
    findings: Findings


class DriftWatch:
    """Asks for ever, and wakes those of whom something else is known."""

    def __init__(
        self,
        address: Address | None,
        seconds: float,
        window_seconds: int,
        namespaces: tuple[str, ...],
        store: Store,
        queue: WorkQueue[Key],
    ) -> None:
        """`seconds`: between two rounds."""
        self._address = address
        self._seconds = seconds
        self._round_seconds = max(seconds, LEAST_ROUND_SECONDS)
        self._window_seconds = window_seconds
        self._reader = DriftReader(window_seconds, namespaces)
        self._store = store
        self._queue = queue
        self._found: dict[Model, _Found] = {}
        self._missed: Counter[Model] = Counter()
        """Rounds in a row without an answer about a model."""
        self._at_rest: set[Model] = set()
        """Models that are to have no pods."""
        self._said: dict[Model, Answer] = {}
        self._fault = ""

    def answer(self, key: Key) -> Answer:
        """The newest one about a ModelDeployment."""
        if self._address is None:
            return drift.NOT_CONFIGURED
        return self._said.get(Model(key.namespace, key.name))

    async def run(self) -> None:
        """For ever."""
        if self._address is None:
            return
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._seconds
            if wanted := self._wanted():
                told = await self._ask(self._address, wanted)
                self._missed = Counter({asked.model: self._missed[asked.model] + 1 for asked in wanted.keys() - told})
            self._tell({asked.model for asked in wanted}, loop.time())
            await asyncio.sleep(max(0.0, due - loop.time()))

    def _wanted(self) -> dict[Asked, Wish]:
        wanted: dict[Asked, Wish] = {}
        self._at_rest = set()
        for key in self._store.owners():
            resource = self._store.resource(key) if key.kind == MODEL_DEPLOYMENT.name else None
            if resource and (wish := drift.wish(resource.spec)) and not self._store.is_left_alone(key.namespace):
                model = Model(key.namespace, key.name)
                if revision := resource.status.get("stableRevision"):
                    wanted[Asked(model, revision)] = wish
                if (resource.spec.get("serving") or {}).get("replicas") == 0:
                    self._at_rest.add(model)
        return wanted

    async def _ask(self, address: Address, wanted: Mapping[Asked, Wish]) -> set[Asked]:
        """One round. Gives those that there is no want of word about: what it has no time for is left to the next."""
        fault, kind = "", "ok"
        told: set[Asked] = set()
        ends = asyncio.get_running_loop().time() + self._round_seconds
        try:
            async with session(address) as questions:
                seen = await self._reader.seen(questions)
                there = wanted.keys() & seen.profiles.keys()
                due = [asked for asked in wanted if asked in there and self._is_due(asked, wanted[asked], seen)]
                due.sort(
                    key=lambda asked: self._missed[asked.model]
                )  # those that failed last time stand in nobody's way
                told |= there - set(due)
                left = set(due)
                async for asked, signal in self._reader.read(questions, due, seen, ends):
                    left.discard(asked)
                    if signal is not None:
                        await self._take(asked, wanted[asked], seen, signal)
                        told.add(asked)
                told |= left
        except Fault as error:
            fault, kind = str(error), error.kind
        metrics.PROMETHEUS_ROUNDS.labels(kind).inc()
        if fault != self._fault:
            log.warning("%s", fault) if fault else log.info("Prometheus answers again")
        self._fault = fault
        return told

    def _is_due(self, asked: Asked, wish: Wish, seen: Seen) -> bool:
        found = self._found.get(asked.model)
        return found is None or (found.findings.revision, found.wish, found.end) != (asked.revision, wish, seen.end)

    async def _take(self, asked: Asked, wish: Wish, seen: Seen, signal: Signal) -> None:
        findings = await asyncio.to_thread(drift.found, wish, signal)
        self._found[asked.model] = _Found(wish, seen.end, asyncio.get_running_loop().time(), findings)

    def _tell(self, wanted: set[Model], now: float) -> None:
        self._found = {model: found for model, found in self._found.items() if model in wanted}
        said = {model: self._answer(model, now) for model in wanted | self._at_rest}
        for model, answer in said.items():
            if answer != self._said.get(model):
                self._queue.add(Key(MODEL_DEPLOYMENT.name, model.namespace, model.name))
        self._said = said

    def _answer(self, model: Model, now: float) -> Answer:
        if model in self._at_rest:
            return drift.SCALED_TO_ZERO
        found = self._found.get(model)
        if found and now - found.at < self._window_seconds:
            return found.findings
        if self._missed[model] < PATIENCE:
            return found.findings if found else None
        return NoSignal("MetricsUnavailable", self._fault or "Prometheus has no fresh metrics of its pods")
