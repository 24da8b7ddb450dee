"""Writing ModelInferResponse: the outputs of a run to bytes.

Packed numbers are the arrays' own bytes, so an answer is put together from them without an object per element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from holdfast_bundle.manifest import Tensor
from holdfast_serving.grpc.frames import Buffer
from holdfast_serving.grpc.wire import begin, field, varint
from holdfast_serving.inference import Array, Outputs

CONTENTS = {
    "BOOL": 1, "INT8": 2, "INT16": 2, "INT32": 2, "INT64": 3, "UINT8": 4, "UINT16": 4, "UINT32": 4, "UINT64": 5,
    "FP32": 6, "FP64": 7, "BYTES": 8,
}  # fmt: skip
"""Fields of InferTensorContents by datatype; FP16 has none."""

_MODEL, _VERSION, _ID, _PARAMETERS, _OUTPUTS, _RAW = 1, 2, 3, 4, 5, 6  # fields of ModelInferResponse
_ENTRY_NAME, _ENTRY_VALUE, _TEXT_PARAMETER = 1, 2, 3  # of an entry of its parameters, and of InferParameter
_NAME, _DATATYPE, _SHAPE, _CONTENTS = 1, 2, 3, 5  # of its InferOutputTensor
_MAX_FRAMES = 100
_MAX_FRAMED_BYTES = 16 << 10  # of a row; of larger ones every copy counts
_NARROW = 128  # numbers below are one byte each

_Cut = tuple[bytes, list[tuple[bytes, ...]]]
"""A frame, and what fills it for each row."""


def parameter(name: str, text: str) -> bytes:
    """A parameter of an answer."""
    value = field(_TEXT_PARAMETER, text.encode())
    return field(_PARAMETERS, field(_ENTRY_NAME, name.encode()) + field(_ENTRY_VALUE, value))


class Answers:
    """Writes the answers of one revision of a model."""

    def __init__(self, outputs: Sequence[Tensor], model_name: str, version: str) -> None:
        self._model = model_name
        self._begin = self._begin_for(version)
        self._heads = [
            field(_NAME, tensor.name.encode()) + field(_DATATYPE, tensor.datatype.encode()) for tensor in outputs
        ]
        self._text_heads = [field(_NAME, tensor.name.encode()) + field(_DATATYPE, b"BYTES") for tensor in outputs]
        self._fields = [CONTENTS.get(tensor.datatype, 0) for tensor in outputs]
        self._frames: dict[object, bytes] = {}

    def of_run(self, outputs: Outputs) -> Run:
        """For all calls that were in a run."""
        return Run(self, outputs)

    def begin(self, version: str | None, identifier: str) -> bytes:
        """All of an answer but its outputs; None for the revision that is served."""
        made = self._begin if version is None else self._begin_for(version)
        return made + field(_ID, identifier.encode()) if identifier else made

    def output(self, index: int, shape: Sequence[int], contents: bytes = b"", *, texts: bool = False) -> bytes:
        """What comes before an output's elements: its name and form, and `contents`, the beginning of them.

        Args:
            texts: whether they are texts, which may stand for what the model gives.
        """
        dimensions = b"".join(map(varint, shape))
        head = self._text_heads[index] if texts else self._heads[index]
        return head + (field(_SHAPE, dimensions) if shape else b"") + contents

    def typed(self, index: int, shape: Sequence[int], size: int) -> bytes:
        """An output up to the `size` bytes of its packed numbers."""
        packed = begin(self._fields[index], size) if size else b""
        head = self.output(index, shape, begin(_CONTENTS, len(packed) + size) + packed)
        return begin(_OUTPUTS, len(head) + size) + head

    def texts(self, index: int, shape: Sequence[int], texts: Sequence[str]) -> bytes:
        """A whole output of texts."""
        listed = b"".join([field(CONTENTS["BYTES"], text.encode()) for text in texts])
        return field(_OUTPUTS, self.output(index, shape, field(_CONTENTS, listed), texts=True))

    def frame(self, sizes: Sequence[int], shapes: Sequence[Sequence[int]], *, raw: bool) -> bytes:
        """A whole answer without id, to be filled by `%` with the elements of each output, which have these sizes."""
        key = (raw, tuple(sizes), tuple(shapes))
        made = self._frames.get(key)
        if made is None:
            if len(self._frames) >= _MAX_FRAMES:
                self._frames.clear()
            start = self._begin
            if raw:
                start += b"".join([field(_OUTPUTS, self.output(index, shape)) for index, shape in enumerate(shapes)])
                parts = [begin(_RAW, size) for size in sizes]
            else:
                pairs = zip(shapes, sizes, strict=True)
                parts = [self.typed(index, shape, size) for index, (shape, size) in enumerate(pairs)]
            escaped = [part.replace(b"%", b"%%") + b"%b" for part in parts]
            made = self._frames[key] = start.replace(b"%", b"%%") + b"".join(escaped)
        return made

    def _begin_for(self, version: str) -> bytes:
        return field(_MODEL, self._model.encode()) + field(_VERSION, version.encode())


class Run:
    """The outputs of one run, from which calls take their rows.

    The usual call has one row and wants all outputs: then an answer is a frame filled with slices of bytes, which
    were made once for all rows.
    """

    __slots__ = ("_answers", "_cuts", "_outputs")

    def __init__(self, answers: Answers, outputs: Outputs) -> None:
        self._answers = answers
        self._outputs = outputs
        self._cuts: dict[bool, _Cut | None] = {}  # by whether they are raw

    def answer(
        self,
        identifier: str,
        wanted: Sequence[int] | None,
        first: int,
        last: int,
        *,
        raw: bool,
        texts: dict[int, Array] | None = None,
    ) -> Sequence[Buffer]:
        """Rows `first` to `last` (not included) of some outputs, by their indices; None for all.

        Args:
            texts: arrays of str that stand for some of the wanted outputs, by the indices of these.
        """
        if wanted is None:
            if last - first == 1:
                if raw not in self._cuts:
                    self._cuts[raw] = self._cut(raw)
                cut = self._cuts[raw]
                if cut is not None:
                    made = cut[0] % cut[1][first]
                    return (made + field(_ID, identifier.encode()),) if identifier else (made,)
            wanted = range(len(self._outputs.arrays))
        arrays = {index: self._part(self._outputs.arrays[index], first, last) for index in wanted}
        return self._chosen(identifier, arrays | (texts or {}), raw)

    def _chosen(self, identifier: str, arrays: Mapping[int, Array], raw: bool) -> list[Buffer]:
        """`arrays`: what goes out, in this order, by the indices of outputs."""
        parts: list[Buffer] = [self._answers.begin(self._outputs.revision, identifier)]
        for index, array in arrays.items():
            if raw:
                parts.append(field(_OUTPUTS, self._answers.output(index, array.shape, texts=array.dtype.kind == "O")))
            elif array.dtype.kind == "O":
                parts.append(self._answers.texts(index, array.shape, array.ravel().tolist()))
            else:
                packed = _packed(array)
                parts += (self._answers.typed(index, array.shape, len(packed)), packed)
        if raw:
            for array in arrays.values():
                content = _bytes(array)
                parts += (begin(_RAW, len(content)), content)
        return parts

    def _part(self, array: Array, first: int, last: int) -> Array:
        return array[first:last] if self._outputs.has_rows else array

    def _cut(self, raw: bool) -> _Cut | None:
        """All rows at once, if each is small and takes as many bytes as the others."""
        outputs = self._outputs
        arrays = outputs.arrays
        if not outputs.has_rows or outputs.revision is not None:
            return None
        if sum([array.nbytes for array in arrays]) > _MAX_FRAMED_BYTES * len(arrays[0]):
            return None
        pieces, sizes = [], []
        for array in arrays:
            kind = array.dtype.kind
            if kind == "O" or not array.size:
                return None
            if kind in "iu" and not raw:
                if array.min() < 0 or array.max() >= _NARROW:
                    return None
                array = array.astype(np.uint8)
            data = array.tobytes()
            size = len(data) // len(array)
            sizes.append(size)
            pieces.append([data[start : start + size] for start in range(0, len(data), size)])
        frame = self._answers.frame(sizes, [(1, *array.shape[1:]) for array in arrays], raw=raw)
        return frame, list(zip(*pieces, strict=True))


def _bytes(array: Array) -> Buffer:
    """Elements as raw contents have them."""
    if array.dtype.kind == "O":
        texts = [text.encode() for text in array.ravel().tolist()]
        return b"".join([part for text in texts for part in (len(text).to_bytes(4, "little"), text)])
    return memoryview(np.ascontiguousarray(array).data).cast("B") if array.size else b""


def _packed(array: Array) -> Buffer:
    """Numbers as typed contents have them."""
    if array.dtype.kind not in "iu":
        return _bytes(array)
    if array.size and array.min() >= 0 and array.max() < _NARROW:
        return array.astype(np.uint8).tobytes()
    mask = (1 << 64) - 1  # numbers below zero have ten bytes, whatever their type
    return b"".join([varint(value & mask) for value in cast(list[int], array.ravel().tolist())])
