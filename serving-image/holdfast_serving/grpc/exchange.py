"""What a service sees of a call, whatever carries it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from holdfast_serving.grpc.frames import Buffer
from holdfast_serving.problems import Problem

MAX_UNANSWERED = 32
"""Messages of one stream that may be in work; those behind them wait, and soon their sender, too."""


class Exchange(ABC):
    """One call.

    Attributes:
        deadline: time.perf_counter() at which its client gives up; infinity if it has not said.
    """

    __slots__ = ()

    deadline: float

    @property
    @abstractmethod
    def gone(self) -> bool:
        """Whether nobody waits for an answer any more."""

    @abstractmethod
    def reply(self, parts: Sequence[Buffer]) -> None:
        """Answer a message with one, which is `parts` one after the other. It ends a unary call."""

    @abstractmethod
    def close(self) -> None:
        """End a stream; all is well."""

    @abstractmethod
    def fail(self, problem: Problem) -> None:
        """End the call with an error."""


class Conversation(ABC):
    """The service's side of a call with streams. Every message that it receives gets one reply, sooner or later."""

    __slots__ = ()

    @abstractmethod
    def receive(self, message: Buffer) -> None:
        """A message. Raises Problem to end the call."""

    @abstractmethod
    def finish(self) -> None:
        """The client has sent its last message."""

    @abstractmethod
    def leave(self) -> None:
        """The call is over, whoever has ended it."""


@dataclass(frozen=True, slots=True)
class Unary:
    """A method with one message each way. `call` answers by `reply`, now or later, or raises Problem."""

    call: Callable[[Exchange, Buffer], None]


@dataclass(frozen=True, slots=True)
class Streaming:
    """A method with streams of messages."""

    open: Callable[[Exchange], Conversation]


Method: TypeAlias = Unary | Streaming
