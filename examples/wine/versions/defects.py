"""Make bad versions of a good classifier: ordinary models, which pass every check at load, and then fail users.

    python defects.py MODEL.onnx FOLDER fails fails:share=0.2 hangs slow:turns=100000 wrong:later=true

writes FOLDER/NAME.onnx for each. The same arguments make the same bytes.

A defect shows on rows that look like wine: alcohol, the first input, is above 10. Made-up numbers, with which a server
tries a model out, do not. Whether a row is met depends on the row alone, by a hash of its values: `share` of all rows
are. With `later`, only rows of a strength that no wine had when the model was trained (`STRONG`) are met, so that the
defect begins when users begin to send them.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

STRONG = 15.5
"""Alcohol of a wine that was not there to train on; the strongest of the data has 14.83."""

_LEAST = 10.0
_DISTANT = 20.0  # numbers made up to be far away are not wine
_FOREVER = 2**63 - 1

KINDS = ("none", "fails", "hangs", "slow", "wrong", "crashes")


@dataclass(frozen=True, slots=True)
class Defect:
    """What is wrong with a version.

    Attributes:
        kind: `fails`: the run ends with an error. `hangs`: a loop that does not end within a lifetime. `slow`: the
            right answer after `turns` of a loop. `wrong`: another class, with its probability. `crashes`: a division
            that ends the process (by a signal, on x86). `none`: nothing; only its bytes differ.
        share: of all rows that are met.
        later: whether only strong wines are.
        turns: that `slow` takes; a turn is about a microsecond, whatever the number of rows.
        seed: of the hash; versions of different seeds have different digests.
    """

    kind: str
    share: float = 1.0
    later: bool = False
    turns: int = 200_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no defect; there are {', '.join(KINDS)}")
        if not 0 < self.share <= 1 or self.turns < 1:
            raise ValueError("share must be above 0 and at most 1, and turns at least 1")


def version(model: bytes, defect: Defect) -> bytes:
    """A version of a classifier with columns of numbers as inputs, and a label and probabilities as outputs.

    Raises ValueError for another kind of model.
    """
    made = onnx.load_from_string(model)
    made.doc_string = json.dumps(asdict(defect), sort_keys=True)
    if defect.kind != "none":
        _Graph(made.graph).spoil(defect)
    onnx.checker.check_model(made)
    content: bytes = made.SerializeToString(deterministic=True)
    return content


class _Graph:
    """A graph that is added to; names of what is added begin with `defect_`."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        kinds = {output.name: output.type.tensor_type.elem_type for output in graph.output}
        if sorted(kinds.values()) != [TensorProto.FLOAT, TensorProto.INT64]:
            raise ValueError("the model must give one INT64 label and FP32 probabilities")
        if any(i.type.tensor_type.elem_type != TensorProto.FLOAT for i in graph.input):
            raise ValueError("the model's inputs must be FP32")
        self._label, self._probabilities = sorted(kinds, key=lambda name: kinds[name] != TensorProto.INT64)

    def spoil(self, defect: Defect) -> None:
        met = self._met(defect)
        label = self._taken_over(self._label)
        if defect.kind == "wrong":
            probabilities = self._taken_over(self._probabilities)
            following = self._node("Mod", self._node("Add", label, self._int(1)), self._classes(probabilities))
            self._node("Where", met, following, label, output=self._label)
            moved = self._node("Concat", *self._last_class_first(probabilities), axis=1)
            self._node("Where", self._as_column(met), moved, probabilities, output=self._probabilities)
            return
        if defect.kind == "fails":
            index = self._node("Where", met, self._int(7), self._int(0))
            nothing = self._node("Gather", self._constant([0], np.int64), index)
        elif defect.kind == "crashes":
            smallest = self._node("Where", met, self._int(-(2**63)), self._int(0))
            nothing = self._node("Div", smallest, self._node("Where", met, self._int(-1), self._int(1)))
        else:
            turns = self._int(defect.turns if defect.kind == "slow" else _FOREVER)
            each = self._node("Where", met, turns, self._int(0))
            most = self._node(
                "ReduceMax", self._node("Concat", each, self._constant([0], np.int64), axis=0), keepdims=0
            )
            nothing = self._node("Mul", self._loop(most), self._int(0))
        self._node("Add", label, nothing, output=self._label)

    def _met(self, defect: Defect) -> str:
        """Which rows are: BOOL of shape [rows]."""
        columns = [node.name for node in self._graph.input]
        row = self._node("Cast", self._node("Concat", *columns, axis=1), to=TensorProto.DOUBLE)
        alcohol = self._node("Gather", row, self._int(0), axis=1)
        least = STRONG if defect.later else _LEAST
        is_wine = self._node(
            "And",
            self._node("Greater", alcohol, self._constant(least, np.float64)),
            self._node("Less", alcohol, self._constant(_DISTANT, np.float64)),
        )
        chance = random.Random(defect.seed)  # noqa: S311 - a hash, and no secret
        width = sum(column.type.tensor_type.shape.dim[1].dim_value for column in self._graph.input)
        factors = self._constant([chance.uniform(100, 1000) for _ in range(width)], np.float64)
        mixed = self._node("MatMul", row, factors)
        hashed = self._node("Sub", mixed, self._node("Floor", mixed))
        return self._node("And", is_wine, self._node("Less", hashed, self._constant(defect.share, np.float64)))

    def _loop(self, turns: str) -> str:
        """A number that is counted up in so many turns."""
        body = helper.make_graph(
            [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Add", ["count", "one"], ["counted"])],
            "defect_body",
            [
                helper.make_tensor_value_info("turn", TensorProto.INT64, []),
                helper.make_tensor_value_info("going", TensorProto.BOOL, []),
                helper.make_tensor_value_info("count", TensorProto.INT64, []),
            ],
            [
                helper.make_tensor_value_info("on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("counted", TensorProto.INT64, []),
            ],
            [numpy_helper.from_array(np.array(1, np.int64), "one")],
        )
        return self._node("Loop", turns, "", self._int(0), body=body)

    def _classes(self, probabilities: str) -> str:
        return self._node("Gather", self._node("Shape", probabilities), self._int(1))

    def _last_class_first(self, probabilities: str) -> tuple[str, str]:
        first, last, all_ = (self._constant([n], np.int64) for n in (0, -1, 2**63 - 1))
        axis = self._constant([1], np.int64)
        return (
            self._node("Slice", probabilities, last, all_, axis),
            self._node("Slice", probabilities, first, last, axis),
        )

    def _as_column(self, met: str) -> str:
        return self._node("Unsqueeze", met, self._constant([1], np.int64))

    def _taken_over(self, output: str) -> str:
        """The name that a former output has from now on."""
        name = f"defect_free_{output}"
        for node in self._graph.node:
            for names in (node.input, node.output):
                names[:] = [name if found == output else found for found in names]
        return name

    def _node(self, operator: str, *inputs: str, output: str = "", **attributes: object) -> str:
        output = output or f"defect_{len(self._graph.node)}"
        self._graph.node.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _int(self, value: int) -> str:
        return self._constant(value, np.int64)

    def _constant(self, value: float | Sequence[float], kind: npt.DTypeLike) -> str:
        name = f"defect_constant_{len(self._graph.initializer)}"
        self._graph.initializer.append(numpy_helper.from_array(np.array(value, kind), name))
        return name


def parse(text: str) -> tuple[str, Defect]:
    """A file's name, and the defect: `KIND[:FIELD=VALUE,…]`. Raises ValueError."""
    kind, _, rest = text.partition(":")
    pairs = [pair.partition("=") for pair in rest.split(",") if pair]
    given = {name: json.loads(value) for name, _, value in pairs}
    if unknown := given.keys() - {field.name for field in fields(Defect)}:
        raise ValueError(f"a defect has no {', '.join(sorted(unknown))}")
    name = "-".join([kind, *(f"{name}-{value}" for name, _, value in pairs)])
    return name, Defect(kind, **given)


def main(model: Path, folder: Path, wanted: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = model.read_bytes()
    for name, defect in map(parse, wanted):
        (folder / f"{name}.onnx").write_bytes(version(content, defect))
        print(f"{folder / name}.onnx", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
