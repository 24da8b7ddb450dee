"""Writing V2 answers: the outputs of a run to JSON and bytes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from struct import Struct
from typing import Any

import orjson

from holdfast_bundle.manifest import Tensor
from holdfast_serving.inference import Array, Outputs
from holdfast_serving.problems import Problem, quoted

_LENGTH = Struct("<I")  # before every element of BYTES
_MAX_LAYOUTS = 100
_NO_TEXTS: Mapping[int, Array] = {}


class NotANumberError(Problem):
    """An output holds NaN or infinity, for which JSON has no number."""

    def __init__(self, output: str) -> None:
        super().__init__(500, f"output {quoted(output)} holds NaN or infinity, which JSON cannot carry")


class Answers:
    """Writes the answers of one revision of a model."""

    def __init__(self, outputs: Sequence[Tensor], model_name: str, version: str) -> None:
        self.names = [tensor.name for tensor in outputs]
        self.begin = orjson.dumps({"model_name": model_name, "model_version": version})[:-1] + b","
        self._heads = [
            orjson.dumps({"name": tensor.name, "datatype": tensor.datatype})[:-1] + b',"shape":[' for tensor in outputs
        ]
        self._layouts: dict[object, _Layout] = {}

    def of_run(self, outputs: Outputs) -> Run:
        """What all calls that were in a run have in common."""
        skip = 1 if outputs.has_rows else 0
        shapes = tuple([array.shape[skip:] for array in outputs.arrays])
        layout = self._layouts.get(shapes)
        if layout is None:
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[shapes] = _Layout(self, shapes, outputs.has_rows)
        return Run(layout, outputs)

    def output(self, index: int, shape: bytes, data: bytes) -> bytes:
        """One output object."""
        return b'%b%b],"data":[%b]}' % (self._heads[index], shape, data)

    def binary_output(self, index: int, shape: bytes, size: int) -> bytes:
        """One output object whose elements are behind the JSON."""
        return b'%b%b],"parameters":{"binary_data_size":%d}}' % (self._heads[index], shape, size)

    def texts(self, index: int, array: Array, parts: list[bytes] | None) -> bytes:
        """An output object with texts in the place of the output's elements, which go to `parts` if there are any."""
        output: dict[str, Any] = {"name": self.names[index], "datatype": "BYTES", "shape": array.shape}
        if parts is None:
            output["data"] = array.ravel().tolist()
        else:
            parts.append(_length_prefixed(array))
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        return orjson.dumps(output)


class _Layout:
    """All of an answer that depends on the shapes alone.

    Attributes:
        row_shapes: JSON of the dimensions behind the rows, with a comma before each; of all for outputs without.
        frame: a whole answer of one row with all outputs, to be filled in by `%`.
        heads: the JSON of answers with all outputs in bytes, by the number of rows.
    """

    def __init__(self, answers: Answers, shapes: Sequence[tuple[int, ...]], has_rows: bool) -> None:
        self.answers = answers
        texts = [orjson.dumps(list(shape))[1:-1] for shape in shapes]
        self.row_shapes = [b"," + text if text and has_rows else text for text in texts]
        mark = b"\x00"  # JSON text never holds one
        listed = [
            answers.output(index, b"1" + shape if has_rows else shape, mark)
            for index, shape in enumerate(self.row_shapes)
        ]
        whole = b'%b"outputs":[%b]}' % (answers.begin, b",".join(listed))
        self.frame = whole.replace(b"%", b"%%").replace(mark, b"%b")
        self.heads: dict[int, bytes] = {}


class Run:
    """The outputs of one run, written as they are asked for.

    All rows of an output are turned into JSON in one call and then cut apart, which costs far less than a call per row.
    """

    __slots__ = ("_arrays", "_broken", "_has_rows", "_layout", "_pieces", "_rows")

    def __init__(self, layout: _Layout, outputs: Outputs) -> None:
        self._layout = layout
        self._has_rows = outputs.has_rows
        self._arrays = outputs.arrays
        self._broken: set[int] = set()  # outputs with a value that is no number
        self._pieces: list[list[bytes]] = [[]] * len(outputs.arrays)  # JSON of the rows; empty until it is needed
        self._rows: list[tuple[bytes, ...]] = []

    def answer(self, first: int, last: int) -> bytes:
        """All outputs of rows `first` to `last` (not included) in JSON without id. Raises NotANumberError."""
        if not self._rows:
            self._pieces = [self._cut(index, array) for index, array in enumerate(self._arrays)]
            self._rows = list(zip(*self._pieces, strict=True))
        if last - first == 1 and not self._broken:
            return self._layout.frame % self._rows[first]
        return self.chosen_answer(None, range(len(self._pieces)), (), first, last)[0]

    def binary_answer(self, first: int, last: int) -> tuple[bytes, int]:
        """(all outputs in bytes, as an answer without id; bytes of it that are JSON)."""
        layout, rows = self._layout, last - first
        head = layout.heads.get(rows)
        if head is None:
            every = range(len(self._arrays))
            answer, size = self.chosen_answer(None, every, every, first, last)
            if all(array.dtype.kind != "O" for array in self._arrays) and len(layout.heads) < _MAX_LAYOUTS:
                layout.heads[rows] = answer[:size]
            return answer, size
        parts: list[Any] = [array[first:last] for array in self._arrays] if self._has_rows else self._arrays
        return b"".join([head, *parts]), len(head)  # the runtime's arrays are whole buffers

    def chosen_answer(
        self,
        identifier: str | None,
        wanted: Sequence[int],
        binary: Collection[int],
        first: int,
        last: int,
        parameters: Mapping[str, str] | None = None,
        texts: Mapping[int, Array] = _NO_TEXTS,
    ) -> tuple[bytes, int]:
        """(some outputs, by their indices, and the id of the request; bytes of it that are JSON).

        Args:
            binary: those of `wanted` that go in bytes.
            parameters: of the answer.
            texts: arrays of str that stand for some outputs, by the indices of these.

        Raises:
            NotANumberError: of those that go in JSON.
        """
        answers = self._layout.answers
        count = b"%d" % (last - first) if self._has_rows else b""
        listed: list[bytes] = []
        parts: list[bytes] = []
        for index in wanted:
            if index in texts:
                listed.append(answers.texts(index, texts[index], parts if index in binary else None))
                continue
            shape = count + self._layout.row_shapes[index]
            if index in binary:
                data = self._bytes(index, first, last)
                listed.append(answers.binary_output(index, shape, len(data)))
                parts.append(data)
                continue
            text = b",".join(self._json(index)[first:last])
            if index in self._broken and b"null" in text:
                raise NotANumberError(answers.names[index])
            listed.append(answers.output(index, shape, text))
        begin = answers.begin if identifier is None else b'%b"id":%b,' % (answers.begin, orjson.dumps(identifier))
        if parameters:
            begin += b'"parameters":%b,' % orjson.dumps(parameters)
        head = b'%b"outputs":[%b]}' % (begin, b",".join(listed))
        return b"".join([head, *parts]), len(head)

    def _bytes(self, index: int, first: int, last: int) -> bytes:
        """An output's rows in row-major order, little-endian."""
        array = self._arrays[index]
        if self._has_rows:
            array = array[first:last]
        if array.dtype.kind == "O":
            return _length_prefixed(array)
        return array.tobytes()

    def _json(self, index: int) -> list[bytes]:
        """The elements of each row as JSON text; of an array without rows all in one piece."""
        pieces = self._pieces[index]
        if not pieces:
            pieces = self._pieces[index] = self._cut(index, self._arrays[index])
        return pieces

    def _cut(self, index: int, array: Array) -> list[bytes]:
        kind = array.dtype.kind
        if kind == "O":  # texts could hold the mark to cut at
            rows = array.reshape(len(array) if self._has_rows else 1, -1).tolist()
            return [orjson.dumps(row)[1:-1] for row in rows]
        if not self._has_rows or array.ndim > 2:
            array = array.reshape(len(array) if self._has_rows else 1, -1)
        text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
        if kind == "f" and b"null" in text:  # what orjson writes for NaN and infinity
            self._broken.add(index)
        return text[1:-1].split(b",") if array.ndim == 1 else text[2:-2].split(b"],[")


def _length_prefixed(array: Array) -> bytes:
    """Texts as BYTES have them."""
    texts = [text.encode() for text in array.ravel().tolist()]
    return b"".join([part for text in texts for part in (_LENGTH.pack(len(text)), text)])
