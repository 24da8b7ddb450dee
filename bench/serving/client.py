"""A plain client of one connection, and a witness that looks at every word while a load runs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, Self, TypeVar

from bench.serving.questions import Question, WrongAnswerError

Asked = TypeVar("Asked", contravariant=True)


class Client:
    """One keep-alive connection. Raises OSError where the connection fails."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._rest = b""

    def ask(self, question: Question) -> int:
        """Ask and check the answer; its bytes on the wire. Raises WrongAnswerError."""
        lines = [f"POST {question.path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(question.body)}"]
        lines += [f"{name}: {value}" for name, value in question.fields.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + question.body)
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *others = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in others)}
        if "content-length" not in fields:
            raise WrongAnswerError("the answer has no Content-Length")
        size = int(fields["content-length"])
        while len(self._rest) < size:
            self._more()
        body, self._rest = self._rest[:size], self._rest[size:]
        question.check(int(first.split()[1]), fields, body)
        return len(head) + 4 + size

    def _more(self) -> None:
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionResetError("the server ended the connection")
        self._rest += data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()


class Asker(Protocol[Asked]):
    """A client: a connection that is closed at the end of a `with`."""

    def ask(self, question: Asked) -> int:
        """The answer's bytes. Raises WrongAnswerError."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Witness(threading.Thread, Generic[Asked]):
    """Asks beside the load, one question after the other, and keeps what was wrong.

    Attributes:
        asked: answers that were right.
        error: the first wrong one, or a failure of the connection; then no more is asked.
        size: bytes of the last answer.
    """

    def __init__(self, client: Callable[[], Asker[Asked]], questions: Sequence[Asked], *, pause: float = 0.05) -> None:
        super().__init__(daemon=True)
        self._client, self._questions, self._pause = client, questions, pause
        self._over = threading.Event()
        self.asked = 0
        self.size = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with self._client() as client:
                while not self._over.wait(self._pause):
                    self.size = client.ask(self._questions[self.asked % len(self._questions)])
                    self.asked += 1
        except (OSError, WrongAnswerError) as error:
            self.error = error

    def finish(self) -> None:
        """End it. Raises WrongAnswerError when anything was wrong, or nothing was asked."""
        self._over.set()
        self.join()
        if self.error is not None:
            raise WrongAnswerError(f"beside the load: {self.error}") from self.error
        if not self.asked:
            raise WrongAnswerError("nothing was answered beside the load")
