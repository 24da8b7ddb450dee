"""The wire format of protobuf, as far as it pays to know it: large requests are cut, and answers written, without
copies of their tensors.
"""

from __future__ import annotations

from holdfast_serving.problems import Problem

MAX_STRUCTURE_BYTES = 64 << 10
"""Of a request beside its tensors. Every two bytes of it can become an object of a hundred."""

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_INPUTS = 5 << 3 | _BYTES  # fields of ModelInferRequest
_RAW = 7 << 3 | _BYTES
_CONTENTS = 5 << 3 | _BYTES  # a field of its InferInputTensor

_SHORT = [bytes((value,)) for value in range(128)]


def varint(value: int) -> bytes:
    """A number that is not negative."""
    if value < 128:
        return _SHORT[value]
    made = bytearray()
    while value >= 128:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def begin(field: int, size: int) -> bytes:
    """What comes before the `size` bytes of a text, a message or packed numbers."""
    return varint(field << 3 | _BYTES) + varint(size)


def field(number: int, content: bytes) -> bytes:
    """A text, a message or packed numbers."""
    return begin(number, len(content)) + content


def split(request: memoryview) -> tuple[bytes, list[memoryview], int]:
    """(a ModelInferRequest without raw_input_contents, those, bytes of other contents).

    Raises Problem for what is no message, and for more structure than a request can need.
    """
    kept: list[memoryview] = []
    raw: list[memoryview] = []
    structure = typed = 0
    try:
        for tag, start, content, end in _Fields(request):
            if tag == _RAW:
                raw.append(request[content:end])
                structure += content - start
                continue
            kept.append(request[start:end])
            structure += end - start
            if tag == _INPUTS:
                inner = request[content:end]
                for inner_tag, _, inner_content, inner_end in _Fields(inner):
                    if inner_tag == _CONTENTS:
                        typed += inner_end - inner_content
                        structure -= inner_end - inner_content
            if structure > MAX_STRUCTURE_BYTES:
                raise Problem(413, f"a request has more than {MAX_STRUCTURE_BYTES} bytes beside its tensors")
    except (IndexError, ValueError):
        raise Problem(400, "the message is not of its type") from None
    return b"".join(kept), raw, typed


def elements(request: bytes) -> list[tuple[int, int]]:
    """Where the elements of the inputs lie in a well-formed ModelInferRequest, in its order: (start, end) of each."""
    found = []
    view = memoryview(request)
    for tag, _, start, end in _Fields(view):
        if tag == _RAW:
            found.append((start, end))
        elif tag == _INPUTS:
            for inner, _, first, last in _Fields(view[start:end]):
                if inner == _CONTENTS:
                    contents = _Fields(view[start + first : start + last])
                    found += [(start + first + begin, start + first + stop) for _, _, begin, stop in contents]
    return found


class _Fields:
    """Iterates over the fields of a message: (tag, where it starts, where its content does, where it ends)."""

    __slots__ = ("_data", "_end", "_left", "_position")

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0
        self._end = len(data)
        self._left = MAX_STRUCTURE_BYTES

    def __iter__(self) -> _Fields:
        return self

    def __next__(self) -> tuple[int, int, int, int]:
        """Raises ValueError or IndexError for what is no message."""
        start = self._position
        if start == self._end:
            raise StopIteration
        self._left -= 2  # a field has two bytes at least
        if self._left < 0:
            raise Problem(413, f"a request has more than {MAX_STRUCTURE_BYTES} bytes beside its tensors")
        tag, position = read(self._data, start)
        if tag < 8:
            raise ValueError(tag)  # no field has the number 0
        content = position
        kind = tag & 7
        if kind == _BYTES:
            length, content = read(self._data, position)
            position = content + length
        elif kind == _VARINT:
            _, position = read(self._data, position)
        elif kind in (_EIGHT, _FOUR):
            position += 8 if kind == _EIGHT else 4
        else:
            raise ValueError(kind)
        if position > self._end:
            raise ValueError(position)
        self._position = position
        return tag, start, content, position


def read(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """(varint, where it ends)."""
    value = shift = 0
    while True:
        octet = data[position]
        position += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(value)
