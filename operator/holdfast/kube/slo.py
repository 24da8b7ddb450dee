"""What Prometheus says of all ModelDeployments with an SLO: asked by the clock, kept for the passes.

One answer that does not come, or cannot be believed, changes nothing; the second in a row is said. Nothing is ever
guessed: of a model that Prometheus does not tell about there is no signal.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping

from holdfast.kube import metrics
from holdfast.kube.kinds import MODEL_DEPLOYMENT, Key
from holdfast.kube.queue import WorkQueue
from holdfast.kube.store import Store
from holdfast.plan import slo
from holdfast.plan.slo import NoSignal, Objectives, SloSignal
from holdfast.signals.prometheus import Address, Fault, session
from holdfast.signals.slo import Model, SloReader

PATIENCE = 2
"""So many rounds in a row without an answer about a model, and there is no signal."""
LEAST_ROUND_SECONDS = 5.0
log = logging.getLogger(__name__)


class SloWatch:
    """Asks for ever, and wakes those of whom something else is to be said."""

    def __init__(
        self, address: Address | None, seconds: float, namespaces: tuple[str, ...], store: Store, queue: WorkQueue[Key]
    ) -> None:
        self._address = address
        self._seconds = seconds
        self._round_seconds = max(seconds, LEAST_ROUND_SECONDS)
        self._reader = SloReader(namespaces)
        self._store = store
        self._queue = queue
        self._signals: dict[Model, SloSignal] = {}
        self._missed: Counter[Model] = Counter()
        """Rounds in a row without an answer about a model."""
        self._at_rest: set[Model] = set()
        """Models that are to have no pods."""
        self._said: dict[Model, object] = {}
        """What a pass would make of the last signal of each model."""
        self._fault = ""

    def signal(self, key: Key) -> slo.Answer:
        """The newest one of a ModelDeployment."""
        if self._address is None:
            return slo.NOT_CONFIGURED
        return self._signal(Model(key.namespace, key.name))

    def _signal(self, model: Model) -> slo.Answer:
        if self._missed[model] < PATIENCE:
            return self._signals.get(model)
        if model in self._at_rest:
            return slo.SCALED_TO_ZERO
        return NoSignal("MetricsUnavailable", self._fault or "Prometheus has no fresh metrics of its pods")

    async def run(self) -> None:
        """For ever."""
        if self._address is None:
            return
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._seconds
            wanted = self._wanted()
            if wanted:
                self._take(wanted, await self._ask(self._address, wanted))
            await asyncio.sleep(max(0.0, due - loop.time()))

    def _wanted(self) -> dict[Model, Objectives]:
        wanted: dict[Model, Objectives] = {}
        self._at_rest = set()
        for key in self._store.owners():
            resource = self._store.resource(key) if key.kind == MODEL_DEPLOYMENT.name else None
            if resource and (found := slo.objectives(resource.spec)) and not self._store.is_left_alone(key.namespace):
                model = Model(key.namespace, key.name)
                wanted[model] = found
                if (resource.spec.get("serving") or {}).get("replicas") == 0:
                    self._at_rest.add(model)
        return wanted

    async def _ask(self, address: Address, wanted: Mapping[Model, Objectives]) -> Mapping[Model, SloSignal]:
        """One round. A long one is cut off; what it has learned is kept for the next."""
        fault, kind = "", "ok"
        answers: Mapping[Model, SloSignal] = {}
        try:
            async with asyncio.timeout(self._round_seconds), session(address) as questions:
                answers = await self._reader.read(questions, wanted, asyncio.get_running_loop().time())
        except Fault as error:
            fault, kind = str(error), error.kind
        except TimeoutError:
            fault, kind = f"Prometheus did not answer all questions within {self._round_seconds:g} s", "timeout"
        metrics.PROMETHEUS_ROUNDS.labels(kind).inc()
        if fault != self._fault:
            log.warning("%s", fault) if fault else log.info("Prometheus answers again")
        self._fault = fault
        return answers

    def _take(self, wanted: Mapping[Model, Objectives], answers: Mapping[Model, SloSignal]) -> None:
        self._missed = Counter({model: self._missed[model] + 1 for model in wanted if model not in answers})
        self._signals = {model: signal for model, signal in self._signals.items() if model in wanted} | dict(answers)
        said: dict[Model, object] = {}
        for model, asked in wanted.items():
            answer = self._signal(model)
            said[model] = slo.judged(asked, answer.service).said if isinstance(answer, SloSignal) else answer
            if said[model] != self._said.get(model):
                self._queue.add(Key(MODEL_DEPLOYMENT.name, model.namespace, model.name))
        self._said = said
