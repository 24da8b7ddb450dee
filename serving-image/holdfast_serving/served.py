"""What a pod serves, as every protocol sees it: one revision of one model, which may still be loading."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from holdfast_serving.metrics import Collector, Metrics, outcome_of
from holdfast_serving.problems import Problem

if TYPE_CHECKING:  # numpy and the runtime are imported with the model, not before the ports are open
    from holdfast_serving.feedback import Feedback
    from holdfast_serving.inference import Call
    from holdfast_serving.signature import Signature

VERSION = "0.1.0"

Admit: TypeAlias = Callable[[float], None]
"""Raises Problem when a request with so many seconds cannot be answered in time."""

Submit: TypeAlias = "Callable[[Call], None]"
"""Takes a checked call, which is answered later. Raises Problem when it cannot be taken."""


Tell: TypeAlias = Callable[[Any], Any]
"""Says something about this process, or has it do something, and returns what can be written as JSON."""

Then: TypeAlias = Callable[[Any], None]
Fail: TypeAlias = Callable[[Problem], None]

Ask: TypeAlias = Callable[[str, Any, Then, Fail], None]
"""Asks by a name in `Served.tells`, with an argument: one of the two is called, now or later. Raises Problem."""


class Served:
    """A model's name and revision, and the model once it is there.

    Attributes:
        collectors: of all that is counted about it.
        feedback: takes true labels; None where there is no key for receipts.
        timeout: seconds that a request may take.
        ready: whether the pod wants requests. Those that come all the same are answered if that is possible.
        reachable: whether its ports are open and the model is there. It outlasts `ready`: see `lifecycle`.
        doing: in words, why the pod is not ready: how far the model is on its way.
        admit: asked by protocols before they take a request apart.
        submit: where protocols put calls. Whoever wants to have a say in where a call is run stands here.
        signature: None until the model is loaded.
        metadata: the model's metadata in V2; empty until it is loaded.
        tells: what this process can be asked by another one of the pod, or by itself.
        gather: asks all processes of the pod, `then` gets a list of answers. The first one is that of the pod's first.
        consult: asks the first process, which knows what there may be only one of.
    """

    def __init__(self, name: str, revision: str, metrics: Metrics, timeout: float) -> None:
        self.name = name
        self.revision = revision
        self.metrics = metrics
        self.collectors: list[Collector] = [metrics]
        self.feedback: Feedback | None = None
        self.timeout = timeout
        self.ready = self.reachable = False
        self.doing = "starts"
        self.admit: Admit = _refuse
        self.submit: Submit = _refuse
        self.signature: Signature | None = None
        self.metadata: dict[str, Any] = {}
        self.tells: dict[str, Tell] = {"live": lambda _: True}
        self.gather: Ask = lambda what, argument, then, fail: then([self.tells[what](argument)])
        self.consult: Ask = lambda what, argument, then, fail: then(self.tells[what](argument))

    def open(self, signature: Signature, metadata: dict[str, Any], admit: Admit, submit: Submit) -> None:
        """The model is there: requests may come."""
        self.signature = signature
        self.metadata = metadata
        self.admit = admit
        self.submit = submit
        self.ready = self.reachable = True
        self.doing = "stops"  # nothing else is a reason any more

    def tell(self, doing: str) -> None:
        """How far the model is; from any thread."""
        self.doing = doing

    def count_refused(self, protocol: int, problem: Problem) -> None:
        """Count an inference request that did not become a call, or was not taken."""
        self.metrics.requests[protocol].outcomes[outcome_of(problem)] += 1


class UnavailableProblem(Problem):
    """503: this pod cannot answer; another may."""


def loading() -> Problem:
    """What a request is told that came before the model."""
    return UnavailableProblem(503, "the model is still being loaded", b"retry-after: 1\r\n")


def going() -> Problem:
    """What a call is told that would keep the pod from ending."""
    return UnavailableProblem(503, "this pod is going; call again", b"retry-after: 1\r\n")


def _refuse(_: object) -> NoReturn:
    raise loading()
