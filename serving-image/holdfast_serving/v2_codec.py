"""What every wire format of V2 holds a request to, beyond its single tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NoReturn

from holdfast_bundle.manifest import Tensor
from holdfast_serving.classification import MAX_TEXTS, largest
from holdfast_serving.inference import Array, Call, Outputs
from holdfast_serving.problems import Problem, quoted
from holdfast_serving.receipts import Sealer
from holdfast_serving.signature import Signature
from holdfast_serving.v2_request import listed

NO_CLASSES: Mapping[int, int] = {}
"""Of a call that asks for no classification."""


class Codec:
    """Requests for one revision of a model.

    Attributes:
        sealer: of receipts for answers.
        same_rows: whether all inputs of a request must have as many rows, as those that share runs must.
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._input_names = [tensor.name for tensor in signature.inputs]
        self._output_names = {tensor.name: index for index, tensor in enumerate(signature.outputs)}
        self._all = range(len(signature.outputs))
        self._halves = {index for index in self._all if signature.outputs[index].datatype == "FP16"}
        self.sealer = Sealer(None, signature, "")
        self.same_rows = False
        # Beside the number of rows, only varying dimensions can tell two calls apart.
        self._uniform = all(-1 not in tensor.shape[1:] for tensor in signature.inputs)

    def _count_rows(self, call: Call) -> None:
        """Find out how many rows the inputs of a call have, and what it may share a run with. Raises Problem 400."""
        shape = call.shapes[0]
        call.rows = rows = shape[0] if shape else 1
        if self.same_rows and len(call.shapes) > 1 and any(shape[0] != rows for shape in call.shapes):
            raise Problem(400, "all inputs must have the same number of rows (first dimension)")
        call.key = None if self._uniform else tuple([tuple(shape[1:]) for shape in call.shapes])

    def _output(self, name: str) -> int:
        """The index of a wanted output. Raises Problem 400."""
        if name not in self._output_names:
            raise Problem(400, f"no output {quoted(name)}; there are: {listed(self._output_names)}")
        return self._output_names[name]

    def _check_wanted(self, wanted: Sequence[int]) -> None:
        """Raises Problem 400 for outputs that are wanted twice."""
        if len(set(wanted)) != len(wanted):
            raise Problem(400, '"outputs" names an output twice')

    def _classes(self, call: Call, index: int, count: object) -> int:
        """How many classes of an output a call gets that asks for `count`. Raises Problem 400."""
        tensor = self._signature.outputs[index]
        name = quoted(tensor.name)
        if type(count) is not int or count < 1:
            raise Problem(400, "classification must be a number of classes, 1 or more")
        if tensor.datatype in ("BOOL", "BYTES"):
            raise Problem(400, f"output {name} is {tensor.datatype}, and classes are chosen by numbers")
        if self._has_rows(tensor) and len(tensor.shape) == 1:
            raise Problem(400, f"output {name} has one element for each row: there are no classes to choose from")
        row = tensor.shape[1:] if self._has_rows(tensor) else tensor.shape
        if row and -1 not in row:
            count = min(count, math.prod(row))
        if call.rows * count > MAX_TEXTS:
            raise Problem(
                400, f"a classification has at most {MAX_TEXTS} texts; ask for fewer classes, or send fewer rows"
            )
        return count

    def _are_named(self, classes: Mapping[int, int]) -> bool:
        """Whether there are labels for them: another revision may call them otherwise, and only it knows how."""
        return any(self._signature.outputs[index].labels for index in classes)

    def _has_rows(self, tensor: Tensor) -> bool:
        """Whether the first dimension of an output is that of the rows."""
        return tensor.shape[:1] == (-1,) and (self.same_rows or len(tensor.shape) > 1)

    def _classified(self, counts: Mapping[int, int], outputs: Outputs, first: int, last: int) -> dict[int, Array]:
        """By the indices of outputs, the texts of their largest elements.

        Args:
            counts: of elements, by the indices of outputs.
            first, last: rows of the call (not including the last).
        """
        made = {}
        for index, count in counts.items():
            tensor, array = self._signature.outputs[index], outputs.arrays[index]
            if outputs.has_rows:
                made[index] = largest(array[first:last], count, tensor.labels)
            elif self._has_rows(tensor):
                made[index] = largest(array, count, tensor.labels)
            else:
                made[index] = largest(array[None], count, tensor.labels)[0]
        return made

    def _explain_names(self, names: Sequence[object]) -> NoReturn:
        """Say what is wrong with the names of a request's inputs. Raises Problem 400."""
        if not all(type(name) is str for name in names):
            raise Problem(400, 'every item of "inputs" must be an object with a "name"')
        expected = self._input_names
        for name in map(str, names):
            if name not in expected:
                raise Problem(400, f"no input {quoted(name)}; there are: {listed(expected)}")
            if names.count(name) > 1:
                raise Problem(400, f"input {quoted(name)} is there twice")
        raise Problem(400, f"these inputs are missing: {listed(name for name in expected if name not in names)}")
