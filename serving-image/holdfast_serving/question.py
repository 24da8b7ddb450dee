"""A call as it is put to another revision."""

from __future__ import annotations

from holdfast_serving.arms import FAILED, INVALID, OK, REFUSED, REJECTED, TIMEOUT
from holdfast_serving.inference import Array, Call
from holdfast_serving.peer import Answer, Exchange
from holdfast_serving.v2_client import Client, InvalidAnswer


class Question(Exchange):
    """One of `take` and `failed` is called, once."""

    __slots__ = ("call", "client")

    def __init__(self, client: Client, call: Call) -> None:
        self.client = client
        self.call = call

    def answered(self, answer: Answer) -> None:
        outcome = _outcome_at_target(answer.status)
        if outcome != OK:
            self.failed(outcome)
            return
        try:
            arrays, seconds = self.client.read(answer.fields, answer.body, self.call.rows)
        except InvalidAnswer as problem:
            self.failed(INVALID, str(problem))
        else:
            self.take(arrays, seconds)

    def failed(self, outcome: int, why: str = "") -> None:
        """There is no answer, or none that fits the question; `why` in words, without values."""
        raise NotImplementedError

    def take(self, arrays: list[Array], seconds: float) -> None:
        """An answer is there that fits the question. `seconds`: that the target had it."""
        raise NotImplementedError


def _outcome_at_target(status: int) -> int:
    """How a request ended at the target: one that this pod has found to be in order."""
    if status == 200:
        return OK
    if status < 400:
        return INVALID
    if status < 500:
        return REFUSED
    return {503: REJECTED, 504: TIMEOUT}.get(status, FAILED)
