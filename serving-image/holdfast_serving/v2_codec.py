"""What every wire format of V2 holds a request to, beyond its single tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from holdfast_serving.inference import Call
from holdfast_serving.problems import Problem, quoted
from holdfast_serving.receipts import Sealer
from holdfast_serving.signature import Signature
from holdfast_serving.v2_request import listed


class Codec:
    """Requests for one revision of a model.

    Attributes:
        sealer: of receipts for answers.
        same_rows: whether all inputs of a request must have as many rows, as those that share runs must.
    """

    def __init__(self, signature: Signature) -> None:
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
