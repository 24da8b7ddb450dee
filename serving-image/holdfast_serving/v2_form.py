"""Requests that are known but for their values: one row, each feature an input of its own.

Clients repeat themselves. A text like that of an earlier request, but for the one element of each input, need not be
taken apart again: its elements stand where that one's stood. They alone are parsed, all at once.

That is sound for any text: the first request was checked as a whole; all between the elements is compared byte for
byte; and what stands in an element's place is one JSON value, since together they parse as a list of as many values as
there are inputs. Whatever else a text may be, it is read in the usual way.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from holdfast_serving.inference import Data
from holdfast_serving.v2_request import Input

_MARKS = (b'"data":[', b'"data": [')
_LEARN_EVERY = 16
"""Requests that are not known: finding out about a form costs more than reading a request."""


class Forms:
    """What is known of a model's requests.

    Attributes:
        shapes: of the inputs of such a request.
    """

    def __init__(self, inputs: Sequence[Input]) -> None:
        """`inputs` have one element in each row."""
        self.shapes: list[Sequence[int]] = [list(given.row) for given in inputs]
        self._names = [given.name for given in inputs]
        self._accepts = [given.accepts for given in inputs]
        self._pack = [_packer(given.code) for given in inputs]
        self._known: list[tuple[bytes, bytes, list[bytes]]] = []  # mark, what is before the first one, between elements
        self._more = len(inputs) - 1
        self._missed = 0

    def read(self, body: bytes) -> list[Data] | None:
        """The inputs of a request; None if it has to be read in the usual way."""
        for mark, head, between in self._known:
            if body.startswith(head):
                parts = [part.partition(b"]") for part in body[len(head) :].split(mark, self._more)]
                if [rest for _, _, rest in parts] == between:
                    return self._read([value for value, _, _ in parts])
        return None

    def learn(self, body: bytes) -> None:
        """Hear of a request of one row, without options, that was read in the usual way."""
        self._missed += 1
        if self._missed % _LEARN_EVERY:
            return
        for mark in _MARKS:
            head, found, rest = body.partition(mark)
            parts = [part.partition(b"]") for part in rest.split(mark, self._more)]
            between = [rest for _, _, rest in parts]
            if found and len(parts) == len(self._names) and self._is_form(mark, head + mark, between):
                self._known = [form for form in self._known if form[0] != mark] + [(mark, head + mark, between)]

    def _is_form(self, mark: bytes, head: bytes, between: Sequence[bytes]) -> bool:
        """Whether elements that are put into it are those of the inputs in their order."""
        tried = [b"%d]%b" % (number, rest) for number, rest in enumerate(between)]
        items = orjson.loads(head + mark.join(tried))["inputs"]
        return [(item["name"], item["data"]) for item in items] == [(n, [i]) for i, n in enumerate(self._names)]

    def _read(self, values: Sequence[bytes]) -> list[Data] | None:
        try:
            elements = orjson.loads(b"[%b]" % b",".join(values))
            if len(elements) != len(self._accepts):
                return None
            for element, accepted in zip(elements, self._accepts):  # noqa: B905 - as long as each other
                if type(element) not in accepted:
                    return None
            return [pack(element) for pack, element in zip(self._pack, elements)]  # noqa: B905
        except (orjson.JSONDecodeError, struct.error, OverflowError):
            return None  # the usual way has words for it


def _packer(code: str | None) -> Callable[[Any], Data]:
    return _text if code is None else struct.Struct("<" + code).pack


def _text(element: str) -> Data:
    return [element]
